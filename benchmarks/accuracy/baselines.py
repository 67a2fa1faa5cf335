"""What ours is compared with, and what it is judged by besides accuracy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy import ask
from search.query import _labels
from search.scan.scoring import Comparison

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.accuracy.collection import Collection
    from search import Index

Rows = list[dict[str, Any]]

DISSECT_PROBES = 100
"""Most activating probes that CLIP-Dissect looks at (its code's default)."""


def _every(index: Index) -> NDArray[np.float32]:
    return index.gallery.vectors(np.arange(len(index)))


def _row(about: dict[str, Any], scoring: str, found: list[int]) -> dict[str, Any]:
    return ask.row({**about, "part": "test", "scoring": scoring, "k": None}, np.array(found, np.int64))


def _rank(query: ask.Asked, concepts: NDArray[np.str_], scores: NDArray[Any]) -> int:
    right = query.allowed & (concepts == query.concept)
    return 1 + int((scores[query.allowed & ~right] > scores[right].max()).sum())


def model_level(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """One descriptor a model, the mean of its logits': a hit is a model that has a right logit (generous)."""
    concepts, model_of = ask.concept_of(index, collection), index.gallery.model_of
    vectors = _every(index)
    means = np.stack([vectors[model_of == m].mean(axis=0) for m in range(index.gallery.models.num_rows)])
    means /= np.maximum(means.std(axis=1, keepdims=True), 1e-9)
    found = []
    for query in queries:
        distance = ((means - query.descriptor.vector) ** 2).mean(axis=1)
        right = np.unique(model_of[query.allowed & (concepts == query.concept)])
        wrong = np.setdiff1d(np.unique(model_of[query.allowed]), right)
        found.append(1 + int((distance[wrong] < distance[right].min()).sum()))
    return [_row(about, "model-level (models found)", found)]


def dissect(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """CLIP-Dissect's SoftWPMI (Oikarinen and Weng, ICLR 2023) as a retrieval score, on the same encoder.

    Its concept matrix is the softmax over the asked concepts of each probe's similarity; a logit's probability of
    having a probe among its examples falls linearly with the probe's place, as in their code.
    """
    concepts = ask.concept_of(index, collection)
    names = [collection.names[query.concept] for query in queries]
    similarity = index.probe_embeddings @ index.encoder.encode_texts(names).T
    logits = similarity / 0.1
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)  # probes x concepts
    vectors = _every(index)
    count = min(DISSECT_PROBES, vectors.shape[1])
    top = np.argsort(-vectors, axis=1)[:, :count]
    belongs = np.linspace(0.998, 0.97, count)[:, None]
    prior = np.log(share.mean(axis=0) + 1e-12)
    scores = np.stack([np.log1p(belongs * (share[row] - 1.0) + 1e-12).sum(axis=0) - 0.5 * prior for row in top])
    found = [_rank(query, concepts, scores[:, i]) for i, query in enumerate(queries)]
    return [_row(about, "CLIP-Dissect SoftWPMI", found)]


def label_search(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """Full-text search over the labels alone, as a user would try first; what is not matched has no rank."""
    concepts = ask.concept_of(index, collection)
    found = []
    for query in queries:
        rows = _labels(index.gallery, collection.names[query.concept], 200, query.allowed)
        right = [place for place, row in enumerate(rows, 1) if concepts[row] == query.concept]
        found.append(right[0] if right else len(index))
    return [_row(about, "full text over labels", found)]


def selections(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any], k: int) -> Rows:
    """Which probes are compared (METHOD section 2): the query's top k, bottom k, random, quantiles, all."""
    concepts = ask.concept_of(index, collection)
    rng = np.random.default_rng(0)
    n = index.gallery.n_probes
    rows: Rows = []
    for name in ("top", "bottom", "random", "quantiles", "all"):
        found = []
        for query in queries:
            order = np.argsort(-query.descriptor.vector, kind="stable")
            chosen = {
                "top": order[:k], "bottom": order[-k:], "random": rng.choice(n, k, replace=False),
                "quantiles": order[np.linspace(0, n - 1, k).astype(int)], "all": order,
            }[name]  # fmt: skip
            columns = np.sort(chosen).astype(np.int32)
            weights = np.full(columns.size, 1.0 / columns.size, np.float32)
            comparison = Comparison(columns, query.descriptor.vector[columns], weights)
            found.append(_rank(query, concepts, -index.gallery.distances(comparison)))
        rows.append({**_row(about, f"probelog, {name} probes", found), "k": k if name != "all" else n})
    return rows


def hubness(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any], k: int) -> Rows:
    """Skew of how often a logit is among the ten nearest of the asked concepts (Radovanovic et al., JMLR 2010)."""
    del collection
    rows: Rows = []
    for scoring in ("probelog", "strong", "contrastive"):
        counts = np.zeros(len(index))
        for query in queries:
            own = index.gallery.compile(query.descriptor, scoring, k if scoring == "probelog" else None)
            distances = np.where(query.allowed, index.gallery.distances(own), np.inf)
            counts[np.argpartition(distances, 10)[:10]] += 1
        counts = counts[queries[0].allowed]
        skew = float(((counts - counts.mean()) ** 3).mean() / max(float(counts.std()) ** 3, 1e-12))
        rows.append({**about, "part": "test", "measure": "hubness skew", "scoring": scoring, "value": round(skew, 3)})
    return rows


def accuracy_correlation(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """Spearman correlation, over right logits, of place among the right ones of a concept with the model's accuracy."""
    concepts = ask.concept_of(index, collection)
    names = index.gallery.models.column("repo_id").to_pylist()
    known = {model.repo_id: model.accuracy for model in collection.models}
    accuracy = np.array([known[name] for name in names])[index.gallery.model_of]
    found = []
    for query in queries:
        right = np.flatnonzero(query.allowed & (concepts == query.concept))
        if right.size >= 4:
            distances = index.gallery.distances(index.gallery.compile(query.descriptor, "contrastive"), right)
            places, better = np.argsort(np.argsort(distances)), np.argsort(np.argsort(-accuracy[right]))
            found.append(float(np.corrcoef(places, better)[0, 1]))
    about = {**about, "part": "test", "measure": "Spearman of rank and accuracy", "scoring": "contrastive"}
    return [{**about, "value": round(float(np.mean(found)), 3), "queries": len(found)}]


def declined(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """How often declined and answered queries fail: no right logit among the first ten."""
    found = ask.ranks(index, collection, queries, "bridged")
    covered = np.array([index.gallery.coverage(query.descriptor, query.allowed).covered for query in queries])
    failed = found > 10
    out: dict[str, Any] = {
        **about,
        "part": "test",
        "measure": "coverage",
        "scoring": "bridged",
        "queries": len(queries),
    }
    out |= {"declined": int((~covered).sum())}
    for name, some in (("fail_declined", ~covered), ("fail_answered", covered)):
        out[name] = round(float(failed[some].mean()), 4) if some.any() else None
    return [out]
