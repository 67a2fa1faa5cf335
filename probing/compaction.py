"""Many small files made few, by one process, so that a workspace of 100,000 models stays quick to open.

A model's responses are written to a file of its own, because that is what is replaced whole when it is run again. At
the end of a run the small ones are merged into shards; shards that hold a model to be run again are split before it is.
Two files must never hold the same rows, and a kill must lose none: so the folder's next content is made beside it, of
hard links and new files, and takes its place by two renames (`_exchange`). `recover` ends what a kill interrupted.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from probing import inflight, responses
from workspace import Status, Workspace, model_file_name, records
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
from workspace.holes import SHARD_PREFIX, Key, contents

_log = logging.getLogger(__name__)

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
            tables = {f: table for f in group if (table := _readable(following / f.name)) is not None}
            digests = sorted(sha256_of(f) for f in tables)
            name = f"{SHARD_PREFIX}{short_hash(canonical_json(digests))}.parquet"
            if tables:
                responses.write(following / name, pa.concat_tables(tables.values()))
            drop += [f.name for f in tables]
    return len(drop)


def _readable(path: Path) -> pa.Table | None:
    """Return a file of responses; None when it is damaged: then it is set aside, and its model is a hole."""
    try:
        return read_file(path, records.RESPONSES)
    except DamagedFileError as error:
        _log.warning("%s: kept as %s; the next 'hubprobe probe' runs its models again", error, set_aside(path).name)
        return None


def split_responses(workspace: Workspace, probe_set: str, models: Collection[tuple[str, str]]) -> int:
    """Give the models of every shard that holds one of ``models`` files of their own again; return how many shards.

    A shard that cannot be read is set aside and counted: its models are holes from then on.
    """
    folder, wanted = workspace.responses_dir(probe_set), set(models)
    shards = [path for path in table_files(folder) if path.name.startswith(SHARD_PREFIX)]
    hit = [path for path in shards if not wanted.isdisjoint(_models_of(path))]
    if not hit:
        return 0
    workspace.require_own(folder)
    with _exchange(folder) as (following, drop):
        for path in hit:
            table = _readable(following / path.name)
            if table is None:
                continue
            for start, end in _models(table):
                first = table.slice(start, 1).to_pylist()[0]
                name = f"{model_file_name(first['repo_id'], first['sha'])}.parquet"
                responses.write(following / name, table.slice(start, end - start))
            drop.append(path.name)
    return len(hit)


def _models_of(shard: Path) -> Collection[Key]:
    """Return the models of a shard; none when it is damaged: then it is set aside, and they are holes."""
    try:
        return contents(shard)
    except DamagedFileError as error:
        _log.warning("%s is damaged (%s): kept as %s", shard, error.why, set_aside(shard).name)
        return ()


def mend(workspace: Workspace) -> None:
    """Set damaged files of attempts aside, so that their models are run again. Call it before a plan is made."""
    for path in table_files(workspace.attempts_dir):
        try:
            read_file(path, records.ATTEMPTS)
        except DamagedFileError as error:
            _log.warning("%s is damaged (%s): kept as %s", path, error.why, set_aside(path).name)


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


def _models(table: pa.Table) -> Iterator[tuple[int, int]]:
    """Yield the first row of each model of a shard, and the row after its last: a model's rows are together."""
    starts = [i for i, logit in enumerate(table.column("logit").to_pylist()) if logit == 0]
    yield from zip(starts, [*starts[1:], table.num_rows], strict=True)


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
