"""The tables that SQL sees, each read from the workspace when a statement names it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from workspace import Workspace
from workspace.files import read_json

if TYPE_CHECKING:
    from search.reader import Index

VIEWS = frozenset({"attempts", "catalog", "logits", "models", "probes", "runs"})
"""``models`` and ``logits`` are the index's; the others are the workspace's own records."""

RUNS = pa.schema(
    [
        ("run_id", pa.string()),
        ("verb", pa.string()),
        ("started_at", pa.timestamp("s", tz="UTC")),
        ("config_hash", pa.string()),
        ("manifest", pa.string()),  # the whole manifest as JSON: manifest->>'$.counts.ok'
    ]
)


class Views:
    """Reads tables by name.

    Args:
        workspace: whose tables.
        index: an open index, or None to open it when it is needed.
    """

    def __init__(self, workspace: Workspace, index: Index | None) -> None:
        self._workspace, self._index = workspace, index

    @property
    def index(self) -> Index:
        """The open index; raises `MissingStepError` when there is none."""
        if self._index is None:
            from search.reader import Index

            self._index = Index(self._workspace)
        return self._index

    def table(self, name: str) -> pa.Table:
        """Return the table ``name``, one of `VIEWS`."""
        if name == "models":
            return self.index.gallery.models.drop_columns(["model"])
        if name == "logits":
            return self._logits()
        if name == "runs":
            return self._runs()
        if name == "probes":
            columns = ["probe_id", "image_hash", "width", "height", "caption", "source", "license"]
            return self._workspace.probes(columns)
        return self._workspace.catalog() if name == "catalog" else self._workspace.attempts(history=True)

    def _logits(self) -> pa.Table:
        gallery = self.index.gallery
        models = pa.array(gallery.model_of)
        keys = {
            name: pa.DictionaryArray.from_arrays(models, gallery.models.column(name).combine_chunks())
            for name in ("repo_id", "sha")
        }
        return pa.table(
            {**keys, **{n: gallery.logits.column(n) for n in gallery.logits.column_names if n not in ("model", "peak")}}
        )

    def _runs(self) -> pa.Table:
        rows: list[dict[str, Any]] = []
        for path in sorted(self._workspace.runs_dir.glob("*.json")):
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
