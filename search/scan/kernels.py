"""The loops of the scan, and the exact distances.

For every row of a tile the scan finds a lower bound on its distance, and the lowest of these. Compiled by numba once
and cached on disk; all in one file, for a cached function is not compiled again when one that it calls changes
elsewhere. They release the interpreter lock and use one thread each: callers split the rows among threads themselves,
which, unlike numba's own parallel loops, is safe when several queries run at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def exact_distances(
    tile: NDArray[np.uint16],
    rows: NDArray[np.int64],
    columns: NDArray[np.int32],
    targets: NDArray[np.float32],
    weights: NDArray[np.float32],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    positive: bool,
    half: NDArray[np.float32],
    out: NDArray[np.float64],
) -> None:
    """Write the weighted mean of squares of ``rows`` of an fp16 tile to ``out``, summed in float64 in column order.

    Squares of the difference to ``targets``, or with ``positive`` of the value's positive part.

    A logit's value is ``tile * scale + shift``, with float32 ``scale`` and ``shift`` ``[rows]``; both are empty when
    the z-scored values are compared as they are.
    """
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
    start: int,
    columns: NDArray[np.int32],
    targets: NDArray[np.float32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    rows: NDArray[np.uint32],
    values: NDArray[np.uint16],
    half: NDArray[np.float32],
    low: float,
    high: float,
    slack: float,
    positive: bool,
    total: NDArray[np.float32],
) -> None:
    """Add to ``total``, of rows ``start`` onwards, what clipped entries owe: true square minus the clipped one.

    The two nearly cancel when the target is large, so ``slack`` times both is taken off: the sum stays a lower bound,
    or with a negative ``slack`` an upper one.
    """
    stop = start + total.size
    for j in range(columns.size):
        first, last = offsets[columns[j]], offsets[columns[j] + 1]
        if first == last or rows[last - 1] < start:
            continue
        for i in range(first + np.searchsorted(rows[first:last], np.uint32(start)), last):
            if rows[i] >= stop:
                break
            value = half[values[i]]
            clipped = low if value < low else high
            if positive:
                true, false = max(value, np.float32(0.0)), np.float32(max(clipped, 0.0))
            else:
                true, false = targets[j] - value, np.float32(targets[j] - clipped)
            owed = true * true - false * false - slack * (true * true + false * false)
            total[rows[i] - start] += weights[j] * owed


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
    slope: np.float32,
    offset: np.float32,
    under: NDArray[np.float32],
) -> float:
    """Write a number below the bound of each of rows ``start`` to ``stop`` to ``under``; return the lowest of them.

    Without calibration they are the totals themselves. A square root and a branch for every row cost as much as many
    columns do, so a straight line on the safe side of the bound is compared first; see `_line`. What is taken off in
    the end covers float32 rounding.
    """
    lowest = np.float32(3e38)
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
        slope, offset = (1.0 + d) / shrink * (1.0 + 1e-6), error * error * (1.0 + 1.0 / d) * (1.0 + 1e-6)
    else:
        slope, offset = (1.0 - d) * shrink * (1.0 - 1e-6), error * error * (1.0 - 1.0 / d) * (1.0 + 1e-6)
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
    total: NDArray[np.float32],
    first: int,
    mask: NDArray[np.bool_],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    shrink: float,
    error: float,
    upper: bool,
    ceiling: float,
    keep: int,
    bounds: NDArray[np.float64],
    rows: NDArray[np.int64],
    count: int,
) -> tuple[int, float]:
    """Gather rows whose lower bound is below ``ceiling``; return how many are held, and the new ceiling.

    ``total`` holds approximate mean squares of rows ``first`` onwards. The true mean square is at least
    ``max(0, sqrt(total * shrink) - error)^2`` (triangle inequality); a calibrated distance is that times ``scale``
    plus ``shift`` of the row (both empty without calibration). With ``upper`` the scale is negative, so what is needed
    is the most that the mean square can be: ``(sqrt(total / shrink) + error)^2``.

    ``mask`` is empty when all rows are allowed. With ``keep`` > 0 only the ``keep`` lowest bounds are kept whenever the
    buffers fill, and the ceiling falls; with 0 all rows up to and including the ceiling are kept and the caller's
    buffers are large enough.
    """
    slope, offset = _line(shrink, error, upper)
    wide = _widest(ceiling, shrink, error, scale.size > 0)
    under = np.empty(GROUP, np.float32)
    for start in range(0, total.size, GROUP):
        stop = min(start + GROUP, total.size)
        if _estimate(total, start, stop, first, scale, shift, slope, offset, under) > wide:
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
    return count, ceiling


@numba.njit(nogil=True, cache=True)
def scan_rows(
    codes: NDArray[np.uint8],
    start: int,
    stop: int,
    offset: int,
    block: int,
    first_column: NDArray[np.int64],
    columns: NDArray[np.int32],
    targets: NDArray[np.float32],
    steps: NDArray[np.float32],
    weights: NDArray[np.float32],
    offsets: NDArray[np.int64],
    over_rows: NDArray[np.uint32],
    over_values: NDArray[np.uint16],
    half: NDArray[np.float32],
    mask: NDArray[np.bool_],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    shrink: NDArray[np.float64],
    error: NDArray[np.float64],
    positive: bool,
    least: np.uint8,
    unit: np.float32,
    low: float,
    high: float,
    keep: int,
    ceilings: NDArray[np.float64],
    bounds: NDArray[np.float64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Scan rows ``start`` to ``stop`` of a tile for several queries, block by block, so that they share its columns.

    Query q compares ``columns[first_column[q]:first_column[q + 1]]``; ``bounds`` and ``rows`` are ``[queries, room]``,
    of which ``counts[q]`` are held; the tile's first row is at position ``offset``. Entries beyond ``low`` and ``high``
    are in ``over_values``. See `_add_squares`, `_add_overflow` and `_select`.
    """
    total = np.empty(block, np.float32)
    for begin in range(start, stop, block):
        end = min(begin + block, stop)
        if mask.size and not mask[offset + begin : offset + end].any():
            continue
        part = total[: end - begin]
        for q in range(counts.size):
            part[:] = 0.0
            a, b = first_column[q], first_column[q + 1]
            slack = 2.0 * (1.0 - shrink[q])
            _add_overflow(
                begin, columns[a:b], targets[a:b], weights[a:b], offsets, over_rows, over_values, half, low, high,
                -slack if positive else slack, positive, part,
            )  # fmt: skip
            _add_squares(codes, begin, columns[a:b], least, steps[a:b], weights[a:b], unit, part)
            counts[q], ceilings[q] = _select(
                part, offset + begin, mask, scale, shift, shrink[q], error[q], positive, ceilings[q], keep, bounds[q],
                rows[q], counts[q],
            )  # fmt: skip
