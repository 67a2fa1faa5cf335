"""Whole-descriptor neighbours: candidates from LanceDB's vector index, put in order by the exact correlation.

The index holds descriptors in fewer dimensions, which candidates come from, never a final order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.scan.gallery import Gallery
from search.scan.nearest import Mask, Rows
from search.scan.scoring import Comparison, Descriptor, full
from search.scan.whitening import leading
from search.store.tables import reading
from workspace.files import damaged, read_array, write_array

DIMENSIONS = 256
"""Measured on 200,000 structured descriptors: the exact top 10 lie within 1,000 candidates (shared STACK.md)."""

SAMPLE = 8_192
"""Descriptors the basis is fitted on."""


@dataclass(frozen=True, eq=False)
class Reduction:
    """An orthonormal basis."""

    # float32 ``[n_probes, dim]``, or None when descriptors are short enough to be kept whole
    basis: NDArray[np.float32] | None

    @classmethod
    def fit(cls, vectors: NDArray[np.float16], *, seed: int = 0) -> Reduction:
        """Return the span of the strongest directions of float16 ``[rows, n_probes]``."""
        if vectors.shape[1] <= DIMENSIONS:
            return cls(None)
        return cls(leading(vectors.astype(np.float32), DIMENSIONS, seed=seed))

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


_PER_HIT, _AT_LEAST = 20, 500
"""Candidates read exactly: this many for each hit asked for, and at least so many."""

_PROBED_PARTITIONS = 0.25
"""Share of the index's partitions that a query reads."""

_RECALL_QUERIES = 16


class Neighbours:
    """The approximate side of "more like this", symmetric: all probes count, whichever of the two is asked."""

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._reduction = Reduction.load(gallery.folder, gallery.n_probes)
        self._flat = gallery.manifest["vector_index"] == "flat"

    def nearest(self, query: Descriptor, limit: int, mask: Mask | None) -> tuple[Rows, NDArray[np.float64]]:
        """Return the ``limit`` nearest logits over all probes, as `Gallery.nearest` does but perhaps not all of them.

        When a filter leaves fewer than ``limit`` candidates the exact scan answers instead.
        """
        comparison = full(query, query.vector.size)
        rows = self.candidates(query, max(_AT_LEAST, _PER_HIT * limit))
        if mask is not None:
            rows = rows[mask[rows]]
        if rows.size < min(limit, len(self._gallery)):
            return self._gallery.nearest(comparison, limit, mask)
        return self._gallery.ranked(rows, self._gallery.distances(comparison, rows), limit)

    def candidates(self, query: Descriptor, count: int) -> Rows:
        """Return about ``count`` positions that the index holds to be near."""
        reduced = self._reduction.reduce(query.vector[None])[0].astype(np.float32)
        with reading(self._gallery.database, "vectors") as table:
            search = table.search(reduced).distance_type("cosine").limit(count).select(["position", "_distance"])
            if not self._flat:
                partitions = max(1, round(len(self._gallery) ** 0.5 / 8))
                search = search.nprobes(max(8, round(partitions * _PROBED_PARTITIONS)))
            found: NDArray[np.int64] = search.to_arrow().column("position").to_numpy()
        return np.unique(found)


def measured_recall(gallery: Gallery) -> dict[str, Any]:
    """Measure what share of the exact ten nearest over all probes the approximate index finds, on its own logits."""
    count = len(gallery)
    if count == 0:
        return {"similar_whole@10": None, "queries": 0}
    approximate = Neighbours(gallery)
    rows = np.random.default_rng(0).choice(count, min(_RECALL_QUERIES, count), replace=False)
    queries = [Descriptor(gallery.vector(int(row))) for row in rows]
    found = 0
    wanted = min(10, count)
    for query in queries:
        comparison: Comparison = full(query, gallery.n_probes)
        exact, _ = gallery.nearest(comparison, wanted, None)
        near, _ = approximate.nearest(query, wanted, None)
        found += len(set(exact.tolist()) & set(near.tolist()))
    return {"similar_whole@10": found / (wanted * len(queries)), "queries": len(queries)}
