"""Questions that whole models answer.

Several concepts at once: all of these, any of those, none of the others. Or a model: which others recognise the same
things, output by output.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from search.scan.scan import threads
from search.scan.scoring import Comparison, Descriptor
from search.store.tiles import SQUARES
from search.text.contrast import strengths
from workspace import QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.scan.gallery import Gallery
    from search.scan.nearest import Mask, Rows

REJECTED = 0.1
"""Share of all models, nearest to a ``none_of`` concept, that are taken to know it and are left out."""


@dataclass(frozen=True, eq=False)
class Concepts:
    """What a model should and should not recognise.

    Attributes:
        all_of: the model scores by the worst matched of these.
        any_of: and by the best matched of these.
        none_of: models among the `REJECTED` nearest to one of these are left out.
    """

    all_of: tuple[Descriptor, ...] = ()
    any_of: tuple[Descriptor, ...] = ()
    none_of: tuple[Descriptor, ...] = ()

    def __post_init__(self) -> None:
        if not self.all_of and not self.any_of:
            raise QueryError("name at least one concept to look for in all_of or any_of; none_of alone finds nothing")

    @property
    def wanted(self) -> tuple[Descriptor, ...]:
        """The concepts that score: all_of, then any_of."""
        return self.all_of + self.any_of

    def combine(self, distances: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return a model's distance, ``[models]``, from its distance to each wanted concept, ``[concepts, models]``."""
        parts = []
        if self.all_of:
            parts.append(distances[: len(self.all_of)].max(axis=0))
        if self.any_of:
            parts.append(distances[len(self.all_of) :].min(axis=0))
        worst: NDArray[np.float64] = np.maximum.reduce(parts)
        return worst


@dataclass(frozen=True, eq=False)
class ModelHit:
    """A model, its combined distance, and its nearest logit's position and distance for each wanted concept."""

    model: int
    distance: float
    rows: tuple[int, ...]
    distances: tuple[float, ...]


def nearest_models(
    gallery: Gallery,
    concepts: Concepts,
    comparisons: Sequence[Comparison],
    rejected: Sequence[Comparison],
    limit: int,
    mask: Mask | None,
) -> list[ModelHit]:
    """Return the ``limit`` models of smallest combined distance, exactly.

    ``comparisons`` are those of `Concepts.wanted`, ``rejected`` those of ``none_of``. A model's lower bounds combine to
    a lower bound, because maximum and minimum are monotone: models are read in its order until the next one's bound is
    beyond the worst kept. Equal distances are ordered by ``(repo_id, sha)``.
    """
    allowed = np.ones(len(gallery), bool) if mask is None else mask.copy()
    for comparison in rejected:
        allowed &= ~np.isin(gallery.model_of, _knowing(gallery, comparison))
    if not allowed.any():
        return []
    bounds = np.stack([_model_bounds(gallery, comparison, allowed) for comparison in comparisons])
    lower = concepts.combine(bounds)
    order = np.argsort(lower, kind="stable")
    order = order[np.isfinite(lower[order])]
    names = gallery.models.select(["repo_id", "sha"])
    hits: list[ModelHit] = []
    batch = max(64, 4 * limit)
    for start in range(0, order.size, batch):
        if len(hits) >= limit and lower[order[start]] > hits[limit - 1].distance:
            break
        hits += _read(gallery, concepts, comparisons, order[start : start + batch], allowed)
        keys = {h.model: (names.column(0)[h.model].as_py(), names.column(1)[h.model].as_py()) for h in hits}
        hits.sort(key=lambda h: (h.distance, keys[h.model]))
        hits = hits[:limit]
    return hits


def _knowing(gallery: Gallery, comparison: Comparison) -> NDArray[np.int32]:
    count = max(1, round(REJECTED * gallery.models.num_rows))
    return gallery.model_of[gallery.nearest_of(comparison, count, None, gallery.model_of)[0]]


def _model_bounds(gallery: Gallery, comparison: Comparison, allowed: Mask) -> NDArray[np.float64]:
    """Return a lower bound on each model's smallest distance, float64 ``[models]``; infinite if none is allowed."""
    found = np.full(gallery.models.num_rows, np.inf)
    if comparison.raw:
        rows = np.flatnonzero(allowed)
        np.minimum.at(found, gallery.model_of[rows], gallery.distances(comparison, rows))
    else:
        (candidates,) = gallery.scanner.scan([comparison], [allowed], 0, [np.inf])
        np.minimum.at(found, gallery.model_of[candidates.rows], candidates.bounds)
    return found


def _read(
    gallery: Gallery, concepts: Concepts, comparisons: Sequence[Comparison], models: NDArray[np.int64], allowed: Mask
) -> list[ModelHit]:
    rows: Rows = np.flatnonzero(np.isin(gallery.model_of, models) & allowed)
    of = gallery.model_of[rows]
    exact = np.stack([gallery.distances(comparison, rows) for comparison in comparisons])
    hits = []
    for model in np.unique(of):
        own = np.flatnonzero(of == model)
        nearest = exact[:, own].argmin(axis=1)
        distances = exact[:, own].min(axis=1)
        combined = float(concepts.combine(distances[:, None])[0])
        hits.append(ModelHit(int(model), combined, tuple(rows[own[nearest]].tolist()), tuple(distances.tolist())))
    return hits


ASKED = 64
"""Logits of the query that ask, evenly spread over its outputs when it has more."""

ALIKE = 0.5
"""Score from which two logits count as recognising the same."""

_ENTRIES = 1 << 19  # of descriptors that are squared at once: they stay in the processor's cache


def similar_models(gallery: Gallery, repo_id: str, *, sha: str | None = None, limit: int = 10) -> pa.Table:
    """Rank models by how well their outputs match those of ``repo_id``.

    A model's score is the mean, over the query's logits, of the best match among its own: cosine of squared positive
    responses (`strengths`), 0 to 1. It is asymmetric: a model that knows all the query knows, and more, scores as
    high as a copy. Exact: every output of every model is compared.

    Args:
        gallery: the version that is open.
        repo_id: the model that asks.
        sha: its commit; the last indexed when None.
        limit: models returned.

    Returns a table ``rank, score, repo_id, sha, shared`` (share of the query's logits with a match of at least
    `ALIKE`) and the model's metadata. Raises `QueryError` when the model is not in the index.
    """
    own = np.flatnonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha)))
    asked = own[np.unique(np.linspace(0, own.size - 1, min(ASKED, own.size)).astype(np.int64))]
    best = _matches(gallery, strengths(gallery.vectors(asked)))
    scores, repos = best.mean(axis=1, dtype=np.float64), gallery.models.column("repo_id")
    scores[gallery.model_of[own[0]]] = -np.inf
    least = -np.sort(-scores)[: limit + 1][-1]
    others = np.flatnonzero((scores >= least) & np.isfinite(scores)).tolist()
    top = sorted(others, key=lambda model: (-scores[model], repos[model].as_py()))[:limit]
    found = gallery.models.take(pa.array(top, pa.int32()))
    columns = {
        "rank": pa.array(range(1, len(top) + 1), pa.int32()),
        "score": pa.array(scores[top], pa.float64()),
        "repo_id": found.column("repo_id"),
        "sha": found.column("sha"),
        "shared": pa.array((best[top] >= ALIKE).mean(axis=1), pa.float64()),
    }
    columns |= {name: found.column(name) for name in found.column_names if name not in (*columns, "model")}
    return pa.table(columns)


def _matches(gallery: Gallery, strong: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each asking logit's best match in each model, float32 ``[models, asked]``, of `strengths` that ask."""
    lengths = np.maximum(gallery.peaks(), np.float32(1e-12))
    step = max(1, _ENTRIES // gallery.n_probes)

    def compared(span: tuple[int, int]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        number, start = span
        tile = gallery.tiles[number]
        rows = np.arange(start, min(start + step, tile.rows))
        there = rows + gallery.starts[number]
        scores = np.take(SQUARES, tile.read(start, rows.size), mode="clip") @ strong.T
        models = gallery.model_of[there]
        first = np.flatnonzero(np.diff(models, prepend=-1))
        return models[first], np.maximum.reduceat(scores / lengths[there, None], first, axis=0)

    gallery.have_rows(np.arange(len(gallery)))
    best = np.zeros((gallery.models.num_rows, len(strong)), np.float32)
    spans = [(number, start) for number, tile in enumerate(gallery.tiles) for start in range(0, tile.rows, step)]
    with ThreadPoolExecutor(threads()) as pool:
        for models, matches in pool.map(compared, spans):
            np.maximum.at(best, models, matches)
    return best
