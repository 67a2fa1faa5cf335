"""Asking an index many queries of known answer, and summing up the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.accuracy.collection import Collection
from search import Index
from search.scan.scoring import Descriptor

CUTS = (1, 5, 10)
_RESAMPLES = 1_000

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Asked:
    """A query: what to look for, its concept, and which logits may be found."""

    descriptor: Descriptor
    concept: str
    allowed: Mask


def concept_of(index: Index, collection: Collection) -> NDArray[np.str_]:
    """Return the concept of every logit of an index, ``""`` where there is none."""
    listed = {model.repo_id: model.concepts for model in collection.models}
    repos = index.gallery.models.column("repo_id").to_pylist()
    logits = index.gallery.logits.column("logit").to_pylist()
    pairs = zip(index.gallery.model_of.tolist(), logits, strict=True)
    return np.array([listed[repos[model]][logit] or "" for model, logit in pairs])


def texts(
    index: Index,
    collection: Collection,
    keys: Iterable[str],
    found_in: Mask,
    lend: Callable[[str], Mask] | None = None,
) -> list[Asked]:
    """Return a text query per concept that ``found_in`` holds; ``lend`` says whose labels may help (none when None)."""
    concepts = concept_of(index, collection)
    present = set(concepts[found_in].tolist())
    wanted = [key for key in keys if key in present]
    nobody = np.zeros(len(index), bool)
    index.encoder.encode_texts([collection.names[key] for key in wanted])  # all at once: the encoder remembers
    return [
        Asked(index.without_labels_of(collection.names[key], nobody if lend is None else lend(key)), key, found_in)
        for key in wanted
    ]


def logits(index: Index, collection: Collection, rows: Iterable[int], keys: set[str] | None = None) -> list[Asked]:
    """Return a query per logit whose concept another model carries, too: that model may not be found."""
    concepts, model_of = concept_of(index, collection), index.gallery.model_of
    asked = []
    for row in rows:
        other = model_of != model_of[row]
        concept = str(concepts[row])
        if concept and (keys is None or concept in keys) and (concepts[other] == concept).any():
            repo_id, sha, logit = index.gallery.keys(np.array([row]))[0]
            asked.append(Asked(index.logit(repo_id, logit, sha=sha), concept, other))
    return asked


def ranks(
    index: Index, collection: Collection, queries: list[Asked], scoring: str, k: int | None = None
) -> NDArray[np.int64]:
    """Return the rank of the first right logit, from 1, of every query."""
    concepts = concept_of(index, collection)
    found = []
    for query in queries:
        comparison = index.gallery.compile(query.descriptor, scoring, k)
        distances = index.gallery.distances(comparison)
        right = query.allowed & (concepts == query.concept)
        found.append(1 + int((distances[query.allowed & ~right] < distances[right].min()).sum()))
    return np.array(found, np.int64)


def precision(index: Index, collection: Collection, queries: list[Asked], scoring: str, k: int | None = None) -> float:
    """Return the mean average precision over all right logits of every query."""
    concepts = concept_of(index, collection)
    found = []
    for query in queries:
        distances = index.gallery.distances(index.gallery.compile(query.descriptor, scoring, k))[query.allowed]
        right = (concepts == query.concept)[query.allowed][np.argsort(distances, kind="stable")]
        places = np.flatnonzero(right) + 1
        found.append(float((np.arange(1, places.size + 1) / places).mean()))
    return float(np.mean(found))


def summary(found: NDArray[np.int64], seed: int = 0) -> dict[str, Any]:
    """Return top-1, 5 and 10 with 95 % bootstrap intervals over the queries, and the mean reciprocal rank."""
    rng = np.random.default_rng(seed)
    resamples = rng.integers(0, found.size, (_RESAMPLES, found.size))
    out: dict[str, Any] = {"queries": int(found.size)}
    for cut in CUTS:
        hits = found <= cut
        low, high = np.percentile(hits[resamples].mean(axis=1), [2.5, 97.5])
        out |= {f"top{cut}": float(hits.mean()), f"top{cut}_low": float(low), f"top{cut}_high": float(high)}
    return out | {"mrr": float((1.0 / found).mean())}


def row(about: Mapping[str, Any], found: NDArray[np.int64]) -> dict[str, Any]:
    """Return a result row: what was asked, and the summary, rounded."""
    rounded = {name: round(v, 4) if isinstance(v, float) else v for name, v in summary(found).items()}
    return {**about, **rounded}
