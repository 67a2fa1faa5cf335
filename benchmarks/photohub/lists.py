"""Whole lists on PhotoHub: true ones accepted, wrong ones refused, and what naming its models is worth to a search.

Every model is judged as if it said nothing of its outputs, the others saying what they say: once beside its own true
list, once beside each of fourteen wrong ones: six other orders, the order moved by one either way, other classes in
ImageNet's order (three draws), and each class's nearest, second and third neighbour by name. Then the index is built
again, the true lists of the models that state none being known, and the names of the classes' test half are asked among
these models. Everything was chosen on every other model of PhotoHub.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

import search
from benchmarks.accuracy import variant
from benchmarks.accuracy.encoder import captions
from benchmarks.photohub.collection import shown
from search import build
from search.text import lists
from search.text.contrast import Material
from search.text.encoders import text_embeddings
from search.text.labels import NAMED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.accuracy.collection import Collection
    from search.text.lists import Model
    from workspace import Workspace

ORDERS = 6
"""Other orders of a model's list that are tried."""

Rows = list[dict[str, Any]]


def run(collection: Collection, folder: Path) -> Rows:
    """Return how many true and wrong lists are accepted, and what naming is worth."""
    workspace = variant.build(folder, collection, collection.models, labels=shown(collection))
    return judged(workspace, collection.truth()) + searched(workspace, collection)


def embed(texts: Sequence[str]) -> NDArray[np.float32]:
    """Embed texts as a caption encoder's index does."""
    return text_embeddings(captions(), texts, ("{}",))


def wrong_lists(
    true: list[str], names: list[str], near: NDArray[np.int64], rng: np.random.Generator
) -> list[list[str]]:
    """Return lists that are not a model's own, as long as it; the last three hold its classes' neighbours."""
    at = [names.index(name) for name in true]
    others = np.setdiff1d(np.arange(len(names)), at)
    found = [[true[i] for i in rng.permutation(len(true))] for _ in range(ORDERS)]
    found += [true[1:] + true[:1], true[-1:] + true[:-1]]
    if len(true) < len(names):
        found += [[names[i] for i in np.sort(rng.choice(others, len(true), replace=False))] for _ in range(3)]
        found += [[names[near[i, k]] for i in at] for k in (1, 2, 3)]
    return [one for one in found if one != true]


def judged(workspace: Workspace, truth: dict[str, Any]) -> Rows:
    """Return how many true and wrong lists are accepted, of the models the thresholds were chosen on and of others."""
    index = search.open(workspace, encoder=captions())
    gallery = index.gallery
    calibration = gallery.calibration
    assert calibration is not None
    material = Material(gallery.vectors, gallery.model_of, embed, index.probe_embeddings)
    names = [str(about["name"]) for about in truth["concepts"].values()]
    rows = embed(names)
    near = np.argsort(-(rows @ rows.T), axis=1)
    rng, found = np.random.default_rng(0), [Counter[str](), Counter[str]()]
    missed = []
    models = build._models_of(gallery)
    for at, model in enumerate(models):
        true = [truth["concepts"][c]["name"] for c in truth["models"][model.repo_id]["logits"]]
        if len(true) < lists.FEWEST:
            continue
        silent = lists.Model(model.repo_id, "LABEL_i", model.count, model.rows, model.outputs, [None] * model.count)
        others = [*models[:at], *models[at + 1 :]]
        own = truth["models"][model.repo_id]["logits"]
        same = {"imagenet-1k", *(one.repo_id for one in others if truth["models"][one.repo_id]["logits"] == own)}

        def source(labels: list[str], silent: Model = silent, others: list[Model] = others) -> str | None:
            lender = lists.Model("", NAMED, silent.count, silent.rows[:0], silent.outputs, labels)
            return lists.Judge([silent, *others, lender], material, calibration.centre).verdict(silent).source

        count = found[sum(half["true"] for half in found) % 2]
        count["true"] += 1
        if source(true) in {"", *same}:
            count["true accepted"] += 1
        else:
            missed.append(len(true))
        wrong = wrong_lists(true, names, near, rng)
        for i, one in enumerate(wrong):
            kind = "neighbours" if i >= len(wrong) - 3 else "wrong"
            count[kind] += 1
            count[f"{kind} accepted"] += source(one) not in {None, *same}
    halves = zip(("chosen on", "others"), found, strict=True)
    return [{"models": name, **counted} for name, counted in halves] + [{"outputs of models missed": missed}]


def searched(workspace: Workspace, collection: Collection) -> Rows:
    """Return text top-1 among models that state no labels, their lists unknown and known."""
    truth, test = collection.truth(), set(collection.parts["test"])
    rows: Rows = []
    before = lists.shipped()
    for known in (False, True):
        index = search.open(workspace, encoder=captions())
        quality = dict(
            zip(*(index.gallery.models.column(n).to_pylist() for n in ("repo_id", "label_quality")), strict=True)
        )
        silent = {
            repo for repo, q in quality.items() if q != NAMED and len(truth["models"][repo]["logits"]) >= lists.FEWEST
        }
        if known:
            told = {r: tuple(truth["concepts"][c]["name"] for c in truth["models"][r]["logits"]) for r in silent}
            lists.shipped = lambda told=told: {**before, **told}  # type: ignore[assignment,misc]
            try:
                search.index(workspace, encoder=captions(), rebuild=True, names=False, progress=False)
            finally:
                lists.shipped = lambda: before  # type: ignore[assignment]
            index = search.open(workspace, encoder=captions())
        repos = index.gallery.models.column("repo_id").to_pylist()
        allowed = np.array([repo in silent for repo in repos])[index.gallery.model_of]
        concept = [
            truth["models"][repo]["logits"][logit] for repo, _, logit in index.gallery.keys(np.arange(len(index)))
        ]
        asked = sorted({c for c, ok in zip(concept, allowed, strict=True) if ok} & test)
        hits = []
        for one in asked:
            comparison = index.gallery.compile(index.descriptor(truth["concepts"][one]["name"]), "bridged")
            best = index.gallery.nearest(comparison, 5, allowed)[0].tolist()
            hits.append([concept[row] == one for row in best])
        right = np.array(hits)
        named = sum(source is not None for source in index.gallery.models.column("labels_from").to_pylist())
        top1, top5 = round(float(right[:, 0].mean()), 3), round(float(right.any(axis=1).mean()), 3)
        about = {"lists_known": known, "silent": len(silent), "named_by_lists": named, "asked": len(asked)}
        rows.append({**about, "top1": top1, "top5": top5})
    return rows
