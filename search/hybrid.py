"""Behaviour joined with words: what a logit answers, its label, its repository's name, and what its card says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from search.scoring import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.finder import Mask, Rows
    from search.gallery import Gallery

RRF = 60
"""Constant of reciprocal rank fusion, Cormack, Clarke and Buettcher, SIGIR 2009: score = sum of 1 / (60 + rank)."""

_DEPTH = 200  # hits each side brings, at least; twice the limit when that is more
_MOST_WORDS = 100_000  # full-text matches read when a filter leaves out most of them


def fused(
    gallery: Gallery, comparison: Comparison, text: str, limit: int, mask: Mask | None
) -> tuple[Rows, NDArray[np.float64], NDArray[np.float64], list[list[str]]]:
    """Return positions, distances, fused scores and the sides that found each, best first.

    The sides are ``behaviour``, ``label`` (full text over the logit's label), ``name`` and ``card`` (full text over the
    repository's name, and over its card's first sentences: its logit of smallest distance). Equal scores are ordered
    by distance, then by key.
    """
    depth = max(_DEPTH, 2 * limit)
    sides: dict[str, list[int]] = {"behaviour": gallery.nearest(comparison, depth, mask)[0].tolist()}
    sides["label"] = _labels(gallery, text, depth, mask)
    for side, column in (("name", "repo_id"), ("card", "card_summary")):
        sides[side] = _models(gallery, comparison, column, text, depth, mask)
    scores: dict[int, float] = {}
    found: dict[int, list[str]] = {}
    for side, rows in sides.items():
        for rank, row in enumerate(rows, 1):
            scores[row] = scores.get(row, 0.0) + 1.0 / (RRF + rank)
            found.setdefault(row, []).append(side)
    rows_found = np.fromiter(scores, np.int64, len(scores))
    distances = gallery.distances(comparison, rows_found)
    keys = gallery.keys(rows_found)
    fusion = np.fromiter(scores.values(), np.float64, len(scores))
    order = sorted(range(len(keys)), key=lambda i: (-fusion[i], distances[i], keys[i]))
    return rows_found[order], distances[order], fusion[order], [found[int(rows_found[i])] for i in order]


def _labels(gallery: Gallery, text: str, depth: int, mask: Mask | None) -> list[int]:
    limit = depth
    while True:
        table = _match(gallery.database.open_table("logits"), "label", text, limit, "position")
        rows = table.column("position").to_numpy()
        kept = rows if mask is None else rows[mask[rows]]
        if kept.size >= depth or rows.size < limit or limit >= _MOST_WORDS:
            scores = table.column("_score").to_numpy()
            by_row = dict(zip(rows.tolist(), scores.tolist(), strict=True))
            keys = gallery.keys(kept)
            order = sorted(range(kept.size), key=lambda i: (-by_row[int(kept[i])], keys[i]))
            return [int(kept[i]) for i in order[:depth]]
        limit *= 10


def _models(
    gallery: Gallery, comparison: Comparison, column: str, text: str, depth: int, mask: Mask | None
) -> list[int]:
    """Return for each model whose ``column`` holds the words its logit of smallest distance, best match first."""
    table = _match(gallery.database.open_table("models"), column, text, depth, "model")
    models, scores = table.column("model").to_pylist(), table.column("_score").to_pylist()
    if not models:
        return []
    rows = np.flatnonzero(np.isin(gallery.model_of, models) & (True if mask is None else mask))
    distances = gallery.distances(comparison, rows)
    best: dict[int, tuple[float, int]] = {}
    for row, model, distance in zip(rows.tolist(), gallery.model_of[rows].tolist(), distances.tolist(), strict=True):
        best[model] = min(best.get(model, (np.inf, -1)), (distance, row))
    order = sorted((m for m in models if m in best), key=lambda m: (-scores[models.index(m)], best[m]))
    return [best[m][1] for m in order]


def _match(table: Any, column: str, text: str, limit: int, wanted: str) -> Any:
    from lancedb import query as lance

    match: Any = lance.MatchQuery
    # a match query takes words as they are: quotes, operators and brackets in them mean nothing
    return table.search(match(text, column=column)).limit(limit).select([wanted, "_score"]).to_arrow()
