"""Descriptors in fewer dimensions, for an approximate index that candidates come from; never for a final order.

Source: randomised range finder with power iterations, Halko, Martinsson and Tropp, SIAM Review 53 (2011), alg. 4.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workspace.files import damaged, read_array, write_array

if TYPE_CHECKING:
    from numpy.typing import NDArray

DIMENSIONS = 256
"""Measured on 200,000 structured descriptors: the exact top 10 lie within 1,000 candidates (shared STACK.md)."""

SAMPLE = 8_192
"""Descriptors the basis is fitted on."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """An orthonormal basis.

    Attributes:
        basis: float32 ``[n_probes, dim]``, or None when descriptors are short enough to be kept whole.
    """

    basis: NDArray[np.float32] | None

    @classmethod
    def fit(cls, vectors: NDArray[np.float16], *, seed: int = 0) -> Reduction:
        """Return the span of the strongest directions of float16 ``[rows, n_probes]``."""
        if vectors.shape[1] <= DIMENSIONS:
            return cls(None)
        rng = np.random.default_rng(seed)
        x = vectors.astype(np.float32)
        y = x.T @ (x @ rng.standard_normal((x.shape[1], DIMENSIONS), np.float32))
        for _ in range(2):
            y = x.T @ (x @ _orthonormal(y))
        return cls(np.ascontiguousarray(_orthonormal(y)))

    def reduce(self, vectors: NDArray[np.float16] | NDArray[np.float32]) -> NDArray[np.float16]:
        """Return float16 ``[rows, dim]``."""
        if self.basis is None:
            return vectors.astype(np.float16)
        return (vectors.astype(np.float32) @ self.basis).astype(np.float16)

    def save(self, folder: Path) -> None:
        """Write ``reduction.npy``; nothing when descriptors are kept whole."""
        if self.basis is not None:
            write_array(folder / "reduction.npy", self.basis)

    @classmethod
    def load(cls, folder: Path, n_probes: int) -> Reduction:
        """Read what `save` wrote; raises `WorkspaceError` when it is damaged."""
        if n_probes <= DIMENSIONS:
            return cls(None)
        basis = read_array(folder / "reduction.npy")
        if basis.ndim != 2 or len(basis) != n_probes or basis.dtype != np.float32:
            raise damaged(folder / "reduction.npy", f"it is no basis of {n_probes} probes")
        return cls(basis)


def _orthonormal(y: NDArray[np.float32]) -> NDArray[np.float32]:
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
