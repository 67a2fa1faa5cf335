"""Which models may know some concepts, and which of their outputs stand for each."""

from __future__ import annotations

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
"""What an output's fit to labelled images counts beside what the search says of it, both in standard deviations."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """A model to try.

    Attributes:
        repo_id, sha, family: as the index has them.
        logits: int64 [outputs], the indices of its searchable outputs.
        evidence: float64 [concepts, outputs], the search's score of each output for each concept, 0 to 1.
    """

    repo_id: str
    sha: str
    family: str
    logits: NDArray[np.int64]
    evidence: NDArray[np.float64]

    @property
    def score(self) -> float:
        """Mean over the concepts of the best output's score."""
        return float(self.evidence.max(axis=1).mean())

    def outputs(
        self, z: NDArray[np.float32] | None = None, labels: NDArray[np.int64] | None = None
    ) -> list[NDArray[np.int64]]:
        """Return the outputs that stand for each concept, as positions in ``logits``, none for two concepts.

        The best of each, the clearest first, and those that are `NEARLY` as good and best for no other.

        Args:
            z: float32 [images, outputs], the model's answers to labelled images, z-scored over all images; None to go
                by the search alone.
            labels: int64 [images], the concept of each.
        """
        concepts, width = self.evidence.shape
        spread = np.maximum(self.evidence.std(axis=1, keepdims=True), 1e-9)
        worth = (self.evidence - self.evidence.mean(axis=1, keepdims=True)) / spread
        if z is not None and labels is not None and len(labels):
            worth = worth + FIT_WEIGHT * _fit(z, labels, concepts)
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


def _fit(z: NDArray[np.float32], labels: NDArray[np.int64], concepts: int) -> NDArray[np.float64]:
    """Return how well each output fits each concept's labelled images, float64 [concepts, outputs].

    A t-like statistic: the mean z-score on the concept's images less that on the others, times the root of the number.
    """
    clean = np.nan_to_num(z.astype(np.float64))
    found = np.zeros((concepts, z.shape[1]))
    for concept in range(concepts):
        own = labels == concept
        if own.any() and not own.all():
            difference = clean[own].mean(axis=0) - clean[~own].mean(axis=0)
            found[concept] = difference * np.sqrt(own.sum() * (~own).sum() / len(own))
    return found


def shortlist(
    index: Index, concepts: Sequence[str], *, count: int, where: str | None = None, models: Collection[str] = ()
) -> list[Candidate]:
    """Return up to ``count`` models that the search holds most likely to know all ``concepts``, most likely first.

    Args:
        index: an open index.
        concepts: what they should tell apart.
        count: models at most, where none are named.
        where: SQL condition on the metadata.
        models: repositories to try instead, each of them.

    Raises `QueryError` for a repository that is not in the index, and when no model is left.
    """
    gallery = index.gallery
    for repo_id in models:
        gallery.commit(repo_id, None)  # a QueryError with near names
    if models:
        ordinals = [i for i, name in enumerate(gallery.models.column("repo_id").to_pylist()) if name in set(models)]
    else:
        query = index.search(all_of=list(concepts))
        hits = (query.where(where) if where else query).limit(min(4 * count, 10_000)).to_arrow()
        place = {
            (r["repo_id"], r["sha"]): i for i, r in enumerate(gallery.models.select(["repo_id", "sha"]).to_pylist())
        }
        keys = zip(hits.column("repo_id").to_pylist(), hits.column("sha").to_pylist(), strict=True)
        ordinals = [place[key] for key in keys]
    comparisons = [
        gallery.compile(index.descriptor(concept), index.workspace.config.search.scoring) for concept in concepts
    ]
    rows_of = _rows(gallery.model_of, ordinals)
    about = gallery.models.select(["repo_id", "sha", "family"]).to_pylist()
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
