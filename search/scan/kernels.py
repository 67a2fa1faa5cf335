"""The loops of the scan, and the exact distances.

For every row of a tile the scan finds a lower bound on its distance, and the lowest of these. Compiled by numba once
and cached on disk; all in one file, for a cached function is not compiled again when one that it calls changes
elsewhere. They release the interpreter lock and use one thread each: callers split the rows among threads themselves,
which, unlike numba's own parallel loops, is safe when several queries run at once.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
from numpy.typing import NDArray


# numba takes named tuples of arrays as they are, so that a call need not name twenty of them
class Codes(NamedTuple):
    """A tile as the scan reads it."""

    codes: NDArray[np.uint8]  # uint8 ``[n_probes, rows]``
    first: int  # position of its first row in the index
    offsets: NDArray[np.int64]  # the entries that have no code; see `search.store.tiles`
    rows: NDArray[np.uint32]
    values: NDArray[np.uint16]
    half: NDArray[np.float32]  # float32 ``[65536]``, value of every fp16 bit pattern
    low: float  # values of the codes 0 and 255
    high: float
    unit: np.float32  # square of a code's step


class Queries(NamedTuple):
    """Comparisons of one kind, end to end: query q has ``columns[first[q]:first[q + 1]]``."""

    first: NDArray[np.int64]  # int64 ``[queries + 1]``
    columns: NDArray[np.int32]  # as in `search.scan.scoring.Comparison`
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
    steps: NDArray[np.float32]  # float32, the targets in units of a code; the code of the value 0 when ``positive``
    least: np.uint8  # code below which all are read as it: that of the value 0 when ``positive``, else 0
    shrink: NDArray[np.float64]  # float64 ``[queries]``, 1 less the relative error of a float32 sum
    error: NDArray[np.float64]  # float64 ``[queries]``, what codes can make the root of a sum be off by
    positive: bool  # sum squares of positive parts in place of squared differences


class Logits(NamedTuple):
    """Which logits are allowed, and their calibration, by position; each array is empty when there is none."""

    mask: NDArray[np.bool_]
    scale: NDArray[np.float32]
    shift: NDArray[np.float32]  # float32 ``[1 or queries, logits]``: one for all, or each query's own


class Kept(NamedTuple):
    """What was found so far, written by the loops."""

    ceilings: NDArray[np.float64]  # float64 ``[queries]``, the bound from which a row is of no use
    bounds: NDArray[np.float64]  # float64 ``[queries, room]``, and their ``rows``, int64
    rows: NDArray[np.int64]
    counts: NDArray[np.int64]  # int64 ``[queries]``, how many of ``room`` are held


@numba.njit(nogil=True, cache=True)
def exact_distances(
    tile: NDArray[np.uint16],
    rows: NDArray[np.int64],
    query: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]],
    moments: tuple[NDArray[np.float32], NDArray[np.float32]],
    positive: bool,
    half: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """Write the weighted mean of squares of ``rows`` of an fp16 tile to ``out``, summed in float64 in column order.

    ``query`` are columns, targets and weights. Squares of the difference to the targets, or with ``positive`` of the
    value's positive part. A logit's value is ``tile * scale + shift``, with ``moments`` float32 scale and shift
    ``[rows]``; both are empty when the z-scored values are compared as they are.
    """
    columns, targets, weights = query
    scale, shift = moments
    for i in range(rows.size):
        row = rows[i]
        total = 0.0
        for j in range(columns.size):
            value = np.float64(half[tile[row, columns[j]]])
            if scale.size:
                value = value * scale[i] + shift[i]
            difference = max(value, 0.0) if positive else np.float64(targets[j]) - value
            total += np.float64(weights[j]) * difference * difference
        out[i] = total


GROUP = 128
"""Rows that are passed over together when none of them can be among the nearest."""


@numba.njit(nogil=True, cache=True)
def _add_overflow(
    tile: Codes, queries: Queries, first: int, last: int, start: int, slack: float, total: NDArray[np.float32]
) -> None:
    """Add to ``total``, of rows ``start`` onwards, what clipped entries of columns ``first`` to ``last`` owe.

    That is the true square minus the clipped one. The two nearly cancel when the target is large, so ``slack`` times
    both is taken off: the sum stays a lower bound, or with a negative ``slack`` an upper one.
    """
    stop = start + total.size
    rows = tile.rows
    for j in range(first, last):
        begin, end = tile.offsets[queries.columns[j]], tile.offsets[queries.columns[j] + 1]
        if begin == end or rows[end - 1] < start:
            continue
        for i in range(begin + np.searchsorted(rows[begin:end], np.uint32(start)), end):
            if rows[i] >= stop:
                break
            value = tile.half[tile.values[i]]
            clipped = tile.low if value < tile.low else tile.high
            if queries.positive:
                true, false = max(value, np.float32(0.0)), np.float32(max(clipped, 0.0))
            else:
                true, false = queries.targets[j] - value, np.float32(queries.targets[j] - clipped)
            owed = true * true - false * false - slack * (true * true + false * false)
            total[rows[i] - start] += queries.weights[j] * owed


@numba.njit(nogil=True, cache=True, fastmath=True)
def _add_squares(
    codes: NDArray[np.uint8],
    start: int,
    columns: NDArray[np.int32],
    least: np.uint8,
    steps: NDArray[np.float32],
    weights: NDArray[np.float32],
    unit: np.float32,
    total: NDArray[np.float32],
) -> None:
    """Add ``weights * unit * (steps - max(code, least))^2`` of rows ``start`` onwards of a tile to ``total``.

    ``codes`` is uint8 ``[n_probes, rows]``; ``steps`` are the targets in units of a code, ``unit`` the square of one.
    With ``least`` and all ``steps`` the code of the value 0 these are squares of positive parts, with ``least`` 0
    squared differences. Four columns are added at once: the totals are read and written a quarter as often.
    """
    stop = start + total.size
    j = 0
    while j + 4 <= columns.size:
        a = codes[columns[j], start:stop]
        b = codes[columns[j + 1], start:stop]
        c = codes[columns[j + 2], start:stop]
        d = codes[columns[j + 3], start:stop]
        ta, tb, tc, td = steps[j], steps[j + 1], steps[j + 2], steps[j + 3]
        wa, wb, wc, wd = weights[j] * unit, weights[j + 1] * unit, weights[j + 2] * unit, weights[j + 3] * unit
        for i in range(total.size):
            ea = ta - np.float32(max(a[i], least))
            eb = tb - np.float32(max(b[i], least))
            ec = tc - np.float32(max(c[i], least))
            ed = td - np.float32(max(d[i], least))
            total[i] += wa * ea * ea + wb * eb * eb + wc * ec * ec + wd * ed * ed
        j += 4
    while j < columns.size:
        a = codes[columns[j], start:stop]
        ta, wa = steps[j], weights[j] * unit
        for i in range(total.size):
            ea = ta - np.float32(max(a[i], least))
            total[i] += wa * ea * ea
        j += 1


@numba.njit(nogil=True, cache=True, fastmath=True)
def _estimate(
    total: NDArray[np.float32],
    start: int,
    stop: int,
    first: int,
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    line: tuple[np.float32, np.float32],
    under: NDArray[np.float32],
) -> float:
    """Write a number below the bound of each of rows ``start`` to ``stop`` to ``under``; return the lowest of them.

    Without calibration they are the totals themselves. A square root and a branch for every row cost as much as many
    columns do, so a straight line on the safe side of the bound is compared first; see `_line`. What is taken off in
    the end covers float32 rounding.
    """
    lowest = np.float32(3e38)
    slope, offset = line
    if scale.size:
        for i in range(start, stop):
            square, factor = slope * max(total[i], np.float32(0.0)), scale[first + i]
            rounding = np.float32(1e-6) * (abs(factor) * (square + abs(offset)) + abs(shift[first + i]))
            under[i - start] = factor * (square + offset) + shift[first + i] - rounding
            lowest = min(lowest, under[i - start])
    else:
        for i in range(start, stop):
            under[i - start] = total[i]
            lowest = min(lowest, total[i])
    return float(lowest)


@numba.njit(nogil=True, cache=True)
def _line(shrink: float, error: float, upper: bool) -> tuple[np.float32, np.float32]:
    """Return slope and offset of a line under ``(sqrt(x * shrink) - error)^2``, or over the ``upper`` bound.

    For any ``d``, ``2 * e * sqrt(x) <= d * x + e^2 / d``, and equal where ``sqrt(x) = e / d``: two standard deviations
    when ``e`` is half a step of the codes, about where the nearest logits are.
    """
    d = 1.0 / 64.0
    if upper:
        slope, offset = (1.0 + d) / shrink, error * error * (1.0 + 1.0 / d)
    else:
        slope, offset = (1.0 - d) * shrink, error * error * (1.0 - 1.0 / d)
    return np.float32(slope), np.float32(offset)


@numba.njit(nogil=True, cache=True)
def _widest(ceiling: float, shrink: float, error: float, calibrated: bool) -> float:
    """Return the ceiling in units of what `_estimate` writes: totals, a hair too high, when nothing is calibrated."""
    if calibrated or ceiling == np.inf:
        return ceiling
    root = np.sqrt(max(ceiling, 0.0)) + error
    return float(root * root / shrink * (1.0 + 1e-6))


@numba.njit(nogil=True, cache=True)
def _select(
    total: NDArray[np.float32], first: int, queries: Queries, logits: Logits, keep: int, kept_of: Kept, q: int
) -> None:
    """Gather rows whose lower bound is below the ceiling of query ``q``, and lower the ceiling.

    ``total`` holds approximate mean squares of rows ``first`` onwards. The true mean square is at least
    ``max(0, sqrt(total * shrink) - error)^2`` (triangle inequality); a calibrated distance is that times ``scale``
    plus ``shift`` of the row. Of positive comparisons the scale is negative, so what is needed is the most that the
    mean square can be: ``(sqrt(total / shrink) + error)^2``.

    With ``keep`` > 0 only the ``keep`` lowest bounds are kept whenever the
    buffers fill, and the ceiling falls; with 0 all rows up to and including the ceiling are kept and the caller's
    buffers are large enough.
    """
    mask, scale, shift = logits.mask, logits.scale, logits.shift[q if len(logits.shift) > 1 else 0]
    shrink, error, upper = queries.shrink[q], queries.error[q], queries.positive
    bounds, rows = kept_of.bounds[q], kept_of.rows[q]
    ceiling, count = kept_of.ceilings[q], kept_of.counts[q]
    line = _line(shrink, error, upper)
    wide = _widest(ceiling, shrink, error, scale.size > 0)
    under = np.empty(GROUP, np.float32)
    for start in range(0, total.size, GROUP):
        stop = min(start + GROUP, total.size)
        if _estimate(total, start, stop, first, scale, shift, line, under) > wide:
            continue
        for i in range(start, stop):
            if under[i - start] > wide:
                continue
            row = first + i
            if mask.size and not mask[row]:
                continue
            if upper:
                root = np.sqrt(max(0.0, np.float64(total[i])) / shrink) + error
            else:
                root = max(0.0, np.sqrt(max(0.0, np.float64(total[i]) * shrink)) - error)
            bound = root * root
            if scale.size:
                bound = bound * scale[row] + shift[row]
            if bound > ceiling or (keep and bound == ceiling):
                continue
            bounds[count] = bound
            rows[count] = row
            count += 1
            if keep and count == bounds.size:
                ceiling = np.partition(bounds, keep - 1)[keep - 1]
                kept = 0
                # equal bounds beyond the number kept are dropped: their rows are at the ceiling, never below it
                for c in range(count):
                    if bounds[c] < ceiling:
                        bounds[kept], rows[kept] = bounds[c], rows[c]
                        kept += 1
                for c in range(kept, count):
                    if kept < keep and bounds[c] == ceiling:
                        bounds[kept], rows[kept] = bounds[c], rows[c]
                        kept += 1
                count = kept
                wide = _widest(ceiling, shrink, error, scale.size > 0)
    kept_of.counts[q], kept_of.ceilings[q] = count, ceiling


@numba.njit(nogil=True, cache=True)
def scan_rows(
    tile: Codes, start: int, stop: int, block: int, queries: Queries, logits: Logits, keep: int, kept: Kept
) -> None:
    """Scan rows ``start`` to ``stop`` of a tile for several queries, block by block, so that they share its columns.

    See `_add_squares`, `_add_overflow` and `_select`.
    """
    total = np.empty(block, np.float32)
    for begin in range(start, stop, block):
        end = min(begin + block, stop)
        if logits.mask.size and not logits.mask[tile.first + begin : tile.first + end].any():
            continue
        part = total[: end - begin]
        for q in range(kept.counts.size):
            part[:] = 0.0
            a, b = queries.first[q], queries.first[q + 1]
            slack = 2.0 * (1.0 - queries.shrink[q])
            _add_overflow(tile, queries, a, b, begin, -slack if queries.positive else slack, part)
            _add_squares(
                tile.codes, begin, queries.columns[a:b], queries.least, queries.steps[a:b], queries.weights[a:b],
                tile.unit, part,
            )  # fmt: skip
            _select(part, tile.first + begin, queries, logits, keep, kept, q)


@numba.njit(nogil=True, cache=True, fastmath=True)
def products(
    codes: NDArray[np.int8],
    rows: NDArray[np.int64],
    code: NDArray[np.int8],
    dots: NDArray[np.int32],
    squares: NDArray[np.int32],
) -> None:
    """Write the product of ``code``, int8 ``[rank]``, with each of ``rows`` of ``codes``, and of these with themselves.

    Whole numbers: the same however many rows are asked for. See `search.scan.whitening`.
    """
    for i in range(rows.size):
        row = codes[rows[i]]
        dot, square = np.int32(0), np.int32(0)
        for j in range(code.size):
            value = np.int32(row[j])
            dot += value * np.int32(code[j])
            square += value * value
        dots[i], squares[i] = dot, square


# ── making tiles; see `search.store.tiles` ──────────────────────────────────────────────────────────────────────
@numba.njit(nogil=True, cache=True)
def transpose_codes(exact: NDArray[np.uint16], code_of: NDArray[np.uint8], codes: NDArray[np.uint8]) -> None:
    """Write the codes of an fp16 tile ``[rows, n]`` to ``codes``, uint8 ``[n, rows]``.

    ``code_of`` is the code of every fp16 bit pattern. Done in squares of 64, which fit the first-level cache both ways.
    """
    rows, n = exact.shape
    for row in range(0, rows, 64):
        last_row = min(row + 64, rows)
        for column in range(0, n, 64):
            last_column = min(column + 64, n)
            for j in range(column, last_column):
                for i in range(row, last_row):
                    codes[j, i] = code_of[exact[i, j]]


@numba.njit(nogil=True, cache=True)
def find_flagged(exact: NDArray[np.uint16], flagged: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return ``column * rows + row`` of every entry with a flagged fp16 bit pattern, in order of rows."""
    count = 0
    for i in range(exact.shape[0]):
        for j in range(exact.shape[1]):
            if flagged[exact[i, j]]:
                count += 1
    found = np.empty(count, np.int64)
    count = 0
    for i in range(exact.shape[0]):
        for j in range(exact.shape[1]):
            if flagged[exact[i, j]]:
                found[count] = j * exact.shape[0] + i
                count += 1
    return found
