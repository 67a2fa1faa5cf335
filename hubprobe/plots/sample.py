"""Logits of an index that are drawn: all, or as many as fit, drawn by chance and the same every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workspace import QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index


def sampled(index: Index, limit: int, seed: int, where: str | None = None) -> tuple[NDArray[np.int64], int]:
    """Return positions of at most ``limit`` logits, ascending, and how many there were to choose from.

    ``where`` is a condition as `search.query.Query.where` takes it. Raises `QueryError` when it leaves fewer than 3.
    """
    from search import filters

    mask = index.gallery.mask([filters.parse(where)]) if where else None
    rows = np.arange(len(index.gallery)) if mask is None else np.flatnonzero(mask)
    if rows.size < 3:
        raise QueryError(f"{rows.size} logits are too few to draw: loosen the filter, or index more models")
    chosen = rows if rows.size <= limit else np.random.default_rng(seed).choice(rows, limit, replace=False)
    return np.sort(chosen).astype(np.int64), int(rows.size)


def suggested(index: Index, rows: NDArray[np.int64], *, progress: bool) -> list[tuple[str, float]]:
    """Return a name and a confidence for every logit; empty names for an index that cannot name."""
    from search.naming import Namer

    if index.gallery.calibration is None:
        return [("", 0.0)] * rows.size
    found = Namer(index, progress=progress).names(rows, 1)
    return [(names[0].name, names[0].confidence) if names else ("", 0.0) for names in found]
