"""How often search finds what it should, given the truth about every logit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from search.descriptor import Descriptor
from search.encoders import Encoder
from search.reader import Index
from search.reader import open as open_index
from search.trust import NAMED
from workspace import QueryError, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray

CUTS = (1, 5, 10)
_RESAMPLES = 1_000  # bootstrap; 95 % interval between the 2.5th and the 97.5th percentile


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` measured.

    Attributes:
        table: one row per task and scoring: ``task`` (``text``; ``text, unlabelled``: the same among models without
            honest labels, where no label search could help; ``logit``), ``scoring``, ``k`` (probes compared),
            ``queries``, ``top1`` with ``top1_low`` and ``top1_high`` (95 % bootstrap interval), the same for ``top5``
            and ``top10``, ``mrr`` (mean reciprocal rank of the first right logit), and ``chance`` (top-1 of a random
            order). Shares are between 0 and 1.
        ranks: one row per query: ``task, scoring, query, concept, rank`` (of the first right logit, from 1).
        models: models with truth in the index.
        logits: searchable logits in the index.
        concepts: concepts present in the index.
    """

    table: pa.Table
    ranks: pa.Table
    models: int
    logits: int
    concepts: int

    def rows(self) -> list[dict[str, Any]]:
        """Return the table as dicts, for printing."""
        found: list[dict[str, Any]] = self.table.to_pylist()
        return found


def evaluate(
    workspace: Workspace,
    truth: Mapping[str, Any],
    *,
    scorings: Sequence[str] = ("bridged", "contrastive", "strong", "probelog", "full", "unnormalised"),
    k: int | None = None,
    max_logit_queries: int = 500,
    seed: int = 0,
    encoder: Encoder | None = None,
    token: str | None = None,
    progress: bool = True,
) -> Evaluation:
    """Measure text-to-logit and logit-to-logit accuracy as the paper does (METHOD section 2).

    Text: each concept that some logit of the index carries is asked once, by its name; a hit at n is a right logit
    among the n nearest. Logit: each logit whose concept another model carries too is asked; its own model never counts.

    Args:
        workspace: whose index is asked.
        truth: ``{"concepts": {key: {"name": str, ...}}, "models": {repo_id: {"logits": [key or None, ...]}}}``.
        scorings: names in `search.SCORINGS`.
        k: probes compared; the configuration's, else each scoring's own, when None.
        max_logit_queries: larger sets of logit queries are sampled down to this many, without replacement.
        seed: of the sample and of the bootstrap.
        encoder: see `search.open`.
        token: see `search.open`.
        progress: draw progress bars on stderr.

    Raises `QueryError` when the truth has another shape or names nothing in the index.
    """
    index = open_index(workspace, encoder=encoder, token=token)
    concepts, names = _concepts(index, truth)
    k = (workspace.config.search.k or None) if k is None else k
    rng = np.random.default_rng(seed)
    texts = sorted({c for c in concepts.tolist() if c >= 0})
    carriers = [set(index.gallery.model_of[concepts == c].tolist()) for c in range(len(names))]
    asked = [i for i, c in enumerate(concepts.tolist()) if c >= 0 and len(carriers[c]) > 1]
    if len(asked) > max_logit_queries:
        asked = sorted(rng.choice(asked, max_logit_queries, replace=False).tolist())
    rows: list[dict[str, Any]] = []
    ranks: list[dict[str, Any]] = []
    honest = np.array([q == NAMED for q in index.gallery.models.column("label_quality").to_pylist()], bool)
    blind = ~honest[index.gallery.model_of]
    unnamed = [c for c in texts if blind[concepts == c].any()] if honest.any() else []
    tasks = (
        ("text", _texts(index, texts, names, None)),
        ("text, unlabelled", _texts(index, unnamed, names, blind)),
        ("logit", _logits(index, asked, concepts)),
    )
    for task, queries in tasks:
        batch = list(tqdm(queries, desc=f"{task} queries", disable=not progress, leave=False))
        for scoring in scorings if batch else ():
            found, chance = [], []
            for descriptor, concept, allowed in tqdm(
                batch, desc=f"{task} {scoring}", disable=not progress, leave=False
            ):
                comparison = index.gallery.compile(descriptor, scoring, k)
                rank, share = _first(index.gallery.distances(comparison), concepts == concept, allowed)
                found.append(rank)
                chance.append(share)
                about = {"query": descriptor.about, "concept": names[concept], "rank": rank}
                ranks.append({"task": task, "scoring": scoring, **about})
            compared = comparison.columns.size
            about = {"task": task, "scoring": scoring, "k": compared, "queries": len(batch)}
            rows.append({**about, **_summary(np.array(found), rng), "chance": float(np.mean(chance))})
    with_truth = len({int(m) for m in index.gallery.model_of[concepts >= 0]})
    return Evaluation(pa.Table.from_pylist(rows), pa.Table.from_pylist(ranks), with_truth, len(index), len(texts))


def _concepts(index: Index, truth: Mapping[str, Any]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the concept of every logit in the index (-1 when there is none), and the concepts' names."""
    try:
        keys = list(truth["concepts"])
        names = [str(truth["concepts"][key]["name"]) for key in keys]
        listed = {repo: list(about["logits"]) for repo, about in truth["models"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise QueryError(f"the truth must map 'concepts' to names and 'models' to 'logits': {error!r}") from error
    position = {key: i for i, key in enumerate(keys)}
    gallery = index.gallery
    found = np.full(len(index), -1, np.int64)
    repos = gallery.models.column("repo_id").to_pylist()
    logits = gallery.logits.column("logit").to_pylist()
    for row, (model, logit) in enumerate(zip(gallery.model_of.tolist(), logits, strict=True)):
        known = listed.get(repos[model], ())
        if logit < len(known) and known[logit] is not None:
            found[row] = position.get(known[logit], -1)
    if (found < 0).all():
        raise QueryError("the truth names no logit of this index")
    return found, names


Asked: TypeAlias = "tuple[Descriptor, int, NDArray[np.bool_] | None]"
"""A query, the concept that is right, and which logits may be found."""


def _texts(
    index: Index, concepts: Sequence[int], names: Sequence[str], allowed: NDArray[np.bool_] | None
) -> Iterator[Asked]:
    index.prepare([names[concept] for concept in concepts])
    for concept in concepts:
        yield index.descriptor(names[concept]), concept, allowed


def _logits(index: Index, rows: Sequence[int], concepts: NDArray[np.int64]) -> Iterator[Asked]:
    for row, (repo_id, sha, logit) in zip(rows, index.gallery.keys(np.array(rows, np.int64)), strict=True):
        yield (
            index.logit(repo_id, logit, sha=sha),
            int(concepts[row]),
            index.gallery.model_of != index.gallery.model_of[row],
        )


def _first(
    distances: NDArray[np.float64], right: NDArray[np.bool_], allowed: NDArray[np.bool_] | None
) -> tuple[int, float]:
    """Return the rank of the nearest right logit, and the share of right ones: top-1 of a random order."""
    allowed = np.ones(distances.size, bool) if allowed is None else allowed
    best = distances[right & allowed].min()
    return 1 + int((distances[allowed & ~right] < best).sum()), float((right & allowed).sum() / allowed.sum())


def _summary(ranks: NDArray[np.int64], rng: np.random.Generator) -> dict[str, float]:
    resamples = rng.integers(0, ranks.size, (_RESAMPLES, ranks.size))
    summary: dict[str, float] = {}
    for cut in CUTS:
        hits = ranks <= cut
        low, high = np.percentile(hits[resamples].mean(axis=1), [2.5, 97.5])
        summary |= {f"top{cut}": float(hits.mean()), f"top{cut}_low": float(low), f"top{cut}_high": float(high)}
    return summary | {"mrr": float((1.0 / ranks).mean())}
