"""The exact distances, compiled by numba once and cached on disk; the loop releases the interpreter lock."""

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
