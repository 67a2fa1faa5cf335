"""How often search finds what it should, given the truth about every logit; and TREC's files of the same.

TREC runs and qrels let any tool of information retrieval score us, and score others on the same truth. A document is
``repo_id#logit``; a query of the text task is a concept's key with its white space as underscores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from tqdm import tqdm

from search.open_index import Index
from search.open_index import open as open_index
from search.scan.gallery import Gallery
from search.scan.scoring import Descriptor
from search.text.contrast import unit
from search.text.encoders import Encoder
from search.text.labels import NAMED
from workspace import QueryError, Workspace
from workspace.files import replacing

DEPTH = 100
"""Hits per query in a run."""

MOST_LOGITS = 1_000_000
"""Outputs that a model can have in a qrels file."""


def read_qrels(text: str) -> dict[str, Any]:
    """Return the truth, as `search.evaluate` takes it, from qrels lines ``concept 0 repo_id#logit relevance``.

    A concept's underscores are spaces in its name. Raises `QueryError` naming the line that is not of that shape.
    """
    models: dict[str, dict[int, str]] = defaultdict(dict)
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            concept, _, document, relevance = line.split()
            repo_id, _, logit = document.rpartition("#")
            relevant, place = int(relevance) > 0, int(logit)
            if not 0 <= place < MOST_LOGITS:
                raise ValueError(place)
        except ValueError as error:
            raise QueryError(f"qrels line {number}: write 'concept 0 repo_id#logit 1', not {line[:80]!r}") from error
        if relevant and (before := models[repo_id].setdefault(place, concept)) != concept:
            raise QueryError(
                f"qrels line {number}: {document[:80]} is relevant to {before} already, and an output has one "
                "concept here"
            )
    concepts = {concept: {"name": concept.replace("_", " ")} for of in models.values() for concept in of.values()}
    listed = {repo_id: {"logits": [of.get(i) for i in range(max(of) + 1)]} for repo_id, of in models.items()}
    return {"concepts": concepts, "models": listed}


def write_trec(
    workspace: Workspace, truth: Mapping[str, Any], folder: Path, *, scorings: Sequence[str], k: int | None = None,
    encoder: Encoder | None = None,
) -> list[Path]:  # fmt: skip
    """Write ``truth.qrels`` and one ``<scoring>.run`` for every scoring, of the text task; return the paths."""
    index = open_index(workspace, encoder=encoder)
    known = set(index.gallery.models.column("repo_id").to_pylist())
    lines = sorted(
        f"{_key(concept)} 0 {repo_id}#{logit} 1"
        for repo_id, about in truth["models"].items()
        if repo_id in known
        for logit, concept in enumerate(about["logits"])
        if concept is not None and concept in truth["concepts"]
    )
    asked = sorted({line.split()[0] for line in lines})
    names = {_key(key): str(about["name"]) for key, about in truth["concepts"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = [_written(folder / "truth.qrels", lines)]
    index.prepare([names[key] for key in asked])
    for scoring in scorings:
        run = []
        for key in asked:
            hits = index.search(names[key], scoring=scoring, k=k).limit(DEPTH).to_arrow()
            columns = (hits.column(name).to_pylist() for name in ("rank", "repo_id", "logit", "distance"))
            for rank, repo_id, logit, distance in zip(*columns, strict=True):
                run.append(f"{key} Q0 {repo_id}#{logit} {rank} {-distance:.6f} hubprobe-{scoring}")
        files.append(_written(folder / f"{scoring}.run", run))
    return files


def _key(concept: str) -> str:
    return "_".join(str(concept).split())


def _written(path: Path, lines: Sequence[str]) -> Path:
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    return path


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
        return list(self.table.to_pylist())


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
        scorings: names in `search.SCORINGS`, and of the text tasks in `search.evaluation.BASELINES`.
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
    tasks = {
        "text": _texts(index, texts, names, None),
        "text, unlabelled": _texts(index, unnamed, names, blind),
        "logit": _logits(index, asked, concepts),
    }
    for task, queries in tasks.items():
        batch = list(tqdm(queries, desc=f"{task} queries", disable=not progress, leave=False))
        for scoring in scorings if batch else ():
            if scoring in BASELINES and task == "logit":
                continue
            compared, distances = _distances(index, [query for query, _, _ in batch], scoring, k)
            bar = tqdm(batch, desc=f"{task} {scoring}", disable=not progress, leave=False)
            found = [_first(one, concepts == c, allowed) for (_, c, allowed), one in zip(bar, distances, strict=True)]
            for (descriptor, concept, _), (rank, _) in zip(batch, found, strict=True):
                about = {"query": descriptor.about, "concept": names[concept], "rank": rank}
                ranks.append({"task": task, "scoring": scoring, **about})
            first, chance = np.array(found).T
            about = {"task": task, "scoring": scoring, "k": compared, "queries": len(batch)}
            rows.append({**about, **_summary(first, rng), "chance": float(chance.mean())})
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
    found = np.full(len(index), -1, np.int64)
    for row, (repo, _, logit) in enumerate(index.gallery.keys(np.arange(len(index)))):
        if logit < len(known := listed.get(repo, ())) and known[logit] is not None:
            found[row] = position.get(known[logit], -1)
    if (found < 0).all():
        raise QueryError("the truth names no logit of this index")
    return found, names


def _distances(
    index: Index, queries: Sequence[Descriptor], scoring: str, k: int | None
) -> tuple[int, Iterator[NDArray[np.float64]]]:
    """Return how many probes the last query compares, and every query's distances to all logits."""
    gallery = index.gallery
    if scoring in BASELINES:
        texts = index.texts.embedded([query.about for query in queries], "asked", progress=False)
        k = min(k or PROBES, gallery.n_probes)
        scores = BASELINES[scoring](gallery, index.texts.probes, texts, k)
        return k, (1.0 - row.astype(np.float64) for row in scores)
    comparisons = [gallery.compile(query, scoring, k) for query in queries]
    return comparisons[-1].columns.size, (gallery.distances(one) for one in comparisons)


Asked: TypeAlias = "tuple[Descriptor, int, NDArray[np.bool_] | None]"
"""A query, the concept that is right, and which logits may be found."""


def _texts(
    index: Index, concepts: Sequence[int], names: Sequence[str], allowed: NDArray[np.bool_] | None
) -> Iterator[Asked]:
    index.prepare([names[concept] for concept in concepts])
    for concept in concepts:
        yield index.descriptor(names[concept]), concept, allowed


def _logits(index: Index, rows: Sequence[int], concepts: NDArray[np.int64]) -> Iterator[Asked]:
    model_of = index.gallery.model_of
    for row, (repo_id, sha, logit) in zip(rows, index.gallery.keys(np.array(rows, np.int64)), strict=True):
        yield index.logit(repo_id, logit, sha=sha), int(concepts[row]), model_of != model_of[row]


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


PROBES = 20
"""Probes of a logit that speak for it, and probes of a text that it should find, when nobody says how many."""

_ROWS = 2_048

Baseline = Callable[["Gallery", "NDArray[np.float32]", "NDArray[np.float32]", int], "NDArray[np.float32]"]


def semantic_lens(
    gallery: Gallery, probes: NDArray[np.float32], texts: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    """Cosine of a text with the mean embedding of the ``k`` probes that a logit answers most strongly.

    Source: Dreyer et al., "Mechanistic understanding and validation of large AI models with SemanticLens", 2025.

    Args:
        gallery: the logits.
        probes: float32 ``[n, dim]``, the probes' embeddings, rows of unit length.
        texts: float32 ``[texts, dim]``, the same of the texts.
        k: probes that speak for a logit.
    """
    found = []
    for vectors in _read(gallery):
        strongest = np.argpartition(-vectors, min(k, vectors.shape[1]) - 1, axis=1)[:, :k]
        found.append(texts @ unit(probes[strongest].mean(axis=1)).T)
    return np.concatenate(found, axis=1)


def auprc(gallery: Gallery, probes: NDArray[np.float32], texts: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Area under the precision-recall curve of a logit's responses as a detector of the ``k`` probes most like a text.

    It is the average precision, the detector's scores being the responses: ``mean over the positives of i / place``,
    the i-th of them being at that place. Arguments as of `semantic_lens`.
    """
    k = min(k, len(probes))
    positives = np.argpartition(-(texts @ probes.T), k - 1, axis=1)[:, :k]
    order, found = np.arange(1, k + 1, dtype=np.float32), []
    for vectors in _read(gallery):
        places = np.empty(vectors.shape, np.int32)
        np.put_along_axis(places, np.argsort(-vectors, axis=1), np.arange(1, vectors.shape[1] + 1, dtype=np.int32), 1)
        found.append(np.stack([(order / np.sort(places[:, columns], axis=1)).mean(axis=1) for columns in positives]))
    return np.asarray(np.concatenate(found, axis=1), np.float32)


def _read(gallery: Gallery) -> Iterator[NDArray[np.float32]]:
    return (gallery.vectors(rows) for rows in np.split(np.arange(len(gallery)), range(_ROWS, len(gallery), _ROWS)))


BASELINES: dict[str, Baseline] = {"auprc": auprc, "semanticlens": semantic_lens}
"""By the names that `search.evaluate` takes; they answer texts only."""
