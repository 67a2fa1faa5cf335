"""Descriptors in one byte per entry, stored probe by probe, with a proven bound on what that costs.

A value v becomes ``round((v - LOW) / STEP)``, 0 to 255, and is read back within ``STEP / 2`` of itself. Values beyond
the range are rare (Chebyshev: of a z-scored row at most 1 in 16 is below -4 and 1 in 140 above 11.9) and are kept
exactly beside the codes, so the bound holds for every entry.

``<name>.u8``: codes, uint8 ``[n_probes, rows]``. ``<name>.over``: int64 offsets ``[n_probes + 1]``, uint32 rows, fp16
values of the entries out of range, probe by probe, rows ascending.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

from search.kernels import HALF
from search.packing import count_flagged, find_flagged, transpose_codes

LOW = -4.0
"""Value of code 0, in standard deviations."""

STEP = 1.0 / 16.0
"""Distance of neighbouring codes, in standard deviations: exact in binary, so that codes are the same everywhere."""

ZERO = -LOW / STEP
"""Code of the value 0."""

HIGH = LOW + 255 * STEP
"""Value of code 255, in standard deviations."""

ERROR = STEP / 2 + 1e-4
"""Bound on what one entry is off by, in standard deviations; the last part covers float32 rounding."""


def _codes_of_every_value() -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the code of every fp16 bit pattern, and whether it is out of range (or not finite)."""
    with np.errstate(invalid="ignore"):
        scaled = np.rint((HALF.astype(np.float64) - LOW) / STEP)
        flagged = ~((scaled >= 0) & (scaled <= 255))
        return np.nan_to_num(np.clip(scaled, 0, 255)).astype(np.uint8), flagged


CODE_OF, FLAGGED = _codes_of_every_value()


def encode(vectors: NDArray[np.float16]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the codes, uint8 ``[n_probes, rows]``, and the overflow as bytes, of float16 ``[rows, n_probes]``."""
    rows, n = vectors.shape
    exact = np.ascontiguousarray(vectors).view(np.uint16)
    codes = np.empty((n, rows), np.uint8)
    transpose_codes(exact, CODE_OF, codes, 0, rows)
    flat = np.empty(count_flagged(exact, FLAGGED, 0, rows), np.int64)
    find_flagged(exact, FLAGGED, 0, rows, flat)
    flat.sort()
    probe, row = flat // rows, (flat % rows).astype("<u4")
    offsets = np.searchsorted(probe, np.arange(n + 1)).astype("<i8")
    values = vectors[row, probe].astype("<f2")
    return codes, np.frombuffer(offsets.tobytes() + row.tobytes() + values.tobytes(), np.uint8)


def read_overflow(data: NDArray[np.uint8], n: int) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint16]]:
    """Return offsets, rows and fp16 bit patterns from the bytes of a ``.over`` file; ValueError when they disagree."""
    offsets = data[: 8 * (n + 1)].view("<i8")
    count = int(offsets[-1]) if offsets.size == n + 1 else -1
    if count < 0 or data.size != 8 * (n + 1) + 6 * count:
        raise ValueError(f"{data.size} bytes cannot hold {count} entries over {n} probes")
    start = 8 * (n + 1)
    return offsets, data[start : start + 4 * count].view("<u4"), data[start + 4 * count :].view("<u2")
