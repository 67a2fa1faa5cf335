"""A search that is built step by step and runs when its result is asked for.

A hybrid one joins behaviour with words: a logit's label, its repository's name, and what its card says.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search.by_model import Concepts, nearest_models
from search.scan.gallery import Gallery
from search.scan.nearest import SILENT, Mask, Rows, Trace
from search.scan.scoring import Comparison, Descriptor, score_of
from search.store.tables import reading
from search.text.calibration import Coverage
from workspace import QueryError, Workspace
from workspace.text import printable

if TYPE_CHECKING:
    import pandas as pd

    from search.filters import Condition
    from search.scan.neighbours import Neighbours

_LOG = logging.getLogger(__name__)

RRF = 60
"""Constant of reciprocal rank fusion, Cormack, Clarke and Buettcher, SIGIR 2009: score = sum of 1 / (60 + rank)."""

_MATCHES = pa.list_(
    pa.struct([("concept", pa.string()), ("score", pa.float64()), ("logit", pa.int32()), ("label", pa.string())])
)
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
        scores = _match(gallery, "logits", "label", text, limit)
        kept = [row for row in scores if mask is None or mask[row]]
        if len(kept) >= depth or len(scores) < limit or limit >= _MOST_WORDS:
            keys = dict(zip(kept, gallery.keys(np.array(kept, np.int64)), strict=True))
            return sorted(kept, key=lambda row: (-scores[row], keys[row]))[:depth]
        limit *= 10


def _models(
    gallery: Gallery, comparison: Comparison, column: str, text: str, depth: int, mask: Mask | None
) -> list[int]:
    """Return for each model whose ``column`` holds the words its logit of smallest distance, best match first."""
    scores = _match(gallery, "models", column, text, depth)
    rows = np.flatnonzero(np.isin(gallery.model_of, list(scores)) & (True if mask is None else mask))
    distances = gallery.distances(comparison, rows)
    best: dict[int, tuple[float, int]] = {}
    for row, model, distance in zip(rows.tolist(), gallery.model_of[rows].tolist(), distances.tolist(), strict=True):
        best[model] = min(best.get(model, (np.inf, -1)), (distance, row))
    return [best[m][1] for m in sorted(best, key=lambda m: (-scores[m], best[m]))]


def _match(gallery: Gallery, name: str, column: str, text: str, limit: int) -> dict[int, float]:
    """Return the score of each row of a table whose ``column`` holds the words."""
    from lancedb import query as lance

    match: Any = lance.MatchQuery
    key = "position" if name == "logits" else "model"
    with reading(gallery.database, name) as table:
        # a match query takes words as they are: quotes, operators and brackets in them mean nothing
        found = table.search(match(text, column=column)).limit(limit).select([key, "_score"]).to_arrow()
    return dict(zip(found.column(key).to_pylist(), found.column("_score").to_pylist(), strict=True))


MAX_LIMIT = 1_000_000
"""Hits of one query; more is a table scan: use SQL over ``logits``."""

Unit = Literal["logit", "model", "family"]


@dataclass(frozen=True, eq=False)
class Query:
    """A search of one descriptor or several concepts. Every step returns a new query, which runs once, when it is read.

    It is read as a table (`to_arrow`, `df`, `pl`, `to_dicts`), by iterating over its hits, dicts, or by ``len``; a
    notebook shows the first hits with the probes that each answers.

    >>> query = index.search("dog").where("downloads > 1000").by("model").limit(3)  # doctest: +SKIP
    >>> [(hit["repo_id"], hit["logit"]) for hit in query]  # doctest: +SKIP

    Columns of the result: ``rank`` (from 1), ``score`` (1 / (1 + distance), higher is better; of a hybrid query the
    fused score), ``distance``, ``repo_id``, ``sha``, ``logit``, ``label`` (untrusted text), ``observed``, ``variance``,
    then the model's metadata; ``copies`` by family, ``matches`` of several concepts. ``found_by`` says of a text's hits
    which sides found them: ``zero-shot``, ``labels`` (of other models), ``map``; of a hybrid query ``behaviour``,
    ``label`` (its own) and ``name``. ``probability`` says of a text's hits how probable it is that each is right.
    """

    gallery: Gallery
    descriptor: Descriptor
    k: int | None
    scoring: str
    top: int = 10
    unit: Unit = "logit"
    conditions: tuple[Condition, ...] = ()
    without_model: tuple[str, str] | None = None
    approximate: bool = True
    words: str | None = None
    neighbours: Neighbours | None = None
    concepts: Concepts | None = None
    workspace: Workspace | None = None

    def where(self, condition: str) -> Query:
        """Keep hits that meet an SQL condition over the columns of ``models`` and ``logits``; several are and-ed.

        Raises `QueryError` at once when it is not one condition over known columns.
        """
        from search.filters import parse

        if not isinstance(condition, str):
            raise TypeError(f"a condition is SQL in a text, such as 'downloads > 1000', not {type(condition).__name__}")
        return replace(self, conditions=(*self.conditions, parse(condition)))

    def limit(self, n: int) -> Query:
        """Return at most ``n`` hits (10 unless told)."""
        if not isinstance(n, (int, np.integer)) or isinstance(n, bool):
            raise TypeError(f"a limit is a whole number of hits, not {type(n).__name__}")
        if not 1 <= n <= MAX_LIMIT:
            raise QueryError(f"a limit is between 1 and {MAX_LIMIT}, not {n}")
        return replace(self, top=n)

    def by(self, unit: Unit) -> Query:
        """Rank logits, models by their nearest logit (METHOD: the smallest distance), or families of near-copies."""
        if unit not in ("logit", "model", "family"):
            raise QueryError(f"hits are by 'logit', 'model' or 'family', not by '{unit}'")
        if self.concepts is not None and unit != "model":
            raise QueryError("several concepts are answered by models only: leave out by()")
        return replace(self, unit=unit)

    def exact(self) -> Query:
        """Bypass codes and approximate indexes: read every allowed logit's fp16 values."""
        return replace(self, approximate=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What somebody who asked should know before looking at the hits: of every text that was cut, what was read."""
        asked = [self.descriptor]
        if self.concepts is not None:
            asked = [*self.concepts.wanted, *self.concepts.none_of]
        return tuple(dict.fromkeys(one.note for one in asked if one.note))

    @cached_property
    def _hits(self) -> pa.Table:
        if not _LOG.isEnabledFor(logging.INFO):
            return self._run(SILENT)
        trace = Trace()
        found = self._run(trace)
        _LOG.info("%s, scoring %s:\n%s", printable(self.descriptor.about, 60), self.scoring, trace)
        return found

    def __len__(self) -> int:
        """Return how many hits there are."""
        return int(self._hits.num_rows)

    def __bool__(self) -> bool:
        """Return True: a query is one, whatever it finds. ``len`` says whether that is anything."""
        return True

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the hits, best first, a dict each."""
        return iter(self.to_dicts())

    def _repr_html_(self) -> str:
        if self.workspace is None:
            return str(self.df().to_html())
        from search.evidence import as_html

        return as_html(self.gallery, self.workspace, self.to_arrow(), self.descriptor.about)

    def to_arrow(self) -> pa.Table:
        """Run the search and return its hits, best first."""
        return self._hits

    def to_pandas(self) -> pd.DataFrame:
        """Run the search and return a pandas frame."""
        return self.to_arrow().to_pandas()

    def to_polars(self) -> Any:
        """Run the search and return a polars frame; raises `QueryError` when polars is not installed."""
        if find_spec("polars") is None:
            raise QueryError("polars is not installed: pip install polars, or use to_pandas()")
        return import_module("polars").from_arrow(self.to_arrow())

    def to_dicts(self) -> list[dict[str, Any]]:
        """Run the search and return one plain dict per hit."""
        return list(self.to_arrow().to_pylist())

    arrow, df, pl = to_arrow, to_pandas, to_polars
    """As DuckDB's relations call them."""

    def explain(self) -> Trace:
        """Run the search and return what it did: steps with times, bytes and counts; ``str()`` of it is a table."""
        trace = Trace()
        self._run(trace)
        return trace

    def coverage(self) -> Coverage:
        """Say how probable it is that this text can be answered by what the conditions allow; see `Coverage`."""
        return self.gallery.coverage(self.descriptor, self._mask())

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self, trace: Trace) -> pa.Table:
        with trace.step("filter") as step:
            mask = self._mask()
            step.detail = "none" if mask is None else f"{np.count_nonzero(mask)} of {mask.size} logits allowed"
        if self.concepts is not None:
            return self._of_concepts(self.concepts, mask, trace)
        comparison = self.gallery.compile(self.descriptor, self.scoring, self.k)
        if self.words is not None:
            return self._hybrid(self.words, comparison, mask, trace)
        if self.neighbours is not None and self.approximate and self.unit == "logit":
            with trace.step("neighbours") as step:
                found = self.neighbours.nearest(self.descriptor, self.top, mask)
                step.detail = "LanceDB's vector index, then exact"
        elif self.unit == "logit":
            found = self.gallery.nearest(comparison, self.top, mask, exact=not self.approximate, trace=trace)
        else:
            groups = self.gallery.model_of if self.unit == "model" else self.gallery.family_of
            exact = not self.approximate
            found = self.gallery.nearest_of(comparison, self.top, mask, groups, exact=exact, trace=trace)
        with trace.step("metadata") as step:
            table = self._with_copies(self._with_sides(self.gallery.hits(*found), *found))
            step.detail, step.bytes = f"{table.num_rows} hits", table.nbytes
        return table

    def _mask(self) -> Mask | None:
        mask = self.gallery.mask(self.conditions)
        if self.without_model is None:
            return mask
        own = self.gallery.is_model(*self.without_model)
        return ~own if mask is None else mask & ~own

    def _hybrid(self, words: str, comparison: Comparison, mask: Mask | None, trace: Trace) -> pa.Table:
        with trace.step("hybrid") as step:
            rows, distances, scores, sides = fused(self.gallery, comparison, words, self.top, mask)
            step.detail = f"{rows.size} hits of behaviour, label and name fused"
        keep = np.arange(rows.size)
        if self.unit != "logit":
            groups = self.gallery.model_of if self.unit == "model" else self.gallery.family_of
            keep = np.sort(np.unique(groups[rows], return_index=True)[1])
        keep = keep[: self.top]
        table = self._with_copies(self.gallery.hits(rows[keep], distances[keep], scores[keep]))
        found_by = pa.array([sides[i] for i in keep], pa.list_(pa.string()))
        return table.add_column(3, "found_by", found_by)

    def _with_sides(self, table: pa.Table, rows: Rows, distances: NDArray[np.float64]) -> pa.Table:
        """Say of a text's hits which sides found each, by a quarter of its score or more, and how probable it is."""
        if self.scoring != "bridged" or self.descriptor.kind != "text" or not self.descriptor.sides:
            return table
        parts = self.gallery.parts(self.descriptor, rows)
        total = np.sum(list(parts.values()), axis=0)
        sides = [
            sorted((n for n in parts if parts[n][i] >= 0.25 * total[i]), key=lambda n, i=i: -parts[n][i])  # type: ignore[misc]
            for i in range(rows.size)
        ]
        table = table.add_column(3, "found_by", pa.array(sides, pa.list_(pa.string())))
        if self.descriptor.signs is None:
            return table
        share = self.gallery.certain(self.descriptor, rows, distances, self._mask())
        return table.add_column(2, "probability", pa.array(share, pa.float64()))

    def _with_copies(self, table: pa.Table) -> pa.Table:
        if self.unit != "family":
            return table
        members = self.gallery.family_members
        pairs = zip(table.column("repo_id").to_pylist(), table.column("family").to_pylist(), strict=True)
        copies = [[other for other in members[family] if other != repo] for repo, family in pairs]
        return table.append_column("copies", pa.array(copies, pa.list_(pa.string())))

    def _of_concepts(self, concepts: Concepts, mask: Mask | None, trace: Trace) -> pa.Table:
        wanted = [self.gallery.compile(d, self.scoring, self.k) for d in concepts.wanted]
        rejected = [self.gallery.compile(d, self.scoring, self.k) for d in concepts.none_of]
        with trace.step("concepts") as step:
            hits = nearest_models(self.gallery, concepts, wanted, rejected, self.top, mask)
            step.detail = f"{len(wanted)} wanted, {len(rejected)} rejected"
        # the logit shown is that of the concept which decided the model's distance
        deciding = [hit.rows[hit.distances.index(hit.distance)] for hit in hits]
        distances = np.array([hit.distance for hit in hits], np.float64)
        table = self.gallery.hits(np.array(deciding, np.int64), distances)
        names = [d.about for d in concepts.wanted]
        matches = []
        for hit in hits:
            logits = self.gallery.logits.take(pa.array(hit.rows)).select(["logit", "label"]).to_pylist()
            scores = score_of(np.array(hit.distances)).tolist()
            matches.append([{"concept": n, "score": s, **row} for n, s, row in zip(names, scores, logits, strict=True)])
        return table.append_column("matches", pa.array(matches, _MATCHES))
