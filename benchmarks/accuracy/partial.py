"""The studies on partial probing: random, adaptive and one fixed subset, at several shares of the probes.

The share of full probing's top-1 is what is compared, under the same scoring (METHOD.md section 3).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import completion
from benchmarks.accuracy import ask
from benchmarks.accuracy.collection import Collection, Model, imagenet_halves
from benchmarks.accuracy.studies import rows_of
from benchmarks.accuracy.variant import build, hidden, open_index
from probing import subset
from workspace.files import short_hash

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from search import Index

Rows = list[dict[str, Any]]

SHARES = (1 / 50, 1 / 6, 1 / 3)
MODES = ("random", "adaptive", "fixed")
_LOGITS = 1_000


def imagenet(collection: Collection, folder: Path) -> Rows:
    """One ImageNet model run in part; the other one and the tiny models in full."""
    rows: Rows = []
    real = [model for model in collection.models if model.imagenet]
    others = [model for model in collection.models if not model.imagenet]
    validation, test = imagenet_halves()
    target = real[0]
    about = {"study": "partial probing, ImageNet", "target": target.repo_id}
    parts = {"validation": validation, "test": test}
    for gallery, rest in (("the other ImageNet model", real[1:]), ("that and the tiny models", real[1:] + others)):
        searched = {m.repo_id for m in real}
        rows += study(collection, folder, [target], rest, parts, {**about, "gallery": gallery}, searched)
    return rows


def minihub(collection: Collection, folder: Path) -> Rows:
    """Every tiny model run in part, each on its own probes."""
    models = [model for model in collection.models if not model.imagenet]
    about = {"study": "partial probing, MiniHub", "target": "all tiny models", "gallery": "themselves"}
    parts = {"validation": collection.parts["validation"], "test": collection.parts["test"]}
    return study(collection, folder, models, [], parts, about, {m.repo_id for m in models})


def methods(collection: Collection, folder: Path) -> Rows:
    """What retrieval makes of each way to complete a random third: the tiny models, all of them run in part."""
    models = [model for model in collection.models if not model.imagenet]
    run = _random(collection, models, subset.size(collection.probes.num_rows, 1 / 3, None))
    names = {model.repo_id for model in models}
    rows: Rows = []
    for method in ("em", "soft-impute", "mean"):
        settings = completion.Settings(method=method)
        index = open_index(build(folder, collection, models, labels=hidden, run=run, settings=settings))
        for part in ("validation", "test"):
            found = _measure(index, collection, models, collection.parts[part], names)
            about = {"study": "completion methods, MiniHub", "target": "all tiny models", "gallery": "themselves"}
            rows.append({**about, "part": part, "mode": method, "share": 0.3333, **_flat(found, found)})
    return rows


def study(
    collection: Collection,
    folder: Path,
    targets: list[Model],
    rest: list[Model],
    parts: Mapping[str, Sequence[str]],
    about: dict[str, Any],
    searched: set[str],
    modes: Sequence[str] = MODES,
    shares: Sequence[float] = SHARES,
) -> Rows:
    """Measure every mode and share; ``rest`` is run in full, only ``searched`` models are found."""
    index = open_index(build(folder, collection, [*targets, *rest], labels=hidden))
    full = {part: _measure(index, collection, targets, keys, searched) for part, keys in parts.items()}
    rows: Rows = [
        {**about, "part": part, "mode": "full", "share": 1.0, **_flat(whole, whole)} for part, whole in full.items()
    ]
    n = collection.probes.num_rows
    for mode in modes:
        for share in shares:
            count = subset.size(n, share, None)
            if mode == "fixed":
                columns = np.sort(np.random.default_rng(0).permutation(n)[:count])
                workspace = build(folder, collection, [*targets, *rest], labels=hidden, columns=columns)
            else:
                run = _random(collection, targets, count)
                drawn = None
                if mode == "adaptive":
                    if share <= subset.RANDOM_SHARE:
                        continue
                    drawn = {}
                    for model in targets:
                        drawn |= _random(collection, [model], subset.at_random(n, count, len(model.raw)))
                    run = _adaptive(folder, collection, targets, rest, drawn, count)
                workspace = build(folder, collection, [*targets, *rest], labels=hidden, run=run, drawn=drawn)
            index = open_index(workspace)
            for part, keys in parts.items():
                found = _measure(index, collection, targets, keys, searched)
                measured = _flat(found, full[part])
                rows.append({**about, "part": part, "mode": mode, "share": round(share, 4), **measured})
    return rows


def _measure(
    index: Index, collection: Collection, targets: list[Model], keys: Sequence[str], searched: set[str]
) -> dict[str, NDArray[np.int64]]:
    """Return ranks of the text task (the targets' logits are found) and of the logit task (others' logits ask)."""
    names = {model.repo_id for model in targets}
    own = rows_of(index, names)
    asked = ask.texts(index, collection, keys, own)
    found = {"text": ask.ranks(index, collection, asked, "contrastive")}
    asking = rows_of(index, searched - names) if searched - names else own
    order = np.random.default_rng(0).permutation(np.flatnonzero(asking))
    queries = ask.logits(index, collection, order.tolist(), set(keys))[:_LOGITS]
    if searched - names:  # the partly run model alone is searched
        concepts = ask.concept_of(index, collection)
        queries = [ask.Asked(q.descriptor, q.concept, own) for q in queries if (concepts[own] == q.concept).any()]
    found["logit"] = ask.ranks(index, collection, queries, "bridged")
    return found


def _flat(found: Mapping[str, NDArray[np.int64]], full: Mapping[str, NDArray[np.int64]]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for task, ranks in found.items():
        whole = float((full[task] <= 1).mean())
        measured = ask.summary(ranks)
        out |= {f"{task}_top1": round(measured["top1"], 4), f"{task}_top5": round(measured["top5"], 4)}
        out |= {f"{task}_low": round(measured["top1_low"], 4), f"{task}_high": round(measured["top1_high"], 4)}
        out[f"{task}_of_full"] = round(float((ranks <= 1).mean()) / max(whole, 1e-9), 3)
        out[f"{task}_queries"] = int(ranks.size)
    return out


def _random(collection: Collection, models: list[Model], count: int) -> dict[str, NDArray[np.int64]]:
    n = collection.probes.num_rows
    return {m.repo_id: subset.choose(n, count, m.repo_id, "", "study").astype(np.int64) for m in models}


def _adaptive(
    folder: Path,
    collection: Collection,
    targets: list[Model],
    rest: list[Model],
    drawn: dict[str, NDArray[np.int64]],
    count: int,
) -> dict[str, NDArray[np.int64]]:
    """Return the probes of an adaptive run: those at random, then the prober's own choice in its own rounds."""
    workspace = build(folder, collection, [*targets, *rest], labels=hidden, run=drawn, index=False)
    probe_set = short_hash("".join(collection.probes.column("image_hash").to_pylist()))
    factors = subset.read_factors(workspace.factors_path(probe_set), probe_set, collection.probes.num_rows)
    if factors is None:
        message = "the completion left no factors"
        raise RuntimeError(message)
    run = {}
    for model in targets:
        random = drawn[model.repo_id].astype(np.int32)
        ids = np.sort(random)
        for more in subset.rounds(count - ids.size):
            new = subset.choose_next(factors, np.ascontiguousarray(model.raw[:, ids].T), ids, random, more)
            ids = np.sort(np.concatenate([ids, new]))
        run[model.repo_id] = ids.astype(np.int64)
    return run
