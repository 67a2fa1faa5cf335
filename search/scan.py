"""The scan over codes: for every allowed logit a lower bound on its distance, and the lowest of them."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

from search.codes import ERROR, HIGH, LOW, STEP
from search.kernels import HALF, overflow_corrections, scan_block, select_rows
from search.scoring import Comparison
from search.tiles import Tile

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK = 8_192
"""Rows of one running total: 32 KiB of float32, which stays in the first-level cache."""

_ALL_ROWS: NDArray[np.bool_] = np.empty(0, bool)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a scan found.

    Attributes:
        rows: int64 positions.
        bounds: float64, a proven lower bound on the distance of each.
        floor: every allowed logit that is not listed is at least this far.
    """

    rows: NDArray[np.int64]
    bounds: NDArray[np.float64]
    floor: float


class Scanner(Protocol):
    """Reads the codes of all tiles; the numba one runs anywhere, the torch one on a GPU, with the same guarantee."""

    def scan(
        self,
        comparisons: Sequence[Comparison],
        masks: Sequence[NDArray[np.bool_] | None],
        keep: int,
        ceilings: Sequence[float],
    ) -> list[Candidates]:
        """Return the ``keep`` allowed logits (0: all) of lowest bound up to a ceiling, for each comparison."""
        ...


def relative_error(columns: int) -> float:
    """Return the relative error of a float32 sum over ``columns`` squares: half a unit in the last place each."""
    return columns * 6.0e-8 + 1e-6


class CpuScanner:
    """Scans with numba, rows split among the threads of one pool that all queries of the process share."""

    def __init__(self, tiles: Sequence[Tile], starts: NDArray[np.int64]) -> None:
        self._tiles, self._starts = tiles, starts
        self._units = _units(tiles)

    def scan(
        self,
        comparisons: Sequence[Comparison],
        masks: Sequence[NDArray[np.bool_] | None],
        keep: int,
        ceilings: Sequence[float],
    ) -> list[Candidates]:
        """See `Scanner.scan`. Several comparisons go through each block of rows together and share what is read."""
        workers = min(threads(), len(self._units))
        shares = [self._units[i::workers] for i in range(workers)]
        jobs: list[Callable[[], list[_Buffer]]] = []
        for share in shares:
            buffers = [_Buffer(keep, ceiling) for ceiling in ceilings]
            jobs.append(_Job(self, share, comparisons, masks, buffers))
        parts = [jobs[0]()] if workers == 1 else list(_pool().map(_call, jobs))
        return [_merged([part[q] for part in parts], keep) for q in range(len(comparisons))]

    def run(
        self,
        units: Sequence[tuple[int, int, int]],
        comparisons: Sequence[Comparison],
        masks: Sequence[NDArray[np.bool_] | None],
        buffers: list[_Buffer],
    ) -> list[_Buffer]:
        """Scan some ranges of rows with one thread."""
        total = np.empty(BLOCK, np.float32)
        queries = [_Compiled(c) for c in comparisons]
        for number, start, stop in units:
            tile, offset = self._tiles[number], int(self._starts[number])
            owed = [q.corrections(tile) for q in queries]
            for low in range(start, stop, BLOCK):
                high = min(low + BLOCK, stop)
                for query, mask, buffer, extra in zip(queries, masks, buffers, owed, strict=True):
                    if mask is not None and not mask[offset + low : offset + high].any():
                        continue
                    part = total[: high - low]
                    if extra is None:
                        part.fill(0.0)
                    else:
                        part[:] = extra[low:high]
                    scan_block(tile.codes, low, high, query.columns, query.steps, query.weights, part)
                    buffer.take(part, offset + low, mask, query)
        return buffers


@dataclass(frozen=True, eq=False)
class _Job:
    scanner: CpuScanner
    units: Sequence[tuple[int, int, int]]
    comparisons: Sequence[Comparison]
    masks: Sequence[NDArray[np.bool_] | None]
    buffers: list[_Buffer]

    def __call__(self) -> list[_Buffer]:
        return self.scanner.run(self.units, self.comparisons, self.masks, self.buffers)


class _Compiled:
    """A comparison in units of codes."""

    def __init__(self, comparison: Comparison) -> None:
        self.columns, self.targets = comparison.columns, comparison.targets
        self.steps = ((comparison.targets - np.float32(LOW)) * np.float32(1 / STEP)).astype(np.float32)
        self.plain = comparison.weights
        self.weights = (comparison.weights * np.float32(STEP * STEP)).astype(np.float32)
        self.scale, self.shift = comparison.scale, comparison.shift
        weight = float(comparison.weights.astype(np.float64).sum())
        self.error = ERROR * math.sqrt(weight)
        self.shrink = 1.0 - relative_error(comparison.columns.size)

    def corrections(self, tile: Tile) -> NDArray[np.float32] | None:
        offsets, rows, values = tile.overflow
        if (offsets[self.columns] == offsets[self.columns + 1]).all():
            return None
        out = np.zeros(tile.rows, np.float32)
        overflow_corrections(
            self.columns, self.targets, self.plain, offsets, rows, values, HALF, LOW, HIGH, 2 * (1 - self.shrink), out
        )  # fmt: skip
        return out


class _Buffer:
    """The lowest bounds one thread has met, for one query."""

    def __init__(self, keep: int, ceiling: float) -> None:
        self.keep, self.ceiling, self.count = keep, ceiling, 0
        size = 4 * keep if keep else BLOCK
        self.bounds, self.rows = np.empty(size, np.float64), np.empty(size, np.int64)

    def take(self, total: NDArray[np.float32], first: int, mask: NDArray[np.bool_] | None, query: _Compiled) -> None:
        if not self.keep and self.bounds.size < self.count + total.size:
            room = max(2 * self.bounds.size, self.count + total.size)
            self.bounds, self.rows = np.resize(self.bounds, room), np.resize(self.rows, room)
        self.count, self.ceiling = select_rows(
            total, first, _ALL_ROWS if mask is None else mask, query.scale, query.shift, query.shrink, query.error,
            self.ceiling, self.keep, self.bounds, self.rows, self.count,
        )  # fmt: skip


def _merged(buffers: list[_Buffer], keep: int) -> Candidates:
    rows = np.concatenate([b.rows[: b.count] for b in buffers])
    bounds = np.concatenate([b.bounds[: b.count] for b in buffers])
    floor = min(b.ceiling for b in buffers) if keep else max(b.ceiling for b in buffers)
    order = np.argsort(bounds, kind="stable")
    if keep and rows.size > keep:
        floor = min(floor, float(bounds[order[keep]]))
        order = order[:keep]
    return Candidates(rows[order], bounds[order], floor)


def _units(tiles: Sequence[Tile]) -> list[tuple[int, int, int]]:
    """Cut the tiles into ranges of rows that are small enough to share out evenly, large enough to be worth a call."""
    rows = sum(tile.rows for tile in tiles)
    size = max(BLOCK, min(1 << 16, rows // (4 * threads()) // BLOCK * BLOCK))
    return [
        (number, start, min(start + size, tile.rows))
        for number, tile in enumerate(tiles)
        for start in range(0, tile.rows, size)
    ]


def threads() -> int:
    """Return how many threads scan: the processors this process may use, at most 16."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(16, usable)


def _call(job: Callable[[], list[_Buffer]]) -> list[_Buffer]:
    return job()


_pool_lock = threading.Lock()


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="hubprobe-scan")
