"""The loops that turn rows of fp16 values into columns of codes, compiled by numba once and cached on disk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@numba.njit(nogil=True, cache=True)
def transpose_codes(
    exact: NDArray[np.uint16], code_of: NDArray[np.uint8], codes: NDArray[np.uint8], start: int, stop: int
) -> None:
    """Write the codes of rows ``start`` to ``stop`` of an fp16 tile ``[rows, n]`` to ``codes``, uint8 ``[n, rows]``.

    ``code_of`` is the code of every fp16 bit pattern. Done in squares of 64, which fit the first-level cache both ways.
    """
    n = exact.shape[1]
    for row in range(start, stop, 64):
        last_row = min(row + 64, stop)
        for column in range(0, n, 64):
            last_column = min(column + 64, n)
            for j in range(column, last_column):
                for i in range(row, last_row):
                    codes[j, i] = code_of[exact[i, j]]


@numba.njit(nogil=True, cache=True)
def count_flagged(exact: NDArray[np.uint16], flagged: NDArray[np.bool_], start: int, stop: int) -> int:
    """Return how many entries of rows ``start`` to ``stop`` have a flagged fp16 bit pattern."""
    count = 0
    for i in range(start, stop):
        for j in range(exact.shape[1]):
            if flagged[exact[i, j]]:
                count += 1
    return count


@numba.njit(nogil=True, cache=True)
def find_flagged(
    exact: NDArray[np.uint16], flagged: NDArray[np.bool_], start: int, stop: int, found: NDArray[np.int64]
) -> None:
    """Write ``column * rows + row`` of every flagged entry to ``found``, in order of rows."""
    count = 0
    for i in range(start, stop):
        for j in range(exact.shape[1]):
            if flagged[exact[i, j]]:
                found[count] = j * exact.shape[0] + i
                count += 1
