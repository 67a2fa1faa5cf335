"""The studies on full probing: each builds workspaces, asks them, and returns rows.

What could be tuned was tuned on the validation half of the concepts: only ``k`` of the published scoring is here, and
rows of the validation half say so in ``part``.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy import ask, baselines
from benchmarks.accuracy.collection import Collection, Model, imagenet_halves
from benchmarks.accuracy.variant import build, hidden, open_index, told

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from search import Index

K = (1, 2, 3, 5, 10, 20, 50, 100, 200, 400)
WRONG = 0.2
"""Share of the lenders' labels that are permuted among themselves in the study of wrong labels."""

LABELLED = 0.5
"""Share of the tiny models that show honest labels where some do."""

Rows = list[dict[str, Any]]


def best_k(
    index: Index, collection: Collection, queries: Sequence[ask.Asked], about: dict[str, Any], rows: Rows
) -> int:
    """Return the published scoring's best ``k`` by top-1 on validation queries, and record the sweep."""
    tops = {}
    for k in K:
        found = ask.ranks(index, collection, list(queries), "probelog", k)
        rows.append(ask.row({**about, "part": "validation", "scoring": "probelog", "k": k}, found))
        tops[k] = rows[-1]["top1"]
    return max(tops, key=lambda k: (tops[k], -k))


def rows_of(index: Index, repos: set[str]) -> NDArray[np.bool_]:
    """Return which logits are of some models."""
    names = index.gallery.models.column("repo_id").to_pylist()
    return np.isin(index.gallery.model_of, [i for i, name in enumerate(names) if name in repos])


def measured(
    index: Index,
    collection: Collection,
    queries: list[ask.Asked],
    about: dict[str, Any],
    k: int,
    scorings: Sequence[str],
) -> Iterator[dict[str, Any]]:
    """Yield a row per scoring; ``k`` is the published scoring's."""
    for scoring in scorings:
        own = k if scoring == "probelog" else None
        found = ask.ranks(index, collection, queries, scoring, own)
        mean = ask.precision(index, collection, queries, scoring, own)
        yield {**ask.row({**about, "part": "test", "scoring": scoring, "k": own}, found), "map": round(mean, 4)}


def imagenet(collection: Collection, folder: Path) -> Rows:
    """Text to the logits of a real ImageNet model, in four settings, and logit to logit between the two."""
    validation, test = imagenet_halves()
    models = [model for model in collection.models if model.imagenet]
    rows: Rows = []
    index = open_index(build(folder, collection, models, labels=hidden))
    for model in models:
        about = {"study": "imagenet", "task": "text", "setting": "all labels hidden", "target": model.repo_id}
        found_in = rows_of(index, {model.repo_id})
        k = best_k(index, collection, ask.texts(index, collection, validation, found_in), about, rows)
        asked = ask.texts(index, collection, test, found_in)
        rows += measured(
            index, collection, asked, about, k, ("probelog", "full", "unnormalised", "strong", "contrastive")
        )
        rows += baselines.dissect(index, collection, asked, about)
        rows += baselines.hubness(index, collection, asked, about, k)
        about = {"study": "imagenet", "task": "logit", "setting": "the other model's logit", "target": model.repo_id}
        others = np.flatnonzero(~found_in)
        k = best_k(index, collection, ask.logits(index, collection, others, set(validation)), about, rows)
        asked = ask.logits(index, collection, others, set(test))
        rows += measured(index, collection, asked, about, k, ("probelog", "full", "strong", "bridged"))
    for lender in models:
        target = next(model for model in models if model is not lender)
        for setting, labels in _settings(collection, lender, set(test)):
            index = open_index(build(folder, collection, models, labels=labels))
            lending = rows_of(index, {lender.repo_id})
            asked = ask.texts(index, collection, test, ~lending, lambda _, lending=lending: lending)  # type: ignore[misc]
            about = {"study": "imagenet", "task": "text", "setting": setting, "target": target.repo_id}
            rows += measured(index, collection, asked, about, 0, ("bridged",))
            rows += baselines.declined(index, collection, asked, about)
    return rows


def _settings(collection: Collection, lender: Model, test: set[str]) -> Iterator[tuple[str, Any]]:
    honest = told(collection)(lender)
    assert honest is not None
    rng = np.random.default_rng(7)
    wrong = np.sort(rng.choice(len(honest), round(WRONG * len(honest)), replace=False))
    mixed = list(honest)
    for place, other in zip(wrong.tolist(), np.roll(wrong, 1).tolist(), strict=True):
        mixed[place] = honest[other]
    other_half = ["" if concept in test else name for concept, name in zip(lender.concepts, honest, strict=True)]
    for setting, labels in (
        ("labels hidden in the target", honest),
        ("the same, a fifth of the lender's labels wrong", mixed),
        ("the concept hidden everywhere, other labels visible", other_half),
    ):
        yield setting, lambda model, labels=labels: labels if model is lender else None


def minihub(collection: Collection, folder: Path) -> Rows:
    """The tiny models: with and without probes drawn like their concepts, with no labels and with half of them."""
    models = [model for model in collection.models if not model.imagenet]
    emoji = collection.drawn_like_emoji()
    rows: Rows = []
    for probes, columns in (("all probes", np.arange(emoji.size)), ("no probe of the style", np.flatnonzero(~emoji))):
        index = open_index(build(folder, collection, models, labels=hidden, columns=columns))
        everything = np.ones(len(index), bool)
        about = {"study": "minihub", "task": "text", "setting": "all labels hidden", "probes": probes}
        queries = ask.texts(index, collection, collection.parts["validation"], everything)
        k = best_k(index, collection, queries, about, rows)
        asked = ask.texts(index, collection, collection.parts["test"], everything)
        rows += measured(
            index, collection, asked, about, k, ("probelog", "full", "unnormalised", "strong", "contrastive")
        )
        rows += baselines.model_level(index, collection, asked, about)
        rows += baselines.dissect(index, collection, asked, about)
        rows += baselines.hubness(index, collection, asked, about, k)
        rows += baselines.accuracy_correlation(index, collection, asked, about)
        if probes == "all probes":
            rows += baselines.selections(index, collection, asked, about, k)
        about = {**about, "task": "logit"}
        some = np.random.default_rng(0).permutation(len(index))
        asked = ask.logits(index, collection, some.tolist(), set(collection.parts["validation"]))[:500]
        k = best_k(index, collection, asked, about, rows)
        asked = ask.logits(index, collection, some.tolist(), set(collection.parts["test"]))[:1_000]
        rows += measured(index, collection, asked, about, k, ("probelog", "full", "strong", "bridged"))
        rows += baselines.model_level(index, collection, asked, about)
        rows += _half_labelled(collection, folder, models, columns, probes)
    return rows


def _half_labelled(
    collection: Collection, folder: Path, models: list[Model], columns: NDArray[np.int64], probes: str
) -> Rows:
    chance = np.random.default_rng(3).permutation(len(models))
    showing = {models[i].repo_id for i in chance[: round(LABELLED * len(models))]}
    honest = told(collection)
    rows: Rows = []
    test = set(collection.parts["test"])
    for setting, labels in (
        ("half the models labelled; the others are found", honest),
        ("the same, test concepts named nowhere", lambda m: [n if c not in test else "" for c, n in _pairs(m, honest)]),
    ):
        shown = lambda m, labels=labels: labels(m) if m.repo_id in showing else None  # noqa: E731
        index = open_index(build(folder, collection, models, labels=shown, columns=columns))
        lending = rows_of(index, showing)
        asked = ask.texts(index, collection, collection.parts["test"], ~lending, lambda _, own=lending: own)  # type: ignore[misc]
        about = {"study": "minihub", "task": "text", "setting": setting, "probes": probes}
        rows += measured(index, collection, asked, about, 0, ("contrastive", "bridged"))
        rows += baselines.declined(index, collection, asked, about)
        if setting.startswith("half"):
            asked = ask.texts(
                index, collection, collection.parts["test"], np.ones(len(index), bool), lambda _, own=lending: own
            )  # type: ignore[misc]
            rows += baselines.label_search(
                index, collection, asked, {**about, "setting": "half labelled; all are found"}
            )
            rows += measured(
                index, collection, asked, {**about, "setting": "half labelled; all are found"}, 0, ("bridged",)
            )
    return rows


def _pairs(model: Model, honest: Any) -> Iterator[tuple[str | None, str]]:
    yield from zip(model.concepts, honest(model), strict=True)


def probe_sets(collection: Collection, folder: Path) -> Rows:
    """How many probes, and of what kind: text to the tiny models' logits."""
    models = [model for model in collection.models if not model.imagenet]
    sources = np.array([s.partition(":")[0] for s in collection.probes.column("source").to_pylist()])
    order = np.random.default_rng(1).permutation(sources.size)
    chosen = {f"{n} random": np.sort(order[:n]) for n in (250, 500, 1_000, 2_000, 4_000)}
    chosen |= {f"750 {kind}": np.sort([i for i in order if sources[i] == kind][:750]) for kind in np.unique(sources)}
    rows: Rows = []
    for probes, columns in chosen.items():
        index = open_index(build(folder, collection, models, labels=hidden, columns=columns))
        about = {"study": "probe sets", "task": "text", "setting": "all labels hidden", "probes": probes}
        everything = np.ones(len(index), bool)
        k = best_k(
            index, collection, ask.texts(index, collection, collection.parts["validation"], everything), about, rows
        )
        asked = ask.texts(index, collection, collection.parts["test"], everything)
        rows += measured(index, collection, asked, about, k, ("probelog", "contrastive"))
    return rows
