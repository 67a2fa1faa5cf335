"""How much worse than the best is the model that `hubprobe pick` picks? Simulated models, with 0 and 25 labels.

::

    python -m benchmarks.pick --tasks 40     # 960 tasks, some minutes

20 models answer 100 images of 6 concepts. ``alike`` is the share of wrong answers that are the same for all models,
``hard`` how much harder some images are for all of them.
"""

from __future__ import annotations

import argparse
import sys
from itertools import product

import numpy as np
from numpy.typing import NDArray

from hubprobe.pick.scores import UNKNOWN, believe, worth_asking

MODELS, IMAGES, CONCEPTS, BUDGET = 20, 100, 6, 25


def simulated(
    low: float, high: float, alike: float, hard: float, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return true concepts, int64 [images], and answers, int64 [models, images]."""
    truth, hardness = rng.integers(0, CONCEPTS, IMAGES), rng.beta(0.5, 0.5, IMAGES)
    accuracies = np.linspace(low, high, MODELS)[:, None]
    shape = (MODELS, IMAGES)
    common = (truth + rng.integers(1, CONCEPTS, IMAGES)) % CONCEPTS
    other = (truth + rng.integers(1, CONCEPTS, shape)) % CONCEPTS
    wrong = np.where(rng.random(shape) < alike, common, other)
    chance = np.clip(accuracies + 0.8 * hard * (0.5 - hardness), 0.02, 0.99)
    return truth, np.where(rng.random(shape) < chance, truth, wrong)


def lost(way: str, truth: NDArray[np.int64], votes: NDArray[np.int64], rng: np.random.Generator) -> float:
    """Return the accuracy of the best model less that of the one picked: labels ``asked``, ``anywhere`` or ``none``."""
    labels = np.full(IMAGES, UNKNOWN)
    order = rng.permutation(IMAGES)
    for i in range(0 if way == "none" else BUDGET):
        place = worth_asking(votes, labels, believe(votes, labels, CONCEPTS)) if way == "asked" else order[i]
        if place == UNKNOWN:
            break
        labels[place] = truth[place]
    right = (votes == truth).mean(axis=1)
    return float(right.max() - right[believe(votes, labels, CONCEPTS).accuracy.argmax()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=int, default=100, help="of each of the eight settings and three ways")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.stdout.write(
        "| accuracies | alike | hard | " + " | ".join(("asked", "anywhere", "none")) + " |\n|---|---|---|---|---|---|\n"
    )
    for (low, high), alike, hard in product(((0.6, 0.87), (0.3, 0.6)), (0.0, 0.6), (0.0, 1.0)):
        cells = []
        for way in ("asked", "anywhere", "none"):
            rng = np.random.default_rng(given.seed)
            gaps = np.array([lost(way, *simulated(low, high, alike, hard, rng), rng) for _ in range(given.tasks)])
            cells.append(f"{100 * gaps.mean():.1f} ({(gaps <= 0.01).mean():.2f})")
        sys.stdout.write(f"| {low} to {high} | {alike} | {hard} | " + " | ".join(cells) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
