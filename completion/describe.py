"""Descriptors of one model: what was run as it was run, what was not by its posterior mean."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from completion.factors import Completer
from completion.gallery import ModelResponses, block, moments
from workspace.records import descriptors

_CARRIED = ("repo_id", "sha", "logit", "label", "mean", "std")


def full_descriptors(model: ModelResponses, n_probes: int) -> pa.Table:
    """Return the descriptors of a fully probed model, bit-equal; excluded logits have none."""
    rows = model.searchable()
    flat = pc.list_flatten(rows["response"]).combine_chunks()
    columns = {name: rows[name] for name in _CARRIED}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, n_probes)
    columns["observed"] = pa.nulls(rows.num_rows, pa.binary())
    columns["variance"] = pa.array(np.zeros(rows.num_rows, np.float32))
    columns["deviation"] = pa.nulls(rows.num_rows, pa.list_(pa.float16()))
    return pa.table(columns, schema=descriptors(n_probes))


def completed_descriptors(model: ModelResponses, completer: Completer, n_probes: int, device: str) -> pa.Table:
    """Return the descriptors of a partially probed model.

    Responses to a random share of the probes are kept as they are. Where probes were chosen by predicted response,
    all are put in deviations from the mean over the random ones, and ``mean`` and ``std`` are those.
    """
    rows = model.searchable()
    mean, deviation = moments(model)
    values, variance = completer.complete(block(model).to(device))
    vectors = values.cpu().numpy().astype(np.float16)
    spread = variance.cpu().numpy()
    run = np.zeros(n_probes, np.bool_)
    run[model.probe_ids] = True
    count = rows.num_rows
    columns = {name: rows[name] for name in _CARRIED}
    old_mean, old_std = (rows[name].to_numpy().astype(np.float32) for name in ("mean", "std"))
    columns["mean"] = pa.array(old_mean + old_std * mean[:, 0])
    columns["std"] = pa.array(old_std * deviation[:, 0])
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n_probes)
    columns["observed"] = pa.array([np.packbits(run).tobytes()] * count, pa.binary())
    columns["variance"] = pa.array(np.full(count, spread[~run].mean(), np.float32))
    shared = [np.sqrt(spread).astype(np.float16)] + [None] * (count - 1)
    columns["deviation"] = pa.array(shared[:count], pa.list_(pa.float16()))
    return pa.table(columns, schema=descriptors(n_probes))
