"""A search that is built step by step and runs when its result is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search import filters
from search.descriptor import Descriptor
from search.scoring import compile_query
from workspace import QueryError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

    from search.gallery import Gallery, Rows

MAX_LIMIT = 1_000_000
"""Hits of one query; more is a table scan: use SQL over ``logits``."""


@dataclass(frozen=True, eq=False)
class Query:
    """A search of one descriptor. Every step returns a new query; nothing runs before ``to_arrow`` and its kin.

    Columns of the result: ``rank`` (from 1), ``score`` (1 / (1 + distance), higher is better), ``distance``,
    ``repo_id``, ``sha``, ``logit``, ``label`` (untrusted text), ``observed``, ``variance``, then the model's metadata.
    """

    gallery: Gallery
    descriptor: Descriptor
    k: int
    scoring: str
    top: int = 10
    group: Literal["logit", "model"] = "logit"
    conditions: tuple[filters.Condition, ...] = ()
    without_model: tuple[str, str] | None = None
    approximate: bool = True

    def where(self, condition: str) -> Query:
        """Keep hits that meet an SQL condition over the columns of ``models`` and ``logits``; several are and-ed.

        Raises `QueryError` at once when it is not one condition over known columns.
        """
        return replace(self, conditions=(*self.conditions, filters.parse(condition)))

    def limit(self, n: int) -> Query:
        """Return at most ``n`` hits (10 unless told)."""
        if not 1 <= n <= MAX_LIMIT:
            raise QueryError(f"a limit is between 1 and {MAX_LIMIT}, not {n}")
        return replace(self, top=n)

    def by(self, what: Literal["logit", "model"]) -> Query:
        """Rank logits, or models by their nearest logit (METHOD: the model score is the smallest distance)."""
        if what not in ("logit", "model"):
            raise QueryError(f"hits are by 'logit' or by 'model', not by '{what}'")
        return replace(self, group=what)

    def exact(self) -> Query:
        """Bypass everything approximate: read every allowed logit's fp16 values."""
        return replace(self, approximate=False)

    def to_arrow(self) -> pa.Table:
        """Run the search and return its hits, best first."""
        rows, distances = self._run()
        return self.gallery.hits(rows, distances)

    def to_pandas(self) -> pd.DataFrame:
        """Run the search and return a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_dicts(self) -> list[dict[str, Any]]:
        """Run the search and return one plain dict per hit."""
        found: list[dict[str, Any]] = self.to_arrow().to_pylist()
        return found

    def _run(self) -> tuple[Rows, NDArray[np.float64]]:
        mask = self.gallery.mask(self.conditions)
        if self.without_model is not None:
            own = self.gallery.is_model(*self.without_model)
            mask = ~own if mask is None else mask & ~own
        comparison = compile_query(self.descriptor, self.scoring, self.k)
        wanted = self.top
        while True:
            rows, distances = self.gallery.nearest(comparison, wanted, mask, exact=not self.approximate)
            if self.group == "logit":
                return rows, distances
            # a prefix of the exact order of logits holds the exact order of its models
            _, first = np.unique(self.gallery.model_of[rows], return_index=True)
            if first.size >= self.top or rows.size < wanted:
                keep = np.sort(first)[: self.top]
                return rows[keep], distances[keep]
            wanted *= 8
