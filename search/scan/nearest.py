"""Exact nearest logits: lower bounds from the codes, then the fp16 values of whatever could still be among them.

What a search did, step by step, is kept in a `Trace` when somebody asks for it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from search.scan.scan import TOGETHER, Candidates, CpuScanner
from search.scan.scoring import Comparison
from search.scan.whitening import SHARE, Whitened
from search.store.tiles import HALF, Partial, Tile


@dataclass
class Step:
    """One step: its name, what it worked on, the bytes it read and the time it took."""

    name: str
    detail: str = ""
    bytes: int = 0
    ms: float = 0.0


@dataclass
class Trace:
    """Collects steps; a disabled one costs nothing.

    ``str(trace)`` is the plan as a table for people.
    """

    steps: list[Step] = field(default_factory=list)
    enabled: bool = True

    @contextmanager
    def step(self, name: str) -> Iterator[Step]:
        """Time a step; fill in ``detail`` and ``bytes`` inside the block."""
        current = Step(name)
        started = time.perf_counter()
        try:
            yield current
        finally:
            current.ms = (time.perf_counter() - started) * 1e3
            if self.enabled:
                self.steps.append(current)

    @property
    def ms(self) -> float:
        """Time of all steps, in milliseconds."""
        return sum(step.ms for step in self.steps)

    def __str__(self) -> str:
        lines = [f"{'step':<12}{'ms':>9}{'MB read':>10}  detail"]
        lines += [f"{s.name:<12}{s.ms:>9.2f}{s.bytes / 1e6:>10.2f}  {s.detail}" for s in self.steps]
        lines.append(f"{'total':<12}{self.ms:>9.2f}{sum(s.bytes for s in self.steps) / 1e6:>10.2f}")
        return "\n".join(lines)


SILENT = Trace(enabled=False)
"""For queries nobody asked to explain."""


Rows = NDArray[np.int64]
"""Positions of logits in one version of the index, never stored outside it."""

Mask = NDArray[np.bool_]
"""Which logits are allowed, bool ``[logits]``."""

Found = tuple[Rows, NDArray[np.float64]]
"""Positions and their distances, nearest first."""

_FEW = 2_048
"""Allowed logits up to which all are read exactly: about a millisecond, less than a scan of the rest would save."""

_CANDIDATES = 128
"""Lowest bounds that the first scan keeps. Too few cost a second scan, never a wrong answer."""

_LOOSE = 0.2
"""What a first scan may leave out of a positive comparison at most, as a share of the norm of its weights. Measured on
structured descriptors: 512 cubed weights shrink to 140 columns, and no more logits have to be read exactly."""

_WORTHWHILE = 0.8
"""Share of the columns that a shortened comparison reads at most; otherwise it is scanned whole."""

_NONE: NDArray[np.float32] = np.empty(0, np.float32)


class Finder(ABC):
    """All logits that can be found."""

    n_probes: int  # length of a descriptor
    tiles: list[Tile]  # their descriptors
    starts: NDArray[np.int64]  # int64 ``[tiles + 1]``, position of every tile's first logit
    scanner: CpuScanner  # what reads the codes
    # brings what is missing of an index that lies elsewhere; None when all of it is here
    partial: Partial | None = None
    # every logit in whitened directions; None for an index without
    whitened: Whitened | None = None
    _loose = _LOOSE
    _loudest: tuple[NDArray[np.float32], float] | None = None

    def peaks(self) -> NDArray[np.float32] | None:
        """Return the norm of every logit's squared positive values over all probes, float32 ``[logits]``, if known."""
        return None

    @abstractmethod
    def keys(self, rows: Rows) -> list[tuple[str, str, int]]:
        """Return ``(repo_id, sha, logit)`` of ``rows``."""

    @abstractmethod
    def raw_moments(self, rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return standard deviation and mean of the raw responses of ``rows``, float32."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def _by_tile(self, rows: Rows) -> Iterator[tuple[int, Rows, Rows]]:
        """Yield each tile that holds some of ``rows``: its number, their places among them, and in the tile."""
        tile_of = np.searchsorted(self.starts, rows, side="right") - 1
        for number in np.unique(tile_of).tolist():
            here = np.flatnonzero(tile_of == number)
            yield number, here, rows[here] - self.starts[number]

    def have_columns(self, comparisons: Sequence[Comparison]) -> None:
        """Have the codes that comparisons read; those of an index that lies elsewhere are brought."""
        if self.partial is not None:
            self.partial.columns(np.concatenate([comparison.columns for comparison in comparisons]))

    def have_rows(self, rows: Rows) -> None:
        """Have the exact values of ``rows``; those of an index that lies elsewhere are brought."""
        if self.partial is not None:
            self.partial.rows([(number, local) for number, _, local in self._by_tile(rows)])

    def vectors(self, rows: Rows) -> NDArray[np.float32]:
        """Return the descriptors of the logits at ``rows``, float32 ``[rows, n_probes]``."""
        self.have_rows(rows)
        out = np.empty((rows.size, self.n_probes), np.float32)
        for number, here, local in self._by_tile(rows):
            out[here] = self.tiles[number].exact[local].view(np.float16)
        return out

    def distances(self, comparison: Comparison, rows: Rows | None = None) -> NDArray[np.float64]:
        """Return the exact distance of ``rows`` (all when None), float64, from the fp16 values."""
        from search.scan.kernels import exact_distances

        if rows is None:
            rows = np.arange(len(self), dtype=np.int64)
        self.have_rows(rows)
        out = np.empty(rows.size, np.float64)
        query = (comparison.columns, comparison.targets, comparison.weights)
        for number, here, local in self._by_tile(rows):
            moments = self.raw_moments(rows[here]) if comparison.raw else (_NONE, _NONE)
            part = np.empty(here.size, np.float64)
            exact_distances(self.tiles[number].exact, local, query, moments, comparison.positive, HALF, part)
            out[here] = part
        if comparison.scale.size:
            return out * comparison.scale[rows].astype(np.float64) + self._shift(comparison, rows).astype(np.float64)
        return out

    def _shift(self, comparison: Comparison, rows: Rows | None = None) -> NDArray[np.float32]:
        """Return what is added to the distance of ``rows`` (all when None), less the cosine with a whitened query."""
        shift = comparison.shift if rows is None else comparison.shift[rows]
        if comparison.whitened is None or self.whitened is None:
            return shift
        return shift - np.float32(SHARE) * self.whitened.cosines(comparison.whitened, rows)

    def nearest(
        self, comparison: Comparison, limit: int, mask: Mask | None, *, exact: bool = False, trace: Trace = SILENT
    ) -> Found:
        """Return the ``limit`` nearest logits that ``mask`` allows, and their distances, nearest first.

        Of equally near logits the one with the lower ``(repo_id, sha, logit)`` comes first. The answer is the same with
        ``exact``, which reads every allowed logit's fp16 values and no code.
        """
        return self.nearest_many([comparison], limit, [mask], exact=exact, trace=trace)[0]

    def nearest_many(
        self,
        comparisons: Sequence[Comparison],
        limit: int,
        masks: Sequence[Mask | None],
        *,
        exact: bool = False,
        trace: Trace = SILENT,
    ) -> list[Found]:
        """Answer several comparisons at once, as `nearest` would one by one; they share what the scan reads."""
        found: dict[int, Found] = {}
        scanned = []
        for i, (comparison, mask) in enumerate(zip(comparisons, masks, strict=True)):
            allowed = len(self) if mask is None else int(np.count_nonzero(mask))
            if exact or comparison.raw or allowed <= max(_FEW, 4 * limit):
                with trace.step("read") as step:
                    found[i] = self._brute(comparison, limit, mask)
                    step.bytes = 2 * allowed * comparison.columns.size
                    step.detail = f"{allowed} logits x {comparison.columns.size} probes, fp16, all of them"
            else:
                scanned.append(i)
        for first in range(0, len(scanned), TOGETHER):
            some = scanned[first : first + TOGETHER]
            chosen = [self._with_shift(comparisons[i]) for i in some]
            with trace.step("scan") as step:
                short, rests = zip(*(self._shortened(c) for c in chosen), strict=True)
                keep = max(_CANDIDATES * (4 if any(rests) else 1), 4 * limit)
                self.have_columns(short)
                candidates = self.scanner.scan(short, [masks[i] for i in some], keep, [np.inf] * len(some))
                step.bytes = len(self) * sum(c.columns.size for c in short)
                step.detail = f"{len(self)} logits x {short[0].columns.size} probes, u8, {keep} candidates"
            for i, whole, candidate, rest in zip(some, chosen, candidates, rests, strict=True):
                lower = Candidates(candidate.rows, candidate.bounds - rest, candidate.floor - rest)
                found[i] = self._certified(whole, limit, masks[i], lower, trace)
                if rest:
                    # where so many logits lie close together that a second scan was needed, leave out less next time
                    missed = lower.floor <= found[i][1][-1]
                    self._loose = self._loose / 2 if missed else min(_LOOSE, 1.05 * self._loose)
        return [found[i] for i in range(len(comparisons))]

    def _with_shift(self, comparison: Comparison) -> Comparison:
        """Return a comparison whose shift holds the cosine of whitened responses: known exactly, so bounds hold."""
        if comparison.whitened is None:
            return comparison
        return replace(comparison, shift=self._shift(comparison), whitened=None)

    def nearest_of(
        self,
        comparison: Comparison,
        limit: int,
        mask: Mask | None,
        group_of: NDArray[np.int32],
        *,
        exact: bool = False,
        trace: Trace = SILENT,
    ) -> Found:
        """Return the nearest logit of each of the ``limit`` nearest groups; ``group_of`` is int32 ``[logits]``.

        A prefix of the exact order of logits holds the exact order of their groups, so a longer one is asked for until
        it has enough of them.
        """
        wanted = 4 * limit
        while True:
            rows, distances = self.nearest(comparison, wanted, mask, exact=exact, trace=trace)
            first = np.sort(np.unique(group_of[rows], return_index=True)[1])[:limit]
            if first.size >= limit or rows.size < wanted:
                return rows[first], distances[first]
            wanted *= 8

    def ranked(self, rows: Rows, distances: NDArray[np.float64], limit: int) -> Found:
        """Sort by distance, then by key, and cut to ``limit``."""
        keys = self.keys(rows)
        order = sorted(range(rows.size), key=lambda i: (distances[i], keys[i]))[:limit]
        return rows[order], distances[order]

    def _shortened(self, comparison: Comparison) -> tuple[Comparison, float]:
        """Return a comparison without the columns of least weight, and the most that they can lower a distance by.

        With v the squared positive values of a logit, ``sum over the rest of w * v <= |w on the rest| * |v|`` (Cauchy
        and Schwarz), and ``scale * |v|`` has a largest size over all logits. Weights of texts fall off quickly.
        """
        peaks = self.peaks() if comparison.positive else None
        if peaks is None or not comparison.scale.size:
            return comparison, 0.0
        if self._loudest is None or self._loudest[0] is not comparison.scale:
            self._loudest = comparison.scale, float(np.abs(comparison.scale.astype(np.float64) * peaks).max())
        loudest = self._loudest[1]
        squares = comparison.weights.astype(np.float64) ** 2
        order = np.argsort(squares, kind="stable")
        left_out = int(np.searchsorted(np.cumsum(squares[order]), self._loose**2 * squares.sum(), side="right"))
        if squares.size - left_out > _WORTHWHILE * squares.size:
            return comparison, 0.0
        columns = np.sort(order[left_out:])
        # the last part covers that peaks and scale are rounded to float32
        rest = loudest * float(np.sqrt(squares[order[:left_out]].sum())) * (1.0 + 1e-5)
        names = ("columns", "targets", "weights")
        return replace(comparison, **{name: getattr(comparison, name)[columns] for name in names}), rest

    def _certified(
        self, comparison: Comparison, limit: int, mask: Mask | None, candidates: Candidates, trace: Trace
    ) -> Found:
        """Read candidates exactly, lowest bound first, until no other logit can be among the ``limit`` nearest."""
        rows, distances, worst = self._read(comparison, limit, candidates, trace)
        if candidates.floor <= worst and candidates.floor < np.inf:
            # too many logits lie close together for the first scan's candidates: take every one that could matter
            with trace.step("scan again") as step:
                self.have_columns([comparison])
                (wider,) = self.scanner.scan([comparison], [mask], 0, [worst])
                step.bytes = len(self) * comparison.columns.size
                step.detail = f"{wider.rows.size} candidates could be nearer than {worst:.4f}"
            rows, distances, worst = self._read(comparison, limit, wider, trace)
        return self.ranked(rows, distances, limit)

    def _read(
        self, comparison: Comparison, limit: int, candidates: Candidates, trace: Trace
    ) -> tuple[Rows, NDArray[np.float64], float]:
        """Return exact distances of the candidates that can matter, and the distance of the ``limit``-th nearest."""
        with trace.step("re-rank") as step:
            first = min(candidates.rows.size, 2 * limit)
            distances = self.distances(comparison, candidates.rows[:first])
            worst = np.inf
            if first >= limit:
                worst = float(np.partition(distances, limit - 1)[limit - 1])
                last = int(np.searchsorted(candidates.bounds, worst, side="right"))
                if last > first:
                    distances = np.concatenate([distances, self.distances(comparison, candidates.rows[first:last])])
                    worst = float(np.partition(distances, limit - 1)[limit - 1])
            rows = candidates.rows[: distances.size]
            step.bytes = 2 * rows.size * comparison.columns.size
            step.detail = f"{rows.size} of {candidates.rows.size} candidates, fp16"
        keep = distances <= worst
        return rows[keep], distances[keep], worst

    def _brute(self, comparison: Comparison, limit: int, mask: Mask | None) -> Found:
        rows = np.flatnonzero(mask).astype(np.int64) if mask is not None else np.arange(len(self), dtype=np.int64)
        found = self.distances(comparison, rows)
        if rows.size > limit:
            keep = found <= np.partition(found, limit - 1)[limit - 1]
            rows, found = rows[keep], found[keep]
        return self.ranked(rows, found, limit)
