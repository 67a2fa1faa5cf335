"""Which models may know some concepts, and which of their outputs stand for each."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hubprobe.comparison import one_to_one
from workspace import QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

PER_FAMILY = 2
"""Near-copies of one another that are tried; more would tell the same."""

NEARLY = 0.85
"""Share of the best output's score from which another output stands for the same concept: breeds of a dog."""

FIT_WEIGHT = 1.0
"""What an output's fit to the images counts beside what the search says of it, both in standard deviations."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model of the index to try."""

    repo_id: str
    sha: str
    family: str
    logits: NDArray[np.int64]  # int64 [outputs], the indices of its searchable outputs
    # float64 [concepts, outputs], the search's score of each output for each concept, 0 to 1
    evidence: NDArray[np.float64]

    @property
    def score(self) -> float:
        """Mean over the concepts of the best output's score."""
        return float(self.evidence.max(axis=1).mean())

    def outputs(
        self, raw: NDArray[np.float32] | None = None, shown: NDArray[np.float64] | None = None
    ) -> list[NDArray[np.int64]]:
        """Return the outputs that stand for each concept, as positions in ``logits``, none for two concepts.

        The best of each, the clearest first, and those that are `NEARLY` as good and best for no other.

        Args:
            raw: float32 [images, outputs], the model's answers; None to go by the search alone.
            shown: float64 [images, concepts], how probable each concept is for each image, by a label or as the models
                together believe; a row of zeros where nothing is known.
        """
        concepts, width = self.evidence.shape
        spread = np.maximum(self.evidence.std(axis=1, keepdims=True), 1e-9)
        worth = (self.evidence - self.evidence.mean(axis=1, keepdims=True)) / spread
        if raw is not None and shown is not None:
            worth = worth + FIT_WEIGHT * _fit(raw, shown)
        if width < concepts:  # some concepts share an output: it cannot tell them apart
            return [np.array([int(row.argmax())]) for row in worth]
        best = [output for _, output in sorted(one_to_one(worth))]
        chosen = [[output] for output in best]
        taken = set(best)
        owner = worth.argmax(axis=0)
        for concept, first in enumerate(best):
            enough = NEARLY * self.evidence[concept, first]
            alike = np.flatnonzero((owner == concept) & (self.evidence[concept] >= enough))
            chosen[concept] += [int(o) for o in alike if int(o) not in taken]
        return [np.array(own) for own in chosen]


def _fit(raw: NDArray[np.float32], shown: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how well each output fits each concept's images, float64 [concepts, outputs].

    A t-like statistic, see `Candidate.outputs`: the mean z-score on the concept's images less that on the others, times
    the root of how many images these means stand on (Kish's number for weights); 0 where either has none.
    """
    clean = np.where(np.isfinite(raw), raw, np.nan)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # outputs that are finite nowhere
        mean, spread = np.nanmean(clean, axis=0), np.nanstd(clean, axis=0)
    z = np.nan_to_num((clean - mean) / np.where(spread > 0, spread, np.inf))
    other = shown.sum(axis=1, keepdims=True) - shown
    own_sum, other_sum = shown.sum(axis=0), other.sum(axis=0)
    own, other = shown / np.maximum(own_sum, 1e-12), other / np.maximum(other_sum, 1e-12)
    count = 1.0 / np.maximum((own**2).sum(axis=0) + (other**2).sum(axis=0), 1e-12)
    there = (own_sum > 1e-9) & (other_sum > 1e-9)
    return np.where(there[:, None], (own - other).T @ z * np.sqrt(count)[:, None], 0.0)


def shortlist(
    index: Index, concepts: Sequence[str], *, count: int, where: str | None = None, models: Collection[str] = ()
) -> list[Candidate]:
    """Return up to ``count`` models that the search holds most likely to know all ``concepts``, most likely first.

    ``where`` is an SQL condition on the metadata; ``models`` are repositories to try instead, each of them. Raises
    `QueryError` for a repository that is not in the index, and when no model is left.
    """
    gallery = index.gallery
    for repo_id in models:
        gallery.commit(repo_id, None)  # a QueryError with near names
    about = gallery.models.select(["repo_id", "sha", "family"]).to_pylist()
    if models:
        ordinals = [i for i, row in enumerate(about) if row["repo_id"] in set(models)]
    else:
        query = index.search(all_of=list(concepts))
        hits = (query.where(where) if where else query).limit(min(4 * count, 10_000)).to_arrow()
        place = {(row["repo_id"], row["sha"]): i for i, row in enumerate(about)}
        ordinals = [place[row["repo_id"], row["sha"]] for row in hits.select(["repo_id", "sha"]).to_pylist()]
    scoring = index.workspace.config.search.scoring
    comparisons = [gallery.compile(index.descriptor(concept), scoring) for concept in concepts]
    rows_of = _rows(gallery.model_of, ordinals)
    found = []
    families: Counter[str] = Counter()
    for ordinal in ordinals:
        rows, row = rows_of[ordinal], about[ordinal]
        family = row["family"] or row["repo_id"]
        if families[family] >= PER_FAMILY and not models:
            continue
        families[family] += 1
        evidence = np.stack([1 / (1 + gallery.distances(c, rows)) for c in comparisons])
        logits = np.array([key[2] for key in gallery.keys(rows)], np.int64)
        found.append(Candidate(row["repo_id"], row["sha"], family, logits, evidence))
    if not found:
        raise QueryError("no model of this index is left to try: loosen --where, or name models with --models")
    found.sort(key=lambda c: (-c.score, c.repo_id))
    return found if models else found[:count]


def _rows(model_of: NDArray[np.int32], ordinals: Sequence[int]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(model_of, kind="stable")
    starts = np.searchsorted(model_of[order], ordinals, side="left")
    ends = np.searchsorted(model_of[order], ordinals, side="right")
    return {o: order[s:e].astype(np.int64) for o, s, e in zip(ordinals, starts, ends, strict=True)}
