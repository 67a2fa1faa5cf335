"""The index's two metadata tables: what is known of every probed model, and of every logit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from workspace import Workspace
from workspace.files import table_files
from workspace.records import ATTEMPTS, CATALOG

_FROM_CATALOG = (
    "author", "createdAt", "lastModified", "pipeline_tag", "library_name", "tags", "downloads", "likes", "gated",
    "license", "base_models", "model_type", "architectures", "num_labels", "label_quality", "problem_type",
    "image_size", "weights_bytes", "card_summary", "crawled_at",
)  # fmt: skip
_FROM_ATTEMPTS = ("architecture", "processor", "dtype", "device", "probes_run", "num_excluded", "bytes_fetched")

MODELS = pa.schema(
    [
        pa.field("model", pa.int32(), nullable=False),  # position in this index, what logits.model points to
        pa.field("repo_id", pa.string(), nullable=False),
        pa.field("sha", pa.string(), nullable=False),
        *(pa.field(name, CATALOG.field(name).type) for name in _FROM_CATALOG),
        pa.field("parameters", pa.int64()),
        pa.field("num_logits", pa.int32(), nullable=False),  # searchable ones: those with a descriptor
        *(pa.field(name, ATTEMPTS.field(name).type) for name in _FROM_ATTEMPTS),
        pa.field("seconds", pa.float32()),  # all phases of its last attempt
        pa.field("family", pa.string(), nullable=False),  # first indexed of its near-copies; itself without any
    ]
)
"""One row per model with a descriptor, in order of ``model``. Names are the catalog's and the attempts' own."""

LOGITS = pa.schema(
    [
        pa.field("model", pa.int32(), nullable=False),
        pa.field("logit", pa.int32(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("mean", pa.float32()),  # of the raw responses
        pa.field("std", pa.float32()),  # of the raw responses, ddof = 0
        pa.field("observed", pa.float32(), nullable=False),  # share of the probes that were run, 0 to 1
        pa.field("peak", pa.float32(), nullable=False),  # norm of its squared positive responses, over all probes
        pa.field("variance", pa.float32(), nullable=False),  # mean posterior variance of the others
    ]
)
"""One row per logit, in the order of the tiles. Its model's key is ``models`` at ``model``."""

_PHASES = ("seconds_fetch", "seconds_load", "seconds_preprocess", "seconds_forward", "seconds_write")


def models_table(workspace: Workspace, keys: Sequence[tuple[str, str]], counts: Sequence[int]) -> pa.Table:
    """Return the table `MODELS` for the models ``keys``, ``counts`` logits each.

    Facts that change without a commit (downloads, likes, tags) come from the newest catalog row of the repository;
    a model without one (a catalog started over) keeps its key and nulls. ``family`` is the model itself.
    """
    catalog: dict[str, dict[str, Any]] = {}
    if table_files(workspace.catalog_dir):
        wanted = {repo_id for repo_id, _ in keys}
        columns = ["id", *_FROM_CATALOG, "safetensors"]
        catalog = {r["id"]: r for r in workspace.catalog(columns).to_pylist() if r["id"] in wanted}
    columns = ["repo_id", "sha", "parameters", *_FROM_ATTEMPTS, *_PHASES]
    attempts = {(r["repo_id"], r["sha"]): r for r in workspace.attempts(columns).to_pylist()}
    rows = []
    for position, (key, count) in enumerate(zip(keys, counts, strict=True)):
        listed, tried = catalog.get(key[0], {}), attempts.get(key, {})
        row: dict[str, Any] = {"model": position, "repo_id": key[0], "sha": key[1], "num_logits": count}
        row |= {name: listed.get(name) for name in _FROM_CATALOG}
        row |= {name: tried.get(name) for name in _FROM_ATTEMPTS}
        row["parameters"] = tried.get("parameters") or (listed.get("safetensors") or {}).get("total")
        phases = [tried.get(name) for name in _PHASES]
        row["seconds"] = None if all(p is None for p in phases) else float(sum(p or 0.0 for p in phases))
        row["family"] = key[0]
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=MODELS)


def with_families(models: pa.Table, first: Sequence[int]) -> pa.Table:
    """Return ``models`` with every family named after the repository of its first member."""
    repos = models.column("repo_id").to_pylist()
    column = pa.array([repos[i] for i in first], pa.string())
    return models.set_column(models.column_names.index("family"), MODELS.field("family"), column)
