"""How much worse than the best is the model that `hubprobe pick` picks? On photographs in a style that none was taught.

::

    export HUBPROBE_ASSETS=... HUBPROBE_PHOTOS=...    # as for benchmarks.photohub, whose models have to be there
    python -m benchmarks.pick images                  # answers of all models to 1,200 photographs, once
    python -m benchmarks.pick tasks --seed 7          # 30 tasks, and the table

A task is four concepts, 20 candidates by search (at most two of a family), 25 photographs of each concept. Candidates,
outputs, answers, belief and questions are those of `hubprobe.pick`; only the answers are kept from before, not run.
"""

from __future__ import annotations

import argparse
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image, ImageFilter, ImageOps
from safetensors.torch import load_file

from benchmarks.accuracy.variant import build, open_index
from benchmarks.demo_hub import sources
from benchmarks.photohub import collection, lite, models, photos
from hubprobe.pick import verb
from hubprobe.pick.candidates import shortlist
from hubprobe.pick.images import Task
from hubprobe.pick.scores import UNKNOWN, Belief
from workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from hubprobe.pick.candidates import Candidate

CLASSES, EACH, FIRST = 48, 25, 300
"""Of Tiny-ImageNet's classes; photographs of each, from the 300th on: no PhotoHub model is trained on those."""
CONCEPTS, TASKS, CANDIDATES, BUDGET = 4, 30, 20, 25
WHOLE = (0, 1)
"""ImageNet classifiers among the candidates; Lite2 writes the probes' captions."""
PROBES = 1_000


def root() -> Path:
    """Return the folder of what is computed here."""
    made = sources.assets() / "pick"
    made.mkdir(exist_ok=True)
    return made


def photocopied(picture: Image.Image, noise: np.random.Generator) -> Image.Image:
    """Return a bad photocopy: grey, a little blurred, in eight tones, with noise."""
    grey = ImageOps.autocontrast(ImageOps.grayscale(picture).filter(ImageFilter.GaussianBlur(0.6)))
    pixels = np.asarray(ImageOps.posterize(grey, 3), np.float32)
    noisy = np.clip(pixels + noise.normal(0, 8, pixels.shape), 0, 255)
    return Image.fromarray(noisy.astype(np.uint8)).convert("RGB")


@torch.inference_mode()
def images() -> None:
    """Write the photographs' classes, and the raw answers of every model, float32 ``[photographs, outputs]``."""
    pool = np.sort(np.random.default_rng(20261127).choice(200, CLASSES, replace=False))
    rows = photos.table("tiny_imagenet_train")
    labels, data = rows.column("label").to_numpy(), rows.column("image").combine_chunks().field("bytes")
    where = np.concatenate([np.flatnonzero(labels == one)[FIRST : FIRST + EACH] for one in pool])
    noise = np.random.default_rng(1)
    pictures = [photocopied(photos.picture(one.as_py()), noise) for one in data.take(pa.array(where))]
    small: dict[int, torch.Tensor] = {}
    maps: list[torch.Tensor] = []
    for number in lite.SIZES:
        network, pooled = lite.model(number), []
        for batch in _batches(pictures, lite.transform(lite.SMALL, 1.0)):
            with torch.autocast("cpu", torch.bfloat16, enabled=number != lite.EXACT):
                x = network.blocks[:-1](network.bn1(network.conv_stem(batch)))
                if number == lite.MAPS:
                    maps.append(x.float())
                x = network.bn2(network.conv_head(network.blocks[-1](x)))
                pooled.append(network.global_pool(x).float())
        small[number] = torch.cat(pooled)
    for number in WHOLE:
        with torch.autocast("cpu", torch.bfloat16):
            parts = [lite.model(number)(b).float() for b in _batches(pictures, lite.transform(*lite.SIZES[number]))]
        np.save(root() / f"whole-{number}.npy", torch.cat(parts).numpy())
    for spec in models.trained():
        if spec.kind == "scratch":
            raw = models.run(models.load_scratch(spec), spec, [np.asarray(picture) for picture in pictures])
        else:
            tensors = load_file(models.folder() / f"{spec.number:03d}.safetensors")
            if spec.kind == "head":
                raw = (small[spec.base] @ tensors["weight"].T + tensors["bias"]).numpy()
            else:
                tail = models.Tail(spec.base, len(spec.classes))
                tail.load_state_dict(tensors)
                raw = torch.cat([tail.eval()(part) for part in torch.cat(maps).split(300)]).numpy()
        np.save(root() / f"raw-{spec.number:03d}.npy", raw)
    np.savez(root() / "images.npz", truth=labels[where], pool=pool)


def _batches(pictures: Sequence[Image.Image], prepare: Callable[[Image.Image], torch.Tensor]) -> Iterator[torch.Tensor]:
    for start in range(0, len(pictures), 100):
        rows = [prepare(picture) for picture in pictures[start : start + 100]]
        yield torch.stack(rows).contiguous(memory_format=torch.channels_last)


@cache
def answered() -> dict[str, NDArray[np.float32]]:
    """Return the answers that `images` wrote, by repository."""
    found = {s.repo: root() / f"raw-{s.number:03d}.npy" for s in models.trained()}
    found |= {collection.full_repo(number): root() / f"whole-{number}.npy" for number in WHOLE}
    return {repo: np.load(path) for repo, path in found.items() if path.exists()}


def drawn(seed: int, pool: list[int]) -> list[list[int]]:
    """Return the classes of each task: of all 48 and of those that one model knows, in turn."""
    chance = np.random.default_rng(seed)
    known = [[one for one in s.classes if one in pool] for s in models.trained() if s.repo in answered()]
    known = [own for own in known if len(own) >= CONCEPTS]
    sets = []
    for i in range(TASKS):
        among = pool if i % 2 else known[int(chance.integers(len(known)))]
        sets.append(sorted(chance.choice(among, CONCEPTS, replace=False).tolist()))
    return sets


def picked(
    concepts: tuple[str, ...], candidates: list[Candidate], rows: NDArray[np.int64], truth: NDArray[np.int64], how: str
) -> tuple[NDArray[np.float64], int, int, float]:
    """Return every candidate's accuracy, the place of the one picked, how many labels were used, and how sure it is."""
    places = tuple(map(str, rows))
    task = Task(root(), Workspace(root() / "work"), concepts, places, np.full(rows.size, UNKNOWN), ())
    raw = answered()
    ran = [verb._Ran(c, raw[c.repo_id][rows][:, c.logits], np.ones(rows.size, bool)) for c in candidates]
    jury, order, used = verb._Jury(task, ran), np.random.default_rng(0).permutation(rows.size), 0
    while how != "none" and used < BUDGET:
        if how == "asked" and used >= verb.LEAST and jury.belief.best.max() >= verb.SURE:
            break
        image = worth_asking(jury.votes, jury.labels, jury.belief) if how == "asked" else int(order[used])
        if image == UNKNOWN:
            break
        task.labels[image] = truth[image]
        jury, used = verb._Jury(task, ran), used + 1
    accuracies = (jury.votes == truth).mean(axis=1)
    return accuracies, int(jury.belief.accuracy.argmax()), used, float(jury.belief.best.max())


def worth_asking(votes: NDArray[np.int64], labels: NDArray[np.int64], belief: Belief) -> int:
    """Return the image to ask for in the manner of CODA and Model Selector; `UNKNOWN` when no label would say anything.

    It is the one on which the models that may be the best disagree most, weighted by how probable that is of each,
    and of which little is known.
    """
    chance = belief.best + 1.0 / (10 * len(votes))  # the others may be misjudged
    chance /= chance.sum()
    shares = np.zeros_like(belief.images)
    for m in range(len(votes)):
        given = np.flatnonzero(votes[m] != UNKNOWN)
        np.add.at(shares, (given, votes[m, given]), chance[m])
    total = shares.sum(axis=1)
    disagreement = np.where(total > 0, 1 - (shares**2).sum(axis=1) / np.maximum(total, 1e-12) ** 2, 0.0)
    doubt = 1 - belief.images.max(axis=1)
    worth = np.where(labels == UNKNOWN, disagreement * (0.05 + doubt), 0.0)
    return int(worth.argmax()) if worth.max() > 1e-9 else UNKNOWN


def tasks(seed: int) -> dict[str, NDArray[np.float64]]:
    """Return by way of choosing what it loses in each task, in points, and ``labels``, how many were used."""
    every = collection.load(PROBES)
    own = [model for model in every.models if model.repo_id in answered()]
    if not (root() / "work").exists():
        build(root() / "work", every, own, labels=collection.shown(every))
    index = open_index(Workspace.open(root() / "work"))
    kept = np.load(root() / "images.npz")
    names, where = photos.classes()
    lost: dict[str, list[float]] = {}
    for number, classes in enumerate(drawn(seed, kept["pool"].tolist())):
        rows = np.flatnonzero(np.isin(kept["truth"], classes))
        rows = np.random.default_rng(number).permutation(rows)
        truth = np.array([classes.index(one) for one in kept["truth"][rows]])
        concepts = tuple(names[where[one]] for one in classes)
        candidates = shortlist(index, concepts, count=CANDIDATES)
        found: dict[str, Any] = {h: picked(concepts, candidates, rows, truth, h) for h in ("asked", "anywhere", "none")}
        best = max(float(accuracies.max()) for accuracies, *_ in found.values())
        plain = found["none"][0]
        general = [i for i, c in enumerate(candidates) if c.repo_id == collection.full_repo(0)]
        values = {how: best - accuracies[place] for how, (accuracies, place, *_) in found.items()}
        values |= {"none, of the best with the same outputs": plain.max() - plain[found["none"][1]]}
        for how, (accuracies, place, _, sure) in found.items():
            lost.setdefault(f"{how}: stated", []).append(sure)
            lost.setdefault(f"{how}: was best", []).append(float(accuracies[place] >= accuracies.max() - 1e-9))
        values |= {"first hit": best - plain[0], "any candidate": best - plain.mean()}
        values |= {"ImageNet classifier": best - plain[general[0]] if general else np.nan}
        for name, value in values.items():
            lost.setdefault(name, []).append(100 * float(value))
        lost.setdefault("labels", []).append(found["asked"][2])
        lost.setdefault("best", []).append(100 * best)
    return {name: np.array(values) for name, values in lost.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("images", "tasks"))
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "images":
        images()
        return
    lost = tasks(given.seed)
    labels, best = lost.pop("labels"), lost.pop("best")
    sure = {name: lost.pop(name).mean() for name in [*lost] if ":" in name}
    sys.stdout.write("| way | points lost | within 1 point | at worst |\n|---|---|---|---|\n")
    for name, values in lost.items():
        sys.stdout.write(
            f"| {name} | {np.nanmean(values):.1f} | {(values <= 1.01).mean():.2f} | {np.nanmax(values):.0f} |\n"
        )
    sys.stdout.write(f"\n{labels.mean():.1f} labels on average; the best model is right for {best.mean():.1f} %\n")
    sys.stdout.write(f"sure of the best, and how often it was: {', '.join(f'{n} {v:.2f}' for n, v in sure.items())}\n")


if __name__ == "__main__":
    main()
