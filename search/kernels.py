"""The loops that numpy would run too slowly, compiled by numba once and cached on disk.

All of them release the interpreter lock and use one thread: callers split the rows among threads themselves, which,
unlike numba's own parallel loops, is safe when several queries run at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

HALF: NDArray[np.float32] = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Value of every fp16 bit pattern, float32 ``[65536]``: processors without fp16 arithmetic look it up."""


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


@numba.njit(nogil=True, cache=True)
def overflow_corrections(
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
    out: NDArray[np.float32],
) -> None:
    """Add to ``out``, float32 ``[rows of the tile]``, what clipped entries owe: true square minus the clipped one.

    The two nearly cancel when the target is large, so ``slack`` times both is taken off: the sum stays a lower bound,
    or with a negative ``slack`` an upper one.
    """
    for j in range(columns.size):
        for i in range(offsets[columns[j]], offsets[columns[j] + 1]):
            value = half[values[i]]
            clipped = low if value < low else high
            if positive:
                true, false = max(value, np.float32(0.0)), np.float32(max(clipped, 0.0))
            else:
                true, false = targets[j] - value, np.float32(targets[j] - clipped)
            owed = true * true - false * false - slack * (true * true + false * false)
            out[rows[i]] += weights[j] * owed


@numba.njit(nogil=True, cache=True, fastmath=True)
def scan_block(
    codes: NDArray[np.uint8],
    start: int,
    stop: int,
    columns: NDArray[np.int32],
    steps: NDArray[np.float32],
    weights: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add the weighted squares of rows ``start`` to ``stop`` of a probe-major tile to ``total[:stop - start]``.

    ``codes`` is uint8 ``[n_probes, rows]``; ``steps`` are the targets in units of a code. Four columns are added at
    once, so that the running totals are read and written a quarter as often.
    """
    size = stop - start
    j = 0
    while j + 4 <= columns.size:
        a = codes[columns[j], start:stop]
        b = codes[columns[j + 1], start:stop]
        c = codes[columns[j + 2], start:stop]
        d = codes[columns[j + 3], start:stop]
        ta, tb, tc, td = steps[j], steps[j + 1], steps[j + 2], steps[j + 3]
        wa, wb, wc, wd = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for i in range(size):
            ea = ta - np.float32(a[i])
            eb = tb - np.float32(b[i])
            ec = tc - np.float32(c[i])
            ed = td - np.float32(d[i])
            total[i] += wa * ea * ea + wb * eb * eb + wc * ec * ec + wd * ed * ed
        j += 4
    while j < columns.size:
        a = codes[columns[j], start:stop]
        ta, wa = steps[j], weights[j]
        for i in range(size):
            ea = ta - np.float32(a[i])
            total[i] += wa * ea * ea
        j += 1


@numba.njit(nogil=True, cache=True, fastmath=True)
def scan_positive_block(
    codes: NDArray[np.uint8],
    start: int,
    stop: int,
    columns: NDArray[np.int32],
    zero: float,
    weights: NDArray[np.float32],
    total: NDArray[np.float32],
) -> None:
    """Add the weighted squares of positive parts to ``total[:stop - start]``; ``zero`` is the code of the value 0."""
    size = stop - start
    origin, nothing = np.float32(zero), np.float32(0.0)
    j = 0
    while j + 4 <= columns.size:
        a = codes[columns[j], start:stop]
        b = codes[columns[j + 1], start:stop]
        c = codes[columns[j + 2], start:stop]
        d = codes[columns[j + 3], start:stop]
        wa, wb, wc, wd = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for i in range(size):
            ea = max(np.float32(a[i]) - origin, nothing)
            eb = max(np.float32(b[i]) - origin, nothing)
            ec = max(np.float32(c[i]) - origin, nothing)
            ed = max(np.float32(d[i]) - origin, nothing)
            total[i] += wa * ea * ea + wb * eb * eb + wc * ec * ec + wd * ed * ed
        j += 4
    while j < columns.size:
        a = codes[columns[j], start:stop]
        wa = weights[j]
        for i in range(size):
            ea = max(np.float32(a[i]) - origin, nothing)
            total[i] += wa * ea * ea
        j += 1


@numba.njit(nogil=True, cache=True)
def select_rows(
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
    # compared before the square root is taken, in units of total; a hair wider than exact, never narrower
    wide = np.float32(np.inf)
    if not scale.size and ceiling < np.inf:
        wide = np.float32((np.sqrt(ceiling) + error) ** 2 / shrink * 1.000001)
    for i in range(total.size):
        if total[i] > wide:
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
            if not scale.size:
                wide = np.float32((np.sqrt(ceiling) + error) ** 2 / shrink * 1.000001)
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
    steps: NDArray[np.float32],
    weights: NDArray[np.float32],
    owed: NDArray[np.float32],
    mask: NDArray[np.bool_],
    scale: NDArray[np.float32],
    shift: NDArray[np.float32],
    shrink: NDArray[np.float64],
    error: NDArray[np.float64],
    positive: bool,
    zero: float,
    keep: int,
    ceilings: NDArray[np.float64],
    bounds: NDArray[np.float64],
    rows: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Scan rows ``start`` to ``stop`` of a tile for several queries, block by block, so that they share its columns.

    Query q compares ``columns[first_column[q]:first_column[q + 1]]``; ``owed`` is float32 ``[queries, rows]`` or of no
    rows; ``bounds`` and ``rows`` are ``[queries, room]``, of which ``counts[q]`` are held; the tile's first row is at
    position ``offset``. See `scan_block` and `select_rows`.
    """
    total = np.empty(block, np.float32)
    for low in range(start, stop, block):
        high = min(low + block, stop)
        if mask.size and not mask[offset + low : offset + high].any():
            continue
        part = total[: high - low]
        for q in range(counts.size):
            if owed.shape[1]:
                part[:] = owed[q, low:high]
            else:
                part[:] = 0.0
            a, b = first_column[q], first_column[q + 1]
            if positive:
                scan_positive_block(codes, low, high, columns[a:b], zero, weights[a:b], part)
            else:
                scan_block(codes, low, high, columns[a:b], steps[a:b], weights[a:b], part)
            counts[q], ceilings[q] = select_rows(
                part, offset + low, mask, scale, shift, shrink[q], error[q], positive, ceilings[q], keep, bounds[q],
                rows[q], counts[q],
            )  # fmt: skip
