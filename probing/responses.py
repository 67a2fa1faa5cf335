"""From raw outputs to the rows of `records.RESPONSES`, and those merged into shards.

A model's responses are written to a file of its own, because that is what is replaced whole when it is run again. At
the end of a run the small ones are merged into shards; shards that hold a model to be run again are split before it is.
Two files must never hold the same rows, and a kill must lose none: so the folder's next content is made beside it, of
hard links and new files, and takes its place by two renames (`_exchange`). `recover` ends what a kill interrupted.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from probing import inflight
from workspace import ModelError, Status, Workspace, WorkspaceError, model_file_name, records
from workspace.errors import DamagedFileError
from workspace.files import (
    TEMPORARY_PREFIX,
    canonical_json,
    read_file,
    set_aside,
    sha256_of,
    short_hash,
    table_files,
    write_table,
)
from workspace.holes import SHARD_PREFIX, Key, contents, contents_note

_log = logging.getLogger(__name__)
T = TypeVar("T")

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
    """What an earlier attempt left."""

    # float32 [probes, logits], rebuilt from the stored z-scores. These are float16, so a rebuilt response is off by at
    # most 2^-11 of itself; NaN where it was not finite.
    raw: npt.NDArray[np.float32]
    probe_ids: npt.NDArray[np.int32]  # its probes, ascending
    random_ids: npt.NDArray[np.int32] | None = None  # those drawn at random; None when all were

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


LEAST = 64
"""Files from which on compacting is worth it: one row of 38 columns takes 20 KB on its own, 0.2 KB in company."""

SHARD_BYTES = 128 * 1024**2
"""Size of a shard of responses, in bytes: half of what the Hub's viewer reads at once. Files half as large stay."""

_KEY = ["repo_id", "sha", "attempt"]


def compact_attempts(workspace: Workspace, *, least: int = LEAST) -> int:
    """Merge the files of ``attempts/`` into one when there are at least ``least``; return how many were merged.

    The new file is complete before the old ones are deleted. A kill in between leaves rows twice, equal ones, which
    every reader of attempts takes as one and the next compaction removes.
    """
    files = table_files(workspace.attempts_dir)
    if sum(not f.name.startswith(SHARD_PREFIX) for f in files) < least:
        return 0
    if not workspace.owns(workspace.attempts_dir):
        _log.warning("%s leads out of the workspace: nothing is merged there", workspace.attempts_dir)
        return 0
    table = pa.concat_tables([read_file(f, records.ATTEMPTS) for f in files])
    order = table.sort_by([(name, "ascending") for name in _KEY])
    keys = list(zip(*(order.column(name).to_pylist() for name in _KEY), strict=True))
    kept = order.filter(pa.array([i == 0 or keys[i] != keys[i - 1] for i in range(len(keys))]))
    path = workspace.attempts_dir / f"{SHARD_PREFIX}{short_hash(canonical_json(sorted(set(keys))))}.parquet"
    write_table(path, kept)
    for file in files:
        if file != path:
            file.unlink(missing_ok=True)
    _log.info("merged %d files of attempts into %s", len(files), path.name)
    return len(files)


def compact_responses(workspace: Workspace, probe_set: str, *, least: int = LEAST) -> int:
    """Merge the responses of committed models into shards when at least ``least`` have small files of their own.

    Returns how many were merged. Shards are named by their content and not merged again. Nothing is done while any
    model is in flight: one process writes here.
    """
    folder = workspace.responses_dir(probe_set)
    if inflight.any_running(workspace):
        return 0
    if not workspace.owns(folder):
        _log.warning("%s leads out of the workspace: nothing is merged there", folder)
        return 0
    rows = workspace.attempts(["repo_id", "sha", "status", "probe_set"]).to_pylist()
    done = {
        model_file_name(r["repo_id"], r["sha"])
        for r in rows
        if r["status"] == Status.OK.value and r["probe_set"] == probe_set
    }
    small = [f for f in table_files(folder) if f.stem in done and f.stat().st_size < SHARD_BYTES // 2]
    if len(small) < least:
        return 0
    with _exchange(folder) as (following, drop):
        for group in _shards(small):
            read = {f: _sound(following / f.name, read_file, records.RESPONSES) for f in group}
            tables = {f: table for f, table in read.items() if table is not None}
            digests = sorted(sha256_of(f) for f in tables)
            name = f"{SHARD_PREFIX}{short_hash(canonical_json(digests))}.parquet"
            if tables:
                write(following / name, pa.concat_tables(tables.values()))
            drop += [f.name for f in tables]
    return len(drop)


def _sound(path: Path, read: Callable[..., T], *schema: pa.Schema) -> T | None:
    """Return what ``read`` makes of a file; None when it is damaged: it is set aside, and its models run again."""
    try:
        return read(path, *schema)
    except DamagedFileError as error:
        _log.warning("%s: kept as %s; the next 'hubprobe probe' runs its models again", error, set_aside(path).name)
        return None


def split_responses(workspace: Workspace, probe_set: str, models: Collection[tuple[str, str]]) -> int:
    """Give the models of every shard that holds one of ``models`` files of their own again; return how many shards.

    A shard that cannot be read is set aside and counted: its models are holes from then on.
    """
    folder, wanted = workspace.responses_dir(probe_set), set(models)
    shards = [path for path in table_files(folder) if path.name.startswith(SHARD_PREFIX)]
    hit = [path for path in shards if not wanted.isdisjoint(_sound(path, contents) or ())]
    if not hit:
        return 0
    workspace.require_own(folder)
    with _exchange(folder) as (following, drop):
        for path in hit:
            table = _sound(following / path.name, read_file, records.RESPONSES)
            if table is None:
                continue
            starts = [i for i, logit in enumerate(table.column("logit").to_pylist()) if logit == 0]
            for start, end in zip(starts, [*starts[1:], table.num_rows], strict=True):  # a model's rows are together
                first = table.slice(start, 1).to_pylist()[0]
                name = f"{model_file_name(first['repo_id'], first['sha'])}.parquet"
                write(following / name, table.slice(start, end - start))
            drop.append(path.name)
    return len(hit)


def mend(workspace: Workspace) -> None:
    """Set damaged files of attempts aside, so that their models are run again. Call it before a plan is made."""
    for path in table_files(workspace.attempts_dir):
        _sound(path, read_file, records.ATTEMPTS)


def set_holes_aside(workspace: Workspace, probe_set: str, models: Collection[Key]) -> None:
    """Set aside what is left of the responses of ``models``, which are holes: nothing must be added to it."""
    for key in models:
        path = workspace.responses_dir(probe_set) / f"{model_file_name(*key)}.parquet"
        if path.exists():
            _log.warning("%s is not what was committed for %s: kept as %s", path, key[0], set_aside(path).name)


def recover(workspace: Workspace, probe_set: str) -> None:
    """End or undo the exchange of the folder of responses that a kill interrupted. Call it before anything is read."""
    folder = workspace.responses_dir(probe_set)
    if not workspace.owns(folder):
        return
    old, ready, unfinished = _beside(folder)
    if not folder.exists():
        for made in (ready, old):
            if made.exists():
                _log.warning("ending the compaction of %s that was interrupted", folder.name)
                made.rename(folder)
                break
    for path in (old, ready, unfinished):
        shutil.rmtree(path, ignore_errors=True)


def _shards(files: list[Path]) -> Iterator[list[Path]]:
    """Yield ``files`` in groups of about `SHARD_BYTES`."""
    group: list[Path] = []
    for path in files:
        group.append(path)
        if sum(f.stat().st_size for f in group) >= SHARD_BYTES:
            yield group
            group = []
    if group:
        yield group


def _beside(folder: Path) -> tuple[Path, Path, Path]:
    return tuple(folder.with_name(f".{what}-{folder.name}") for what in ("old", "ready", "unfinished"))  # type: ignore[return-value]


@contextmanager
def _exchange(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder of the same files to add to, and a list for the names to leave out; it replaces ``folder`` then.

    A kill between the two renames leaves no ``folder``: other verbs say that nothing was probed, and `recover` ends it.
    """
    old, ready, unfinished = _beside(folder)
    unfinished.mkdir(parents=True)
    before = {p.name for p in folder.iterdir() if p.is_file() and not p.name.startswith(TEMPORARY_PREFIX)}
    drop: list[str] = []
    try:
        for name in before:
            os.link(folder / name, unfinished / name)
        yield unfinished, drop
        for name in drop:
            (unfinished / name).unlink()
        unfinished.rename(ready)
        folder.rename(old)
        ready.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for late in old.iterdir():  # what another launch wrote meanwhile
        if late.name not in before:
            late.rename(folder / late.name)
    shutil.rmtree(old)
