"""How good models are on images of which few, or none, have a label.

A model's answer to an image is the concept whose outputs it answers most strongly. Answers are compared with the labels
that are known and, where none is, with what the models say together: the one-coin model of Dawid and Skene
(Applied Statistics, 1979), in which model m is right with probability p(m) and otherwise takes any other concept.
Labels are asked for where the models that may still be the best disagree, as in active model selection
(CODA, ICCV 2025; Model Selector, AISTATS 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""In place of a concept: an answer or a label that is not there."""

LABEL_WEIGHT = 20.0
"""What a known label counts where it is decided whom to believe, beside an image without one. Not in the accuracies:
labels are asked for where models disagree, so that the share of them that a model gets right is no share of all images.
Of 1, 4, 12 and 40, simulated with models that make the same mistakes, 12 and 40 lost least, and 1 believed a clique."""

PRIOR = (2.0, 1.0)
"""Right and wrong answers that every model is believed to have given before any image was looked at."""

_ROUNDS = 50
_DRAWS = 4_000


def concept_scores(raw: NDArray[np.float32], outputs: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    """Return what a model gives each concept: the log of the summed exponentials of the concept's outputs.

    For a softmax that is the log of the concept's probability, but for a term that all concepts share.

    Args:
        raw: float32 [images, logits], outputs before any softmax; NaN where one was not finite.
        outputs: the outputs of each concept, one or more.

    Returns float32 [images, concepts].
    """
    found = np.empty((len(raw), len(outputs)), np.float32)
    for i, own in enumerate(outputs):
        part = np.nan_to_num(raw[:, own].astype(np.float64), nan=-np.inf, posinf=np.inf)
        top = part.max(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, i] = np.where(np.isfinite(top), top + np.log(np.exp(part - top[:, None]).sum(axis=1)), top)
    return found


def answers(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the concept of the highest score for each image, int64 [images]; `UNKNOWN` where none is finite."""
    best = scores.argmax(axis=1)
    return np.where(np.isfinite(scores.max(axis=1)), best, UNKNOWN)


@dataclass(frozen=True)
class Belief:
    """What is believed of models and images.

    Attributes:
        images: float64 [images, concepts], how probable each concept is for each image; rows sum to 1.
        right, wrong: float64 [models], images each model is believed to have got right and wrong, with `PRIOR`.
    """

    images: NDArray[np.float64]
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of the images that each model is believed to get right, float64 [models]."""
        return self.right / (self.right + self.wrong)

    def best(self) -> NDArray[np.float64]:
        """Return how probable it is of each model to be the best, float64 [models], by seeded draws of accuracies."""
        draws = np.random.default_rng(0).beta(self.right, self.wrong, (_DRAWS, len(self.right)))
        return np.bincount(draws.argmax(axis=1), minlength=len(self.right)) / _DRAWS


def believe(
    votes: NDArray[np.int64], labels: NDArray[np.int64], concepts: int, weights: NDArray[np.float64] | None = None
) -> Belief:
    """Fit the one-coin model by expectation and maximisation.

    Args:
        votes: int64 [models, images], each model's answers; `UNKNOWN` where it was not asked.
        labels: int64 [images], what is known; `UNKNOWN` where nothing is.
        concepts: how many there are.
        weights: float64 [models], what a model's voice counts; near-copies share one. All 1 when None.
    """
    models, images = votes.shape
    voice = np.ones(models) if weights is None else weights
    given = votes != UNKNOWN
    picked = np.where(given, votes, 0)
    known = labels != UNKNOWN
    belief = np.zeros((images, concepts))
    for m in range(models):
        np.add.at(belief, (np.flatnonzero(given[m]), picked[m, given[m]]), voice[m])
    belief += 1e-3
    belief /= belief.sum(axis=1, keepdims=True)
    belief[known] = np.eye(concepts)[labels[known]]
    counts = np.where(known, LABEL_WEIGHT, 1.0)

    def judged(weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        agreed = belief[np.arange(images)[None, :], picked] * given
        return PRIOR[0] + agreed @ weights, PRIOR[1] + (given - agreed) @ weights

    for _ in range(_ROUNDS):
        right, wrong = judged(counts)
        accuracy = right / (right + wrong)
        # log-odds of an answer that is right over one that is wrong, spread over the other concepts
        gain = voice * np.log(np.maximum(concepts - 1, 1) * accuracy / (1 - accuracy))
        evidence = np.zeros((images, concepts))
        for m in range(models):
            np.add.at(evidence, (np.flatnonzero(given[m]), picked[m, given[m]]), gain[m])
        evidence -= evidence.max(axis=1, keepdims=True)
        fresh = np.exp(evidence)
        fresh /= fresh.sum(axis=1, keepdims=True)
        fresh[known] = np.eye(concepts)[labels[known]]
        moved = np.abs(fresh - belief).max()
        belief = fresh
        if moved < 1e-6:
            break
    return Belief(belief, *judged(np.ones(images)))


def worth_asking(votes: NDArray[np.int64], labels: NDArray[np.int64], belief: Belief) -> int:
    """Return the image whose label says most about which model is best; `UNKNOWN` when no label would say anything.

    It is the one on which the models that may be the best disagree most, weighted by how probable that is of each,
    and of which little is known.
    """
    chance = belief.best() + 1.0 / (10 * len(votes))  # the others may be misjudged
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


def interval(right: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's interval of a share, 95 % by default; (0, 1) when nothing was counted.

    >>> [round(x, 3) for x in interval(90, 100)]
    [0.826, 0.945]
    """
    if count <= 0:
        return 0.0, 1.0
    share = right / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * float(np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)))
    return max(0.0, centre - half), min(1.0, centre + half)
