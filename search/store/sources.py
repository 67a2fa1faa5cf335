"""Reading ``descriptors/``: streamed, checked, each logit once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.files import batches, damaged, open_table, table_files

BATCH_ROWS = 4_096
"""Logits read at a time: 33 MB of fp16 at 4,000 probes."""


@dataclass(frozen=True)
class Source:
    """A descriptor file as it was when it was indexed; another size or time means it was written again."""

    name: str
    bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> Source:
        """Describe ``path`` as it is now."""
        stat = path.stat()
        return cls(path.name, stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class Batch:
    """Some logits, in the order of their file."""

    table: pa.Table  # the descriptor columns but ``vector`` and ``observed``
    vectors: NDArray[np.float16]  # float16 ``[rows, n_probes]``
    observed: NDArray[np.float32]  # float32 ``[rows]``, share of the probes that were run


def descriptor_files(workspace: Workspace) -> list[Path]:
    """Return the descriptor files of the probe set in use; raises `MissingStepError` when there are none."""
    files = table_files(workspace.descriptors_dir(workspace.probe_set))
    if not files:
        raise MissingStepError("descriptors", "complete")
    return files


def n_probes(path: Path) -> int:
    """Return the length of the vectors in a descriptor file; raises `WorkspaceError` when it is no such file."""
    with open_table(path) as file:
        schema = file.schema_arrow
    if "vector" not in schema.names or not pa.types.is_fixed_size_list(schema.field("vector").type):
        raise damaged(path, "it holds no descriptors")
    return int(schema.field("vector").type.list_size)


class Reader:
    """Reads descriptor files one after the other, leaving out what was read before and what is not finite.

    Args:
        n: probes of the probe set.
        known: returns the logits of a model ``(repo_id, sha)`` that are in the index already.

    Attributes:
        repeated: logits left out because an earlier file held them (a compaction that was interrupted).
        nonfinite: logits left out because their vector holds NaN or infinity: they would be near to everything.
    """

    def __init__(self, n: int, known: Callable[[tuple[str, str]], NDArray[np.int32]]) -> None:
        self.n, self.repeated, self.nonfinite = n, 0, 0
        self._known = known
        self._seen: dict[tuple[str, str], NDArray[np.int32]] = {}

    def read(self, path: Path) -> Iterator[Batch]:
        """Yield the file's batches; raises `WorkspaceError` when it is damaged or of another probe set."""
        if n_probes(path) != self.n:
            raise WorkspaceError(f"{path} has vectors of another length than {self.n}: run 'hubprobe complete' again")
        columns = ["repo_id", "sha", "logit", "label", "mean", "std", "vector", "observed", "variance"]
        for batch in batches(path, BATCH_ROWS, columns):
            yield from self._clean(pa.Table.from_batches([batch]))

    def _clean(self, table: pa.Table) -> Iterator[Batch]:
        chunk = table.column("vector").combine_chunks()
        flat = chunk.flatten().to_numpy(zero_copy_only=False)
        vectors: NDArray[np.float16] = flat.astype(np.float16, copy=False).reshape(-1, self.n)
        finite = np.isfinite(vectors).all(axis=1)
        fresh = self._fresh(table)
        self.nonfinite += int((~finite & fresh).sum())
        self.repeated += int((~fresh).sum())
        keep = finite & fresh
        table = table.append_column("share", pa.array(observed_share(table, self.n)))
        if not keep.all():
            table, vectors = table.filter(pa.array(keep)), vectors[keep]
        if table.num_rows:
            yield Batch(table.drop_columns(["vector", "observed", "share"]), vectors, _column(table, "share"))

    def _fresh(self, table: pa.Table) -> NDArray[np.bool_]:
        fresh = np.ones(table.num_rows, bool)
        logits = _column(table, "logit")
        for key, start, stop in runs(table):
            part = logits[start:stop]
            seen = self._seen[key] if key in self._seen else self._known(key)
            unique = np.zeros(stop - start, bool)
            unique[np.unique(part, return_index=True)[1]] = True
            fresh[start:stop] = unique & ~np.isin(part, seen)
            self._seen[key] = np.union1d(seen, part)
        return fresh


def runs(table: pa.Table) -> Iterator[tuple[tuple[str, str], int, int]]:
    """Yield ``((repo_id, sha), start, stop)`` of every stretch of rows of one model."""
    repos, shas = table.column("repo_id").to_pylist(), table.column("sha").to_pylist()
    start = 0
    for i in range(1, len(repos) + 1):
        if i == len(repos) or repos[i] != repos[start] or shas[i] != shas[start]:
            yield (repos[start], shas[start]), start, i
            start = i


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    return np.asarray(table.column(name).to_numpy())


def observed_share(table: pa.Table, n: int) -> NDArray[np.float32]:
    """Return the share of ``n`` probes that were run, float32 ``[rows]``, by the bits of ``observed``; null is all."""
    share = np.ones(table.num_rows, np.float32)
    for i, bits in enumerate(table.column("observed").to_pylist()):
        if bits is not None:
            share[i] = int(np.unpackbits(np.frombuffer(bits, np.uint8))[:n].sum()) / n
    return share
