"""Whole-descriptor neighbours: candidates from LanceDB's vector index, put in order by the exact correlation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.descriptor import Descriptor
from search.reduction import Reduction
from search.scoring import Comparison, full

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.finder import Mask, Rows
    from search.gallery import Gallery

_PER_HIT, _AT_LEAST = 20, 500
"""Candidates read exactly: this many for each hit asked for, and at least so many."""

_PROBED_PARTITIONS = 0.25
"""Share of the index's partitions that a query reads."""

_RECALL_QUERIES = 16


class Neighbours:
    """The approximate side of "more like this", symmetric: all probes count, whichever of the two is asked.

    Args:
        gallery: whose logits are searched.
    """

    def __init__(self, gallery: Gallery) -> None:
        self._gallery = gallery
        self._table: Any = gallery.database.open_table("vectors")
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
        search = self._table.search(reduced).distance_type("cosine").limit(count).select(["position", "_distance"])
        if not self._flat:
            partitions = max(1, round(len(self._gallery) ** 0.5 / 8))
            search = search.nprobes(max(8, round(partitions * _PROBED_PARTITIONS)))
        found: NDArray[np.int64] = search.to_arrow().column("position").to_numpy()
        return np.unique(found)


def measured_recall(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Measure what share of the exact ten nearest over all probes the approximate index finds, on its own logits."""
    from search.gallery import Gallery

    count = int(manifest["logits"])
    if count == 0:
        return {"similar_whole@10": None, "queries": 0}
    gallery = Gallery(folder, manifest)
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
