"""The paper's tables in form, on photographs: full probing, measured on the test half of the classes.

``k`` of the published scoring is chosen on the validation half, for each task and probe set anew.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy import ask, baselines
from benchmarks.accuracy.collection import Collection
from benchmarks.accuracy.partial import study
from benchmarks.accuracy.studies import best_k, measured, rows_of
from benchmarks.accuracy.variant import build, hidden, open_index
from benchmarks.photohub.collection import shown
from search.evaluation import BASELINES, PROBES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

Rows = list[dict[str, Any]]

LOGIT_QUERIES = 500
VALIDATION_QUERIES = 200
TEXT = ("probelog", "full", "unnormalised", "strong", "contrastive")
LOGIT = ("probelog", "full", "strong", "bridged")


def published(index: Index, collection: Collection, queries: list[ask.Asked], about: dict[str, Any]) -> Rows:
    """Measure `search.evaluation` on text queries."""
    concepts = ask.concept_of(index, collection)
    texts = index.encoder.encode_texts([collection.names[query.concept] for query in queries])
    rows: Rows = []
    for name, scored in BASELINES.items():
        scores = scored(index.gallery, index.probe_embeddings, texts, PROBES)
        found = [baselines._rank(query, concepts, row) for query, row in zip(queries, scores, strict=True)]
        rows.append({**baselines._row(about, name, found), "k": PROBES})
    return rows


def _texts(
    index: Index, collection: Collection, found_in: NDArray[np.bool_], about: dict[str, Any], more: bool
) -> Rows:
    rows: Rows = []
    k = best_k(index, collection, ask.texts(index, collection, collection.parts["validation"], found_in), about, rows)
    asked = ask.texts(index, collection, collection.parts["test"], found_in)
    rows += measured(index, collection, asked, about, k, TEXT)
    rows += published(index, collection, asked, about)
    if more:
        rows += baselines.dissect(index, collection, asked, about)
        rows += baselines.model_level(index, collection, asked, about)
        rows += baselines.hubness(index, collection, asked, about, k)
        rows += baselines.accuracy_correlation(index, collection, asked, about)
        rows += baselines.selections(index, collection, asked, about, k)
    return rows


def _logits(
    index: Index, collection: Collection, asking: NDArray[np.bool_], found_in: NDArray[np.bool_], about: dict[str, Any]
) -> Rows:
    """Logits of some models ask, those of others are found."""
    rows: Rows = []
    order = np.random.default_rng(0).permutation(np.flatnonzero(asking)).tolist()
    concepts = ask.concept_of(index, collection)

    def queries(part: str, most: int) -> list[ask.Asked]:
        found = []
        for query in ask.logits(index, collection, order, set(collection.parts[part])):
            allowed = query.allowed & found_in
            if (concepts[allowed] == query.concept).any():
                found.append(ask.Asked(query.descriptor, query.concept, allowed))
            if len(found) == most:
                break
        return found

    k = best_k(index, collection, queries("validation", VALIDATION_QUERIES), about, rows)
    asked = queries("test", LOGIT_QUERIES)
    rows += measured(index, collection, asked, about, k, LOGIT)
    rows += baselines.model_level(index, collection, asked, about)
    return rows


def full(collection: Collection, folder: Path, columns: NDArray[np.int64] | None = None, name: str = "all") -> Rows:
    """Text and logits, between PhotoHub and the ImageNet models; no label is shown."""
    index = open_index(build(folder, collection, collection.models, labels=hidden, columns=columns))
    return blind(index, collection, name, more=columns is None)


def blind(index: Index, collection: Collection, name: str, more: bool) -> Rows:
    """Ask an index what no label helps with; ``more`` measures besides accuracy, and other baselines."""
    real = rows_of(index, {model.repo_id for model in collection.models if model.imagenet})
    about = {"study": "full probing", "probes": name, "setting": "all labels hidden"}
    rows = _texts(index, collection, ~real, {**about, "task": "text -> PhotoHub"}, more)
    rows += _texts(index, collection, real, {**about, "task": "text -> ImageNet"}, more)
    for task, asking, found_in in (
        ("PhotoHub -> PhotoHub", ~real, ~real),
        ("ImageNet -> PhotoHub", real, ~real),
        ("PhotoHub -> ImageNet", ~real, real),
        ("ImageNet -> ImageNet", real, real),
    ):
        rows += _logits(index, collection, asking, found_in, {**about, "task": task})
    return rows


def probe_sources(collection: Collection, folder: Path) -> Rows:
    """The same with the probes of one source each."""
    sources = np.array(collection.probes.column("source").to_pylist())
    chance = np.random.default_rng(0)
    tiny = np.flatnonzero(sources == "tiny_imagenet_test")
    chosen = {
        "1,000 of ImageNet": np.flatnonzero(sources == "imagenet_sample"),
        "1,000 of Tiny-ImageNet": np.sort(chance.choice(tiny, 1_000, replace=False)),
        "100 of COCO": np.flatnonzero(sources == "coco_100"),
    }
    rows: Rows = []
    for name, columns in chosen.items():
        rows += full(collection, folder, columns, name)
    return rows


def labelled(collection: Collection, folder: Path) -> Rows:
    """Labels as the models state them, a fifth of the lists wrong or in another order; unlabelled outputs are found."""
    return telling(open_index(build(folder, collection, collection.models, labels=shown(collection))), collection)


def telling(index: Index, collection: Collection) -> Rows:
    """Ask an index in which labels are as stated."""
    says = {m.repo_id for m in collection.models if shown(collection)(m) is not None}
    lending = rows_of(index, says)
    rows: Rows = []
    for setting, found_in, lend in (
        ("labels as stated; outputs without are found", ~lending, lambda _: lending),
        ("labels as stated; all outputs are found", np.ones(len(index), bool), lambda _: lending),
    ):
        asked = ask.texts(index, collection, collection.parts["test"], found_in, lend)
        about = {"study": "labels", "probes": "all", "task": "text", "setting": setting}
        rows += measured(index, collection, asked, about, 0, ("contrastive", "bridged"))
        rows += baselines.declined(index, collection, asked, about)
        if found_in.all():
            rows += baselines.label_search(index, collection, asked, about)
    return rows


def partial(collection: Collection, folder: Path) -> Rows:
    """A third of the probes: Lite0 alone run in part, in a gallery of all kinds; then all models but the full ones."""
    target = next(model for model in collection.models if model.imagenet)
    others = [model for model in collection.models if model is not target]
    real = {model.repo_id for model in collection.models if model.imagenet}
    about = {"study": "partial probing", "target": target.repo_id, "gallery": "all models"}
    thirds = {"modes": ("random", "adaptive"), "shares": (1 / 3,)}
    rows = study(collection, folder, [target], others, collection.parts, about, real, **thirds)
    tuned = [model for model in others if model.repo_id not in real]
    about = {**about, "target": "all of PhotoHub", "gallery": "themselves"}
    return rows + study(
        collection, folder, tuned, [], collection.parts, about, {model.repo_id for model in tuned}, **thirds
    )
