"""What coverage and hits promise on PhotoHub, of concepts that no label names; and how good a model is said to be.

The labels of the classes' test half are taken out of a workspace whose models state what they state, and the index is
built: what it learns, it learns of the validation half. Then the test half is asked, with all models and with a part of
them. With ``part`` "validation" the same of two halves of the validation half, for choices.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import search
from benchmarks.accuracy.ask import concept_of
from benchmarks.accuracy.variant import build, open_index
from benchmarks.photohub import models
from benchmarks.photohub.collection import shown
from search.scan.gallery import FIRST

if TYPE_CHECKING:
    from benchmarks.accuracy.collection import Collection, Model

BINS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.85), (0.85, 0.95), (0.95, 1.01))


KEPT = (1.0, 0.3, 0.1, 0.03)
"""Shares of the models that filters leave."""

Rows = list[dict[str, Any]]
Cases = NDArray[np.float64]
"""Of each case a column: what was stated, whether it came, and which name was asked."""


def run(collection: Collection, folder: Path, part: str = "test") -> Rows:
    """Return what was stated and what came; of the test half also how the estimated accuracy ranks the models."""
    hidden, asked = set(collection.parts["test"]), collection.parts["test"]
    rows: Rows = []
    if part == "validation":
        mixed = random.Random("A/B").sample(sorted(collection.parts["validation"]), len(collection.parts["validation"]))
        asked = sorted(mixed[len(mixed) // 2 :])
        hidden |= set(asked)
    else:
        rows += ranked(open_index(build(folder, collection, collection.models, labels=shown(collection))), collection)

    def labels(model: Model) -> list[str] | None:
        own = shown(collection)(model)
        return None if own is None else ["" if one in hidden else one for one in own]

    return rows + promised(open_index(build(folder, collection, collection.models, labels=labels)), collection, asked)


def promised(index: search.Index, collection: Collection, asked: list[str]) -> Rows:
    """Return what was stated and what came, of queries and of hits, with each share of the models and with all."""
    gallery, concepts = index.gallery, concept_of(index, collection)
    asked = [one for one in asked if (concepts == one).any()]
    rng, rows = np.random.default_rng(0), list[dict[str, Any]]()
    every: dict[str, list[Cases]] = {"query": [], "hit": []}
    for kept in KEPT:
        stated, covered, answered, shares, came, names = [], [], [], [], [], []
        for number, one in enumerate(asked):
            query = index.descriptor(collection.names[one])
            allowed = None if kept == 1.0 else (rng.random(gallery.models.num_rows) < kept)[gallery.model_of]
            coverage = gallery.coverage(query, allowed)
            found, distances = gallery.nearest(gallery.compile(query, "bridged"), FIRST, allowed)
            right = concepts[found] == one
            stated.append(coverage.probability)
            covered.append(coverage.covered)
            answered.append(bool(right.any()))
            shares += gallery.certain(query, found, distances, allowed).tolist()
            came += right.tolist()
            names += [number] * len(right)
        said, ok = np.array(covered), np.array(answered)
        rows.append({
            "models_kept": kept, "asked": len(asked), "found_in_ten": _share(ok), "answered": int(said.sum()),
            "failures_of_answered": _share(~ok[said]), "failures_of_declined": _share(~ok[~said]),
        })  # fmt: skip
        for what, one in (("query", (stated, answered, range(len(asked)))), ("hit", (shares, came, names))):
            every[what].append(np.array(one, np.float64))
            rows += _reliable({"models_kept": kept, "of": what}, every[what][-1])
    for what, parts in every.items():
        rows += _reliable({"models_kept": "any", "of": what}, np.concatenate(parts, axis=1))
    return rows


def _reliable(about: dict[str, Any], cases: Cases) -> Rows:
    """Return the log loss, and for each of `BINS` what was stated and came, with the standard error of the difference.

    ``cases`` are what was stated, what came and the name that was asked: errors are those of names drawn again.
    """
    stated, came, name = cases
    sure = np.where(came > 0, stated, 1 - stated).clip(1e-4)
    rows = [{**about, "cases": came.size, "log_loss": round(float(-np.log(sure).mean()), 4)}]
    count = int(name.max()) + 1
    drawn = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), 1_000)
    for low, high in BINS:
        here = (stated >= low) & (stated < high)
        if here.any():
            of_names = [np.bincount(name[here].astype(int), w, count) for w in ((stated - came)[here], None)]
            off, cases_drawn = (drawn @ part for part in of_names)
            error = round(float((off / np.maximum(cases_drawn, 1)).std()), 3)
            shares = {"stated": _share(stated[here]), "observed": _share(came[here]), "error": error}
            rows.append({**about, "cases": int(here.sum()), **shares})
    return rows


def _share(values: Any) -> float | None:
    return round(float(np.mean(values)), 3) if len(values) else None


def ranked(index: search.Index, collection: Collection) -> Rows:
    """Return Spearman's correlation of the estimate with the accuracy on held-out photographs."""
    accuracy = {model.repo_id: model.accuracy for model in collection.models}
    labels = {spec.repo: spec.labels for spec in models.trained()}
    table, rows = index.gallery.models.select(["repo_id", "estimated_accuracy"]).to_pylist(), list[dict[str, Any]]()
    for kind in ("honest", None):
        pairs = [
            (row["estimated_accuracy"], accuracy[row["repo_id"]])
            for row in table
            if row["repo_id"] in labels
            and row["estimated_accuracy"] is not None
            and kind in (None, labels[row["repo_id"]])
        ]
        ranks = [np.argsort(np.argsort(column)) for column in np.array(pairs, float).T]
        spearman = round(float(np.corrcoef(*ranks)[0, 1]), 3)
        rows.append({"labels": kind or "any", "models": len(labels), "estimated": len(pairs), "spearman": spearman})
    return rows
