"""From raw outputs to the rows of `records.RESPONSES`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from workspace import ModelError, Status, WorkspaceError, records
from workspace.files import read_file, write_table
from workspace.holes import contents_note

_log = logging.getLogger(__name__)

CONSTANT = 2.0**-20
"""An output is constant when its standard deviation is at most this share of its largest magnitude: 8 units in the
last place of a float32, which is what the order of a sum can make of one and the same number."""

ROW_GROUP_BYTES = 8 * 1024 * 1024
"""Size of a row group's vectors, in bytes before compression."""

_CHUNK = 1024  # logits turned to z-scores at a time: bounds the float64 copies


def logsumexp(raw: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the log-sum-exp of ``raw`` [probes, logits] over its finite logits, per probe, summed in float64."""
    result = np.empty(len(raw), np.float32)
    for start in range(0, len(raw), 256):
        part = raw[start : start + 256].astype(np.float64)
        part[~np.isfinite(part)] = -np.inf
        top = part.max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            result[start : start + 256] = top + np.log(np.exp(part - top[:, None]).sum(axis=1))
    return result


@dataclass(frozen=True)
class Earlier:
    """What an earlier attempt left.

    Attributes:
        raw: float32 [probes, logits], rebuilt from the stored z-scores. These are float16, so a rebuilt response is off
            by at most 2^-11 of itself; NaN where it was not finite.
        probe_ids: its probes, ascending.
        random_ids: those drawn at random; None when all were.
    """

    raw: npt.NDArray[np.float32]
    probe_ids: npt.NDArray[np.int32]
    random_ids: npt.NDArray[np.int32] | None = None

    def merged(
        self, raw: npt.NDArray[np.float32], probe_ids: npt.NDArray[np.int32]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
        """Return these responses and new ones together, in ascending order of probes.

        Raises `ModelError` (``wrong_shape``) when the number of logits is another.
        """
        if raw.shape[1] != self.raw.shape[1]:
            raise ModelError(
                Status.WRONG_SHAPE, f"has {raw.shape[1]} outputs now, and had {self.raw.shape[1]} when it was run first"
            )
        ids = np.concatenate([self.probe_ids, probe_ids])
        order = np.argsort(ids, kind="stable")
        return np.concatenate([self.raw, raw])[order], ids[order]


def read_earlier(path: Path) -> Earlier | None:
    """Return the responses in ``path``, or None when there are none that can be read: then all are run."""
    if not path.exists():
        return None
    try:
        rows = read_file(path, records.RESPONSES)
        first = rows.slice(0, 1).to_pylist()[0]
        ids = np.asarray(first["probe_ids"], np.int32)
        drawn = first["random_ids"]
        raw = np.empty((len(ids), rows.num_rows), np.float32)
        for i, row in enumerate(rows.select(["mean", "std", "response"]).to_pylist()):
            if row["response"] is not None:
                raw[:, i] = np.asarray(row["response"], np.float32) * row["std"] + row["mean"]
            else:  # constant: the mean is all there is; not finite: there is none
                raw[:, i] = np.nan if row["mean"] is None else row["mean"]
    except (WorkspaceError, IndexError, TypeError, ValueError) as error:
        _log.warning("%s cannot be read (%s): all its probes are run", path.name, error)
        return None
    return Earlier(raw, ids, None if drawn is None else np.asarray(drawn, np.int32))


def table(
    repo_id: str,
    sha: str,
    raw: npt.NDArray[np.float32],
    probe_ids: Sequence[int] | npt.NDArray[np.int32],
    labels: Sequence[str] | None,
    random_ids: npt.NDArray[np.int32] | None = None,
) -> pa.Table:
    """Return the rows of one model.

    Args:
        repo_id: the model.
        sha: its commit.
        raw: float32 [probes run, logits], outputs before any softmax.
        probe_ids: the probes run, ascending, one per row of ``raw``.
        labels: name of each output, or None.
        random_ids: those of ``probe_ids`` that were drawn at random, where the others were chosen.

    Raises `ModelError` (``nonfinite_output``, ``constant_output``) when no logit can be searched.
    """
    count, width = raw.shape
    means, stds = np.empty(width, np.float64), np.empty(width, np.float64)
    z = np.zeros((width, count), np.float16)
    excluded = np.full(width, "", dtype="U9")
    for start in range(0, width, _CHUNK):
        part = raw[:, start : start + _CHUNK].astype(np.float64).T
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            mean, std = part.mean(axis=1), part.std(axis=1)
            constant = std <= CONSTANT * np.abs(part).max(axis=1, initial=0.0)
            finite = np.isfinite(part).all(axis=1)
            # the standard deviation of a float32's extremes still fits a float64, but not always the stored float32
            finite &= np.isfinite(mean.astype(np.float32)) & np.isfinite(std.astype(np.float32))
            z[start : start + _CHUNK] = np.where(
                (finite & ~constant)[:, None], (part - mean[:, None]) / std[:, None], 0.0
            )
        means[start : start + _CHUNK], stds[start : start + _CHUNK] = mean, std
        excluded[start : start + _CHUNK] = np.where(finite, np.where(constant, "constant", ""), "nonfinite")
    if (excluded != "").all():
        broken = int((excluded == "nonfinite").sum())
        if broken:
            raise ModelError(Status.NONFINITE_OUTPUT, f"{broken} of {width} outputs are NaN or infinite, none varies")
        raise ModelError(Status.CONSTANT_OUTPUT, f"each of its {width} outputs is the same for all {count} probes")
    none = [None] * (width - 1)
    first = pa.array([list(map(int, probe_ids)), *none], pa.list_(pa.int32()))
    drawn = pa.array([None if random_ids is None else random_ids.tolist(), *none], pa.list_(pa.int32()))
    lse = pa.array([logsumexp(raw), *none], pa.list_(pa.float32()))
    gone = excluded == "nonfinite"
    columns = {
        "repo_id": pa.repeat(pa.scalar(repo_id), width),
        "sha": pa.repeat(pa.scalar(sha), width),
        "logit": pa.array(np.arange(width, dtype=np.int32)),
        "label": pa.array([(labels[i] or None) if labels is not None else None for i in range(width)], pa.string()),
        "mean": pa.array(means.astype(np.float32), mask=gone),
        "std": pa.array(stds.astype(np.float32), mask=gone),
        "excluded": pa.array([e or None for e in excluded.tolist()], pa.string()),
        "response": _lists(z, excluded != ""),
        "probe_ids": first,
        "logsumexp": lse,
        "random_ids": drawn,
    }
    return pa.table([columns[name] for name in records.RESPONSES.names], schema=records.RESPONSES)


def _lists(z: npt.NDArray[np.float16], null: npt.NDArray[np.bool_]) -> pa.ListArray:
    kept = z[~null]
    lengths = np.where(null, 0, z.shape[1])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    if int(lengths.sum()) > np.iinfo(np.int32).max:
        raise ModelError(Status.TOO_MANY_LABELS, "more than 2^31 responses: lists of 32-bit offsets cannot hold them")
    mask = pa.array(null) if null.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(kept.reshape(-1)), mask=mask)


def write(path: Path, rows: pa.Table) -> int:
    """Write ``rows`` to ``path`` atomically, in row groups of about `ROW_GROUP_BYTES`; return the size in bytes.

    The footer says which models they are of, so that `workspace.holes` need not read them.
    """
    per_row = max(1, rows.column("response").nbytes // max(1, rows.num_rows))
    write_table(path, rows, row_group_rows=max(1, ROW_GROUP_BYTES // per_row), notes=contents_note(rows))
    return path.stat().st_size
