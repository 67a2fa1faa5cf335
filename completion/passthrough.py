"""Descriptors of fully probed models: their responses as they are, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from workspace.records import descriptors

Model = tuple[str, str]
"""A model's key: ``(repo_id, sha)``."""


@dataclass(frozen=True)
class ModelResponses:
    """One model's rows of a responses table.

    Attributes:
        key: the model.
        rows: its logits, in order of ``logit``.
        probe_ids: probes run, int32 ascending, shape ``(observed,)``.
    """

    key: Model
    rows: pa.Table
    probe_ids: np.ndarray


def models_of(table: pa.Table) -> Iterator[ModelResponses]:
    """Split a responses table by model, in order of the key.

    Raises `ValueError` when a model's logit 0 does not say which probes were run: the file is damaged.
    """
    table = table.sort_by([("repo_id", "ascending"), ("sha", "ascending"), ("logit", "ascending")])
    keys = list(zip(table["repo_id"].to_pylist(), table["sha"].to_pylist(), strict=True))
    start = 0
    for end in range(1, len(keys) + 1):
        if end == len(keys) or keys[end] != keys[start]:
            rows = table.slice(start, end - start)
            probes = rows["probe_ids"][0].values
            if probes is None:
                raise ValueError(f"{keys[start][0]}: its first row does not list the probes that were run")
            yield ModelResponses(keys[start], rows, np.asarray(probes, np.int32))
            start = end


def full_descriptors(model: ModelResponses, n_probes: int) -> pa.Table:
    """Return the descriptors of a fully probed model; logits excluded as constant or not finite have none."""
    rows = model.rows.filter(pc.is_null(model.rows["excluded"]))
    flat = pc.list_flatten(rows["response"]).combine_chunks()
    if len(flat) != rows.num_rows * n_probes:
        raise ValueError(f"{model.key[0]}: its responses do not have one value for each of {n_probes} probes")
    columns = {name: rows[name] for name in ("repo_id", "sha", "logit", "label", "mean", "std")}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, n_probes)
    columns["observed"] = pa.nulls(rows.num_rows, pa.binary())
    columns["variance"] = pa.array(np.zeros(rows.num_rows, np.float32))
    return pa.table(columns, schema=descriptors(n_probes))
