"""How good models are on images of which few, or none, have a label.

A model's answer to an image is the concept whose outputs it answers most strongly. Answers are compared with the labels
that are known and, where none is, with what the models say together: the mean of the logarithms of their
probabilities, each less its own mean over the images, for a model that favours a concept says little by naming it.
Measured against others: benchmarks/pick/RESULTS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

UNKNOWN = -1
"""In place of a concept: an answer or a label that is not there."""

LABEL_WEIGHT = 2.0
"""What an image with a label counts beside one without, where models are compared."""

SHARPNESS = 3.0
"""How many times the mean of the models' log-probabilities counts: together they are surer than each alone."""

FLOOR = 1e-3
"""Added to a model's probabilities, so that no model alone can rule a concept out."""

PRIOR = (2.0, 1.0)
"""Right and wrong answers that every model is believed to have given before any image was looked at."""

_DRAWS = 400


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


@dataclass(frozen=True, eq=False)
class Belief:
    """What is believed of models and images; an image with a label counts `LABEL_WEIGHT` times."""

    images: NDArray[np.float64]  # [images, concepts], how probable each concept is for each image; rows sum to 1
    right: NDArray[np.float64]  # [models], images each model is believed to have got right, with `PRIOR`
    wrong: NDArray[np.float64]  # [models], the same of wrong ones
    votes: NDArray[np.int64]  # [models, images], the models' answers
    counts: NDArray[np.float64]  # [images], what each image counts

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of the images that each model is believed to get right, float64 [models]."""
        return self.right / (self.right + self.wrong)

    @cached_property
    def best(self) -> NDArray[np.float64]:
        """How probable it is of each model to be the best, float64 [models].

        By seeded draws of what each image shows and of images with replacement (the Bayesian bootstrap), the same for
        all models: those that answer alike are compared by where they do not. As far as ``images`` is right: what all
        models get wrong together no draw knows.
        """
        chance = np.random.default_rng(0)
        edges = self.images.cumsum(axis=1)
        wins = np.zeros(len(self.votes))
        for _ in range(_DRAWS):
            shown = (edges < chance.random((len(edges), 1))).sum(axis=1).clip(max=edges.shape[1] - 1)
            weights = self.counts * chance.exponential(size=len(edges))
            wins[((self.votes == shown) @ weights).argmax()] += 1
        return wins / _DRAWS


def believe(
    scores: NDArray[np.float32],
    votes: NDArray[np.int64],
    labels: NDArray[np.int64],
    weights: NDArray[np.float64] | None = None,
) -> Belief:
    """Compare models with the labels that are known and with one another.

    Without labels the concepts are taken to be about equally frequent among the images: a model's mean over the images
    says how much it favours each.

    Args:
        scores: float32 [models, images, concepts], `concept_scores` of each model.
        votes: int64 [models, images], each model's answers; `UNKNOWN` where it was not asked.
        labels: int64 [images], what is known; `UNKNOWN` where nothing is.
        weights: float64 [models], what a model's voice counts; near-copies share one. All 1 when None.
    """
    models, images, concepts = scores.shape
    voice = np.ones(models) if weights is None else weights
    given = votes != UNKNOWN
    together = np.zeros((images, concepts))
    for m in range(models):
        own = np.nan_to_num(scores[m, given[m]].astype(np.float64), neginf=-1e9, posinf=1e9)
        if not len(own):
            continue
        shares = np.exp(own - own.max(axis=1, keepdims=True))
        logs = np.log(shares / shares.sum(axis=1, keepdims=True) + FLOOR)
        together[given[m]] += voice[m] * (logs - logs.mean(axis=0))
    heard = np.maximum(voice @ given, 1e-9)[:, None]
    evidence = SHARPNESS * together / heard
    belief = np.exp(evidence - evidence.max(axis=1, keepdims=True))
    belief /= belief.sum(axis=1, keepdims=True)
    known = labels != UNKNOWN
    belief[known] = np.eye(concepts)[labels[known]]
    counts = np.where(known, LABEL_WEIGHT, 1.0)
    agreed = belief[np.arange(images)[None, :], np.where(given, votes, 0)] * given
    return Belief(belief, PRIOR[0] + agreed @ counts, PRIOR[1] + (given - agreed) @ counts, votes, counts)


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
