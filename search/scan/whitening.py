"""Descriptors in few numbers in which no direction that many logits share outweighs the others.

Between two logits' responses most of the correlation is what all models do alike: blurred against sharp photographs,
drawings against textures. PCA-whitening takes that out (Jégou and Chum, ECCV 2012): positive responses to the power
of 1.25 (`search.scan.scoring.OWN_POWER`) at unit length are turned to the gallery's principal directions and divided
by their strength. Its cosine joins the score of a logit's question; figures: benchmarks/photohub/RESULTS.md.

Directions are as many as the gallery supports, one to `LOGITS_EACH` logits: beyond them lies the noise of small
galleries. What is kept is one signed byte a direction, so that a cosine is made of exact whole numbers, whoever
computes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.text.contrast import Vectors, unit
from workspace.files import damaged, read_array, write_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = 0.5
"""Of the cosine in the score of a logit's question; the rest is the score of its strongest probes."""

DIMENSIONS = 256
"""Directions at most."""

LOGITS_EACH = 16
"""Logits that a direction takes."""

SAMPLE = 8_192
"""Logits that directions are found from, evenly spread over the gallery."""

GROWTH = 4
"""Times as many logits as directions were found from at which more are found, where there are fewer than could be."""

FOLDER = "whitened"
_PASSES, _EXTRA = 2, 8  # of the randomised range finder
_ROWS = 4_096


def leading(x: NDArray[np.float32], rank: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return an orthonormal basis, float32 ``[n, rank]``, of the strongest directions of ``x``, float32 ``[rows, n]``.

    Source: randomised range finder with power iterations, Halko, Martinsson and Tropp, SIAM Review 53 (2011), alg. 4.4.
    """
    y = x.T @ (x @ np.random.default_rng(seed).standard_normal((x.shape[1], rank), np.float32))
    for _ in range(_PASSES):
        y = x.T @ (x @ orthonormal(y))
    return np.ascontiguousarray(orthonormal(y))


def orthonormal(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return an orthonormal basis of the columns of ``y``, zeros where they are dependent.

    Through the small Gram matrix, twice for accuracy: LAPACK's QR of a tall matrix took a minute on a busy machine.
    """
    for _ in range(2):
        wide = y.astype(np.float64)
        values, vectors = np.linalg.eigh(wide.T @ wide)
        kept = values > 1e-10 * values[-1]
        inverse = np.where(kept, 1 / np.sqrt(np.where(kept, values, 1.0)), 0.0)
        y = (wide @ (vectors * inverse)).astype(np.float32)
    return y


@dataclass(frozen=True, eq=False)
class Whitened:
    """A gallery's directions, and every logit in them."""

    basis: NDArray[np.float32]  # float32 ``[n_probes, rank]``, the directions over their strength
    codes: NDArray[np.int8]  # int8 ``[logits, rank]``
    found_from: int  # logits that there were when the directions were found

    def of(self, vectors: NDArray[np.float32]) -> NDArray[np.int8]:
        """Return the codes of descriptors, int8 ``[rows, rank]``, from float32 ``[rows, n_probes]``."""
        return _codes(vectors, self.basis)

    def cosines(self, code: NDArray[np.int8], rows: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
        """Return the cosine of ``code``, int8 ``[rank]``, with ``rows`` (all when None), float32; 0 of no response."""
        from search.scan.kernels import products  # importing numba takes 0.3 s

        rows = np.arange(len(self.codes), dtype=np.int64) if rows is None else rows
        dots, squares = np.empty(rows.size, np.int32), np.empty(rows.size, np.int32)
        products(self.codes, rows, code, dots, squares)
        norm = np.sqrt(squares.astype(np.float64) * float((code.astype(np.int64) ** 2).sum()))
        return np.asarray(dots / np.maximum(norm, 1.0), np.float32)

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        (folder / FOLDER).mkdir()
        for name, array in (("basis", self.basis), ("codes", self.codes), ("found_from", np.array(self.found_from))):
            write_array(folder / FOLDER / f"{name}.npy", array)

    @classmethod
    def load(cls, folder: Path, n_probes: int, logits: int) -> Whitened | None:
        """Read what `save` wrote, None when the version has none; raises `WorkspaceError` when it is damaged."""
        parts = folder / FOLDER
        if not parts.is_dir():
            return None
        basis, count = read_array(parts / "basis.npy"), read_array(parts / "found_from.npy")
        codes = read_array(parts / "codes.npy")
        fits = basis.ndim == 2 and basis.shape[0] == n_probes and codes.shape == (logits, basis.shape[1])
        fits = fits and basis.dtype == np.float32 and codes.dtype == np.int8 and count.shape == ()
        if not fits or not np.isfinite(basis).all():
            raise damaged(parts, f"it is not of {logits} logits over {n_probes} probes")
        return cls(basis, codes, int(count))


def whiten(vectors: Vectors, count: int, previous: Whitened | None = None) -> Whitened:
    """Return a version's directions and codes; ``previous`` are those of the version that it continues.

    Args:
        vectors: reads descriptors.
        count: logits.
        previous: its directions are kept, and its codes, until the gallery is `GROWTH` times as large as it was when
            they were found and supports more of them.
    """
    if previous is not None and (previous.basis.shape[1] == DIMENSIONS or count < GROWTH * previous.found_from):
        basis, found_from, codes = previous.basis, previous.found_from, [previous.codes]
    else:
        basis, found_from, codes = _directions(vectors, count), count, []
    start = sum(len(part) for part in codes)
    for begin in range(start, count, _ROWS):
        codes.append(_codes(vectors(np.arange(begin, min(begin + _ROWS, count))), basis))
    return Whitened(basis, np.concatenate([np.empty((0, basis.shape[1]), np.int8), *codes]), found_from)


def _directions(vectors: Vectors, count: int) -> NDArray[np.float32]:
    """Return the principal directions of a gallery over their strength, float32 ``[n_probes, rank]``."""
    rows = np.unique(np.linspace(0, max(count - 1, 0), min(SAMPLE, count)).astype(np.int64))
    x = _strong(vectors(rows))
    rank = min(DIMENSIONS, count // LOGITS_EACH, x.shape[1])
    wide = leading(x, min(rank + _EXTRA, x.shape[1], max(rows.size, 1)))
    seen = (x @ wide).astype(np.float64)
    power, turn = np.linalg.eigh(seen.T @ seen)
    power, turn = power[::-1][:rank], turn[:, ::-1][:, :rank]
    # the strength of a direction a quarter of the way down is added, so that the last ones, mostly noise, do not lead
    strength = np.sqrt(np.maximum(power, 0.0) + (power[rank // 4] if rank else 0.0))
    return np.ascontiguousarray(wide @ (turn / np.maximum(strength, 1e-12)), np.float32)


def _strong(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    positive = np.maximum(vectors, np.float32(0.0))
    return unit(positive * np.sqrt(np.sqrt(positive)))  # to the power of 1.25, five times as fast as ``**``


def _codes(vectors: NDArray[np.float32], basis: NDArray[np.float32]) -> NDArray[np.int8]:
    turned = _strong(vectors) @ basis
    most = np.abs(turned).max(axis=1, initial=1e-12, keepdims=True)
    return np.asarray(np.rint(turned * (127.0 / most)), np.int8)
