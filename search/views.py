"""The tables that SQL reads, by name: the workspace's own records and the index's, every one with `repo_id` and `sha`.

Names are in snake case; the Hub's own (``id``, ``createdAt``) stay at the end of a table for those who know them.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from search.concepts import read_concepts
from search.store import versions
from search.store.tables import read_logits, read_models, snake_case
from workspace import MissingStepError, Workspace
from workspace.files import read_json, replacing

VIEWS = frozenset({"attempts", "catalog", "concepts", "logits", "models", "probes", "runs"})
"""``concepts``, ``logits`` and ``models`` are the index's; the others are the workspace's own records."""

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("verb", pa.string()),
        ("started_at", pa.timestamp("s", tz="UTC")),
        ("config_hash", pa.string()),
        ("manifest", pa.string()),  # the whole manifest as JSON: manifest->>'$.counts.ok'
    ]
)


def read_view(workspace: Workspace, name: str) -> pa.Table:
    """Return the table ``name``, one of `VIEWS`; raises `MissingStepError` when it is not there yet."""
    if name in ("concepts", "logits", "models"):
        return _of_index(workspace, name)
    if name == "runs":
        return _runs(workspace)
    if name == "probes":
        columns = ["probe_id", "image_hash", "width", "height", "caption", "source", "license"]
        return workspace.probes(columns)
    return everyday(workspace.catalog()) if name == "catalog" else workspace.attempts(history=True)


def _of_index(workspace: Workspace, name: str) -> pa.Table:
    """Read a table of the version in use, without what searching it needs."""
    folder, _, held = versions.open_current(workspace)
    with held or nullcontext():
        models = read_models(folder)
        if name == "models":
            return everyday(models.drop_columns(["model"]))
        if name == "concepts":
            return read_concepts(folder, models)
        logits = read_logits(folder)
    columns = {
        key: pa.DictionaryArray.from_arrays(
            logits.column("model").combine_chunks(), models.column(key).combine_chunks()
        )
        for key in ("repo_id", "sha")
    }
    columns |= {n: logits.column(n) for n in logits.column_names if n not in ("model", "peak")}
    return pa.table(columns)


def _runs(workspace: Workspace) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for path in sorted(workspace.runs_dir.glob("*.json")):
        content = read_json(path)
        stamp, _, rest = path.stem.partition("-")
        try:
            started = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        except ValueError:  # a file of somebody else's in that folder
            continue
        verb = rest.rpartition("-")[0] or rest
        row = {"run_id": path.stem, "verb": verb, "started_at": started, "config_hash": content.get("config_hash")}
        rows.append({**row, "manifest": json.dumps(content)})
    return pa.Table.from_pylist(rows, schema=RUNS)


def everyday(table: pa.Table) -> pa.Table:
    """Return ``table`` with everyday names, ``is_gated`` as true or false, and the Hub's names at the end."""
    columns = {snake_case(name): table.column(name) for name in table.column_names}
    if "gated" in columns:
        columns["is_gated"] = pc.not_equal(columns["gated"], "false")
    return pa.table(columns | {name: table.column(name) for name in table.column_names})


def attach(workspace: Workspace, path: Path) -> dict[str, int]:
    """Write every table that is there into a DuckDB file, as it is now; return rows by table.

    Any client of DuckDB opens the file, without this workspace. It takes the place of ``path`` when it is complete.
    """
    import duckdb

    rows: dict[str, int] = {}
    with replacing(path) as temporary:
        connection = duckdb.connect(str(temporary))
        for name in sorted(VIEWS):
            try:
                table = read_view(workspace, name)
            except MissingStepError:
                continue
            connection.register("arriving", table)
            connection.execute(f"CREATE TABLE {name} AS SELECT * FROM arriving")
            connection.unregister("arriving")
            rows[name] = table.num_rows
        connection.close()
    return rows
