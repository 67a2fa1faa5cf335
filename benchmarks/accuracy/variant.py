"""Workspaces for the studies: some models, some probes, some labels, run in full or in part, completed and indexed.

Everything after the responses is hubprobe itself: completion, index, calibration and bridge are what a user gets.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import completion
import search
from benchmarks.accuracy.collection import Collection, Model
from benchmarks.accuracy.encoder import captions
from probing import responses
from workspace import Config, Workspace, model_file_name, records, runs
from workspace.files import short_hash, write_table

Ids = NDArray[np.int64]

Labels = Callable[[Model], "list[str] | None"]
"""A model's labels, or None for a model that shows none."""


def told(collection: Collection) -> Labels:
    """Return honest labels for every model."""
    return lambda model: [collection.names[c] if c else "" for c in model.concepts]


def hidden(_: Model) -> None:
    """Return no labels for any model."""


def build(
    root: Path,
    collection: Collection,
    models: Sequence[Model],
    *,
    labels: Labels,
    columns: Ids | None = None,
    run: Mapping[str, Ids] | None = None,
    drawn: Mapping[str, Ids] | None = None,
    settings: completion.Settings | None = None,
    index: bool = True,
) -> Workspace:
    """Write a workspace anew, complete it and index it.

    Args:
        root: its folder; emptied.
        collection: for the probes.
        models: which models are in it.
        labels: what they say of themselves.
        columns: which probes are in it; all when None.
        run: the probes each model was run on, as places in ``columns``; all when a model is missing.
        drawn: those of them that were drawn at random, of adaptively probed models.
        settings: of the completion.
        index: build the index, too.
    """
    shutil.rmtree(root, ignore_errors=True)
    workspace = Workspace.create(root, Config())
    columns = np.arange(collection.probes.num_rows) if columns is None else columns
    _write_probes(workspace, collection, columns)
    catalog, attempts = [], []
    for model in models:
        own = labels(model)
        ids = None if run is None else run.get(model.repo_id)
        sha = hashlib.sha1(model.repo_id.encode()).hexdigest()
        _write_responses(workspace, model, sha, columns, own, ids, None if drawn is None else drawn.get(model.repo_id))
        quality = "LABEL_i" if own is None else "named"
        catalog.append(
            {
                "id": model.repo_id, "sha": sha, "label_quality": quality, "crawled_at": runs.now(),
                "eligibility": "eligible", "reason": "", "num_labels": len(model.raw),
            }
        )  # fmt: skip
        attempts.append(
            {
                "repo_id": model.repo_id, "sha": sha, "attempt": 1, "outcome": "ok", "status": "ok", "reason": "",
                "started_at": runs.now(), "num_logits": len(model.raw), "probe_set": workspace.probe_set,
                "probes_run": columns.size if ids is None else ids.size,
            }
        )  # fmt: skip
    write_table(workspace.catalog_dir / "part.parquet", pa.Table.from_pylist(catalog, schema=records.CATALOG))
    write_table(workspace.attempts_dir / "part.parquet", pa.Table.from_pylist(attempts, schema=records.ATTEMPTS))
    if settings is None and run is None:
        settings = completion.Settings(rank=4, iterations=0)  # nothing is missing: the factors are not used
    completion.complete(workspace, settings, progress=False)
    if index:
        search.index(workspace, encoder=captions(), progress=False)
    return workspace


def open_index(workspace: Workspace) -> search.Index:
    """Open what `build` made."""
    return search.open(workspace, encoder=captions())


def _write_probes(workspace: Workspace, collection: Collection, columns: Ids) -> None:
    chosen = collection.probes.take(pa.array(columns))
    hashes = chosen.column("image_hash").to_pylist()
    table = pa.table(
        {
            "probe_id": pa.array(np.arange(columns.size), pa.int32()),
            "image": pa.array([{"bytes": b"", "path": None}] * columns.size, records.PROBES.field("image").type),
            **{name: chosen.column(name) for name in ("image_hash", "width", "height", "caption", "source")},
            "license": pa.nulls(columns.size, pa.string()),
        },
        schema=records.PROBES,
    )
    probe_set = short_hash("".join(hashes))
    write_table(workspace.probes_dir(probe_set) / "probes.parquet", table)
    workspace.use_probe_set(probe_set)


def _write_responses(
    workspace: Workspace,
    model: Model,
    sha: str,
    columns: Ids,
    labels: Sequence[str] | None,
    ids: Ids | None,
    drawn: Ids | None,
) -> None:
    ids = np.arange(columns.size) if ids is None else np.sort(ids)
    raw = np.ascontiguousarray(model.raw[:, columns[ids]].T)
    random_ids = None if drawn is None else np.sort(drawn).astype(np.int32)
    table = responses.table(model.repo_id, sha, raw, ids.astype(np.int32), labels, random_ids)
    path = workspace.responses_dir(workspace.probe_set) / f"{model_file_name(model.repo_id, sha)}.parquet"
    write_table(path, table)
