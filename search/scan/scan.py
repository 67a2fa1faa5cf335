"""The scan over codes: for every allowed logit a lower bound on its distance, and the lowest of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from search.scan.scoring import Comparison
from search.store.tiles import ERROR, HALF, HIGH, LOW, STEP, ZERO, Tile

if TYPE_CHECKING:
    from search.scan.kernels import Logits, Queries

BLOCK = 8_192
"""Rows of one running total: 32 KiB of float32, which stays in the first-level cache."""

TOGETHER = 64
"""Queries that go through a block of rows together at most: their buffers stay in the cache."""

_UNIT = np.float32(STEP * STEP)

_ALL_ROWS: NDArray[np.bool_] = np.empty(0, bool)


@dataclass(frozen=True, eq=False)
class Candidates:
    """What a scan found."""

    rows: NDArray[np.int64]  # int64 positions
    bounds: NDArray[np.float64]  # float64, a proven lower bound on the distance of each
    floor: float  # every allowed logit that is not listed is at least this far


def relative_error(columns: int) -> float:
    """Return the relative error of a float32 sum over ``columns`` squares: half a unit in the last place for each.

    The constant covers the few roundings within a square.
    """
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
        """Return the ``keep`` allowed logits (0: all) of lowest bound up to a ceiling, for each comparison.

        Comparisons of one mask and one scale share what is read.
        """
        found: dict[int, Candidates] = {}
        together: dict[tuple[int, int, bool], list[int]] = {}
        for i, (comparison, mask) in enumerate(zip(comparisons, masks, strict=True)):
            same = (id(mask), id(comparison.scale), comparison.positive)
            together.setdefault(same, []).append(i)
        for group in together.values():
            for first in range(0, len(group), TOGETHER):
                some = group[first : first + TOGETHER]
                asked = _compiled([comparisons[i] for i in some], masks[some[0]])
                parts = self._scan(asked, keep, np.array([ceilings[i] for i in some]))
                found |= {i: _merged([part[q] for part in parts], keep) for q, i in enumerate(some)}
        return [found[i] for i in range(len(comparisons))]

    def _scan(self, asked: _Asked, keep: int, ceilings: NDArray[np.float64]) -> list[list[Candidates]]:
        """Scan all rows with several threads, of which this is one: each takes the next range as soon as it is free."""
        units = iter(self._units)  # a list's iterator may be shared by threads
        jobs = [
            _pool().submit(self._run, units, asked, keep, ceilings.copy())
            for _ in range(min(threads(), len(self._units)) - 1)
        ]
        own = self._run(units, asked, keep, ceilings.copy())
        # a job that has not begun by now would find nothing left
        return [own, *(job.result() for job in jobs if not job.cancel())]

    def _run(
        self, units: Iterator[tuple[int, int, int]], asked: _Asked, keep: int, ceilings: NDArray[np.float64]
    ) -> list[Candidates]:
        """Scan ranges of rows with one thread, as long as there are any."""
        from search.scan.kernels import Codes, Kept, scan_rows  # numba: 0.3 s, which what needs no scan is spared

        room = 4 * keep if keep else 0
        kept = Kept(
            ceilings, np.empty((ceilings.size, room)), np.empty((ceilings.size, room), np.int64),
            np.zeros(ceilings.size, np.int64),
        )  # fmt: skip
        for number, start, stop in units:
            tile = self._tiles[number]
            needed = int(kept.counts.max()) + stop - start
            if not keep and room < needed:
                wider = (0, 0), (0, max(room, needed - room))
                kept = kept._replace(bounds=np.pad(kept.bounds, wider), rows=np.pad(kept.rows, wider))
                room = kept.rows.shape[1]
            codes = Codes(tile.codes, int(self._starts[number]), *tile.overflow, HALF, LOW, HIGH, _UNIT)
            scan_rows(codes, start, stop, BLOCK, *asked, keep, kept)
        # copies: a view would keep the whole buffer
        return [
            Candidates(kept.rows[q, :count].copy(), kept.bounds[q, :count].copy(), float(kept.ceilings[q]))
            for q, count in enumerate(kept.counts.tolist())
        ]


_Asked = tuple["Queries", "Logits"]


def _compiled(comparisons: Sequence[Comparison], mask: NDArray[np.bool_] | None) -> _Asked:
    """Return comparisons of one mask and one scale, in units of codes, end to end."""
    from search.scan.kernels import Logits, Queries

    sizes = np.array([c.columns.size for c in comparisons], np.int64)
    targets = np.concatenate([c.targets for c in comparisons])
    one = comparisons[0]
    steps = ((targets - np.float32(LOW)) * np.float32(1 / STEP)).astype(np.float32)
    queries = Queries(
        first=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        columns=np.concatenate([c.columns for c in comparisons]).astype(np.int32),
        targets=targets,
        weights=np.concatenate([c.weights for c in comparisons]),
        steps=np.full(targets.size, ZERO, np.float32) if one.positive else steps,
        least=np.uint8(ZERO if one.positive else 0),
        shrink=np.array([1.0 - relative_error(c.columns.size) for c in comparisons]),
        error=np.array([ERROR * math.sqrt(c.weights.astype(np.float64).sum()) for c in comparisons]),
        positive=one.positive,
    )
    shared = all(c.shift is one.shift for c in comparisons)  # of texts: not copied for every question
    shifts = one.shift[None] if shared else np.stack([c.shift for c in comparisons])
    return queries, Logits(_ALL_ROWS if mask is None else mask, one.scale, shifts)


def _merged(parts: list[Candidates], keep: int) -> Candidates:
    rows = np.concatenate([part.rows for part in parts])
    bounds = np.concatenate([part.bounds for part in parts])
    floor = min(part.floor for part in parts)
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


@lru_cache(maxsize=1)
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="hubprobe-scan")
