"""Questions that whole models answer.

Several concepts at once: all of these, any of those, none of the others. Or a model: which others recognise the same
things, output by output.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from search.scan.scoring import Comparison, Descriptor
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

COMPARED = 200
"""Models that are compared in full at most, or four for each that is asked for: those of highest bound first."""

KEPT = 4_096
"""Nearest logits of each asking one that set their models' bounds; benchmarks/cli/RESULTS.md has what they find."""

ALIKE = 0.5
"""Score from which two logits count as recognising the same."""

_COLUMNS = 128  # probes of an asking logit that the scan compares


def similar_models(
    gallery: Gallery, repo_id: str, *, sha: str | None = None, limit: int = 10, kept: int = KEPT, together: int = 32
) -> pa.Table:
    """Rank models by how well their outputs match those of ``repo_id``.

    A model's score is the mean, over the query's logits, of the best match among its own: cosine of squared positive
    responses (`strengths`), 0 to 1. It is asymmetric: a model that knows all the query knows, and more, scores as
    high as a copy. The scan bounds every model's score from above, and models are compared in full from the highest
    bound down, until no other can be among the ``limit`` best, or `COMPARED` were: then the answer is not exact, and
    the table's schema says so (metadata ``exact``, ``compared`` and ``models``).

    Args:
        gallery: the version that is open.
        repo_id: the model that asks.
        sha: its commit; the last indexed when None.
        limit: models returned.
        kept: nearest logits of each asking one that set their models' bounds.
        together: models that are read at once.

    Returns a table ``rank, score, repo_id, sha, shared`` (share of the query's logits with a match of at least
    `ALIKE`) and the model's metadata. Raises `QueryError` when the model is not in the index.
    """
    own = np.flatnonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha)))
    asked = own[np.unique(np.linspace(0, own.size - 1, min(ASKED, own.size)).astype(np.int64))]
    strong = strengths(gallery.vectors(asked))
    bounds = _similarity_bounds(gallery, asked, strong, kept)
    bounds[gallery.model_of[own[0]]] = -np.inf
    order = np.argsort(-bounds, kind="stable")[:-1]
    compared, most, is_exact = 0, max(COMPARED, 4 * limit), True
    repos = gallery.models.column("repo_id")
    top: list[tuple[float, str, float, int]] = []  # by score, then by name
    for start in range(0, order.size, together):
        if len(top) >= limit and bounds[order[start]] < -top[limit - 1][0]:
            break
        if compared >= most:
            is_exact = False
            break
        models = np.sort(order[start : start + together])
        compared += models.size
        for model, best in zip(models.tolist(), _matches(gallery, strong, models), strict=True):
            top.append((-float(best.mean()), repos[model].as_py(), float((best >= ALIKE).mean()), model))
        top = sorted(top)[:limit]
    found = gallery.models.take(pa.array([model for *_, model in top], pa.int32()))
    columns = {
        "rank": pa.array(range(1, len(top) + 1), pa.int32()),
        "score": pa.array([-negative for negative, *_ in top], pa.float64()),
        "repo_id": found.column("repo_id"),
        "sha": found.column("sha"),
        "shared": pa.array([shared for _, _, shared, _ in top], pa.float64()),
    }
    columns |= {name: found.column(name) for name in found.column_names if name not in (*columns, "model")}
    about = {"exact": str(is_exact).lower(), "compared": str(compared), "models": str(order.size)}
    return pa.table(columns).replace_schema_metadata(about)


def _similarity_bounds(gallery: Gallery, asked: Rows, strong: NDArray[np.float32], kept: int) -> NDArray[np.float64]:
    """Return what no model's score for the ``asked`` logits is above, float64 ``[models]``.

    With q and g squared positive responses of unit length and S the columns compared, ``q . g`` is at most their
    product on S plus the norm of q beyond S (Cauchy and Schwarz); a logit that is not kept is past the floor.
    """
    k = min(_COLUMNS, gallery.n_probes)
    comparisons = [gallery.compile(Descriptor(vector, kind="logit"), "strong", k) for vector in gallery.vectors(asked)]
    total = np.zeros(gallery.models.num_rows)
    found = gallery.scanner.scan(comparisons, [None] * len(comparisons), kept, [np.inf] * len(comparisons))
    for comparison, candidates, own in zip(comparisons, found, strong, strict=True):
        within = float(np.linalg.norm(own[comparison.columns].astype(np.float64)))
        beyond = float(np.sqrt(max(0.0, 1.0 - within**2)))
        best = np.full(total.size, 1.0 - min(candidates.floor, 1.0))
        np.maximum.at(best, gallery.model_of[candidates.rows], 1.0 - candidates.bounds)
        total += np.minimum(within * best + beyond, 1.0)
    return total / len(comparisons) + 1e-5  # what float32 rounds


def _matches(gallery: Gallery, strong: NDArray[np.float32], models: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return each asking logit's best match in each of ``models``, ascending, float32 ``[models, asked]``."""
    rows = np.flatnonzero(np.isin(gallery.model_of, models))
    rows = rows[np.argsort(gallery.model_of[rows], kind="stable")]
    first = np.searchsorted(gallery.model_of[rows], models)
    scores = np.concatenate(
        [strengths(gallery.vectors(rows[i : i + 1_024])) @ strong.T for i in range(0, rows.size, 1_024)]
    )
    best: NDArray[np.float32] = np.maximum.reduceat(np.maximum(scores, 0.0), first, axis=0)
    return best
