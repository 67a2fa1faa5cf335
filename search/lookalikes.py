"""A whole model as the query: which models recognise the same things, output by output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from search.contrast import strengths
from search.descriptor import Descriptor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.reader import Index

ASKED = 64
"""Logits of the query that ask, evenly spread over its outputs when it has more."""

CANDIDATES = 100
"""Models among the nearest logits of every asking logit that are compared in full, at most."""

ALIKE = 0.5
"""Score from which two logits count as recognising the same."""


def similar_models(index: Index, repo_id: str, *, sha: str | None = None, limit: int = 10) -> pa.Table:
    """Rank models by how well their outputs match those of ``repo_id``.

    A model's score is the mean, over the query's logits, of the best match among its own: cosine of squared positive
    responses (`search.contrast.strengths`), 0 to 1. It is asymmetric: a model that knows all the query knows, and more,
    scores as high as a copy. Candidates are the models of the ``4 * CANDIDATES`` nearest logits of each asking logit,
    found exactly; a model that is among them for no logit cannot be a hit.

    Returns a table ``rank, score, repo_id, sha, shared`` (share of the query's logits with a match of at least
    `ALIKE`) and the model's metadata. Raises `QueryError` when the model is not in the index.
    """
    gallery = index.gallery
    own = np.flatnonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha)))
    asked = own[np.unique(np.linspace(0, own.size - 1, min(ASKED, own.size)).astype(np.int64))]
    others = gallery.model_of != gallery.model_of[own[0]]
    vectors = gallery.vectors(asked)
    comparisons = [gallery.compile(Descriptor(vector, kind="logit"), "strong") for vector in vectors]
    found = gallery.nearest_many(comparisons, 4 * CANDIDATES, [others] * len(comparisons))
    near: set[int] = set()
    for rows, _ in found:
        models = gallery.model_of[rows]
        near.update(models[np.sort(np.unique(models, return_index=True)[1])][:CANDIDATES].tolist())
    strong = strengths(vectors)
    scored = [(*_match(index, strong, model), model) for model in sorted(near)]
    repos = gallery.models.column("repo_id").to_pylist()
    scored.sort(key=lambda entry: (-entry[0], repos[entry[2]]))
    top = scored[:limit]
    models = gallery.models.take(pa.array([model for _, _, model in top], pa.int32()))
    columns = {
        "rank": pa.array(range(1, len(top) + 1), pa.int32()),
        "score": pa.array([score for score, _, _ in top], pa.float64()),
        "repo_id": models.column("repo_id"),
        "sha": models.column("sha"),
        "shared": pa.array([shared for _, shared, _ in top], pa.float64()),
    }
    columns |= {name: models.column(name) for name in models.column_names if name not in (*columns, "model")}
    return pa.table(columns)


def _match(index: Index, asked: NDArray[np.float32], model: int) -> tuple[float, float]:
    rows = np.flatnonzero(index.gallery.model_of == model)
    best = np.zeros(len(asked), np.float32)
    for start in range(0, rows.size, 1_024):
        np.maximum(
            best, (asked @ strengths(index.gallery.vectors(rows[start : start + 1_024])).T).max(axis=1), out=best
        )
    return float(best.mean()), float((best >= ALIKE).mean())
