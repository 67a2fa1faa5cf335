"""What the index knows of its encoder's view: the bank's mean answer on every probe, every logit's hubness, certainty.

Certainty is how probable it is that a hit of a text is right, and hence that one of the ten nearest is: a query has
no probability of its own beside its hits', so that the two agree under every filter. A logistic regression over a
hit's signs, and one over a query's hits, made to come true by Venn-Abers prediction, are learned from the gallery's own
believed labels (`search.text.labels_fit`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from search.text import bank
from search.text.contrast import Material, blocks, hubness, offered, strengths, zero_shot
from workspace.files import read_kept, write_tensors

COVERED = 0.5
"""Probability under which a query is declined, at least; see `Certainty.covers`."""

RISK = 0.2
"""Share of the answers that may be wrong where no label of the gallery names the concept; see `Certainty.learn`."""

FIRST = 10
"""Hits among which one must be right for a query to count as answered."""

NAMED, HIDDEN = (-4.0, 4.0, -3.5, 0.3, -4.0), (-8.0, 3.5, 0.0, 0.3, -1.0)
"""Bias and weights of a hit's signs where a gallery has too few labels to learn from: where one of its labels names the
text, and where none does. See `_inputs`; about what the demo hub teaches: PhotoHub is less cautious."""

_TOGETHER = (0.0, 0.5, 0.5)  # the same of a query's hits, see `_together`

_PLACES = 50  # of a query's probability, where `venn_abers` is asked

_PRIOR = 1.0  # ridge towards `NAMED` and `HIDDEN`, so that a small or one-sided gallery cannot turn a sign around


@dataclass(frozen=True)
class Coverage:
    """What can be said of an answer before anybody looks at it.

    Attributes:
        probability: that one of the ten nearest logits recognises what was asked, 0 to 1.
        covered: whether that is at least what `Certainty.covers` asks.
        contrast: best probe's contrast, in standard deviations of the bank's.
        trust: in the nearest label being the same thing, 0 to 1.
        standing: nearest logit's score, in standard deviations above all logits'.
        shown: whether a probe shows it, as the probe set's manifest has it; None for what is not in the concept bank,
            and of probes that were not chosen by what they show.
    """

    probability: float
    covered: bool
    contrast: float
    trust: float
    standing: float
    shown: bool | None = None

    def __str__(self) -> str:
        """Say it in a sentence."""
        if self.covered:
            return (
                f"probably answered: one of the ten nearest is right with probability {min(self.probability, 0.99):.2f}"
            )
        why = "the probes show nothing like it" if self.contrast < 0 or self.shown is False else "no logit stands out"
        label = "" if self.trust >= COVERED else ", and no label can be trusted to name it"
        return f"probably not covered ({why}{label}): probability {self.probability:.2f}"


Steps = tuple[tuple[float, ...], tuple[float, ...]]
"""What was stated, ascending, and the share that was right where it was stated."""

_AS_STATED: Steps = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True)
class Learned:
    """How probable it is that a hit is right, where it is known whether a label of the gallery names the text."""

    weights: tuple[float, ...]  # bias and weights of a hit's signs, of a logistic regression
    together: tuple[float, ...] = _TOGETHER  # the same of a query's hits
    queries: Steps = _AS_STATED  # what that states of queries, and what came

    def of_hits(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that each hit is right ``[...]`` from `hit_signs` ``[..., 5]``."""
        return _logistic(_inputs(signs) @ np.array(self.weights))

    def of(self, hits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that one of a query's hits is right, from theirs ``[..., FIRST]``."""
        stated = _logistic(_together(hits) @ np.array(self.together))
        return np.asarray(np.interp(stated, *self.queries), np.float64)

    @classmethod
    def learn(
        cls,
        signs: NDArray[np.float64],
        right: NDArray[np.bool_],
        there: NDArray[np.bool_],
        prior: tuple[float, ...],
    ) -> Learned:
        """Return what cases teach, ``prior`` without any; as `Certainty.learn`."""
        if not there.any():
            return cls(prior)
        found = cls(logistic_fit(_inputs(signs[there]), right[there], prior))
        hits = _together(np.where(there, found.of_hits(signs), 0.0))
        answered = np.asarray((right & there).any(axis=1))
        together = logistic_fit(hits, answered, _TOGETHER)
        return cls(found.weights, together, venn_abers(_logistic(hits @ np.array(together)), answered))


@dataclass(frozen=True)
class Certainty:
    """How probable it is that a hit is right, and that one of a query's first ten is."""

    # where a label of the gallery names the text, ``hidden`` where none does. The trust in the nearest label being the
    # same thing says how probable either is.
    named: Learned = Learned(NAMED)
    hidden: Learned = Learned(HIDDEN)
    answer: float = COVERED  # probability from which a query counts as answered that no label names

    def of_hits(self, signs: NDArray[np.float64], trust: Any) -> NDArray[np.float64]:
        """Return the probability that each hit is right, float64 ``[..., hits]``.

        Args:
            signs: of `hit_signs`, ``[..., hits, 5]``.
            trust: in the label nearest to each text, ``[...]``.
        """
        share = np.asarray(trust, np.float64)[..., None]
        return np.asarray(share * self.named.of_hits(signs) + (1.0 - share) * self.hidden.of_hits(signs), np.float64)

    def of(self, signs: NDArray[np.float64], trust: Any, there: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Return the probability that one of a query's first ten hits is right, float64 ``[...]``.

        Never below that of any of them, and 0 of no hits. ``signs`` and ``trust`` as for `of_hits`, ``there`` says
        which hits are, ``[..., FIRST]``.
        """
        most = np.where(there, self.of_hits(signs, trust), 0.0).max(axis=-1, initial=0.0)
        named, hidden = (one.of(np.where(there, one.of_hits(signs), 0.0)) for one in (self.named, self.hidden))
        share = np.asarray(trust, np.float64)
        found = np.maximum(share * named + (1.0 - share) * hidden, most)
        return np.asarray(np.where(there.any(axis=-1), found, 0.0), np.float64)

    def covers(self, stated: Any, trust: Any) -> NDArray[np.bool_]:
        """Return whether a probability ``[...]`` suffices: `COVERED` where a label names the text, else `answer`."""
        return np.asarray(stated >= trust * COVERED + (1.0 - trust) * self.answer)

    @classmethod
    def learn(
        cls,
        signs: NDArray[np.float64],
        right: NDArray[np.bool_],
        there: NDArray[np.bool_],
        trust: NDArray[np.float64],
        setting: NDArray[np.int64],
    ) -> Certainty:
        """Return what a gallery's labels teach, each asked for in several settings.

        A query that no label names counts as answered from `COVERED` on, or from the least probability above it at
        which, of the cases of each setting where the concept is hidden everywhere that reach it, at most `RISK` are
        wrong, one more being counted: conformal risk control (Angelopoulos et al., 2022).

        Args:
            signs: of every query's first ten hits, float64 ``[queries, FIRST, 5]``.
            right: whether each was right, ``[queries, FIRST]``.
            there: whether there is such a hit.
            trust: in the label nearest to each query.
            setting: which setting each query is of; -1 where the concept's name is not hidden everywhere.
        """
        named, hidden = (
            Learned.learn(signs[part], right[part], there[part], prior)
            for part, prior in ((setting < 0, NAMED), (setting >= 0, HIDDEN))
        )
        stated = cls(named, hidden).of(signs, trust, there)
        answered: NDArray[np.bool_] = np.asarray((right & there).any(axis=1))
        least = [_least(stated[setting == s], answered[setting == s]) for s in np.unique(setting[setting >= 0])]
        return cls(named, hidden, max([COVERED, *least]))


def _least(stated: NDArray[np.float64], answered: NDArray[np.bool_]) -> float:
    """Return the least probability from which at most `RISK` of the cases were wrong, one more being counted.

    Where there is none, the highest that was stated: such a gallery can promise nothing of what no label names.
    """
    order = np.argsort(-stated, kind="stable")
    ranked = stated[order]
    wrong = (np.cumsum(~answered[order]) + 1) / np.arange(2, ranked.size + 2)
    ends = np.append(ranked[1:] < ranked[:-1], True)  # cases that are stated alike are taken or left together
    allowed = np.flatnonzero((wrong <= RISK) & ends)
    return float(ranked[allowed[-1] if allowed.size else 0])


def hit_signs(
    scores: NDArray[np.float64], about: tuple[Any, Any, Any], contrast: Any, models: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the signs of hits, float64 ``[..., hits, 5]``: a constant, and four that say how surely it is right.

    How far it stands above all logits, how far behind the best of them, the contrast of the text's best probe, and
    whether its model has a better hit: the outputs of a classifier exclude each other.

    Args:
        scores: float64 ``[..., hits]``, descending.
        about: mean and standard deviation of the scores of all logits, and the best of them, whatever a filter leaves:
            the best of a few may be nothing, and is if what it left out was far better. Each ``[...]``.
        contrast: see `Calibration.contrast`, ``[...]``.
        models: the model of each hit, ``[..., hits]``.
    """
    order = np.argsort(models, axis=-1, kind="stable")
    ranked, again = np.take_along_axis(models, order, axis=-1), np.zeros(scores.shape)
    np.put_along_axis(again, order[..., 1:], ranked[..., 1:] == ranked[..., :-1], axis=-1)
    mean, deviation, best = (np.asarray(one, np.float64)[..., None] for one in about)
    seen = np.broadcast_to(np.asarray(contrast, np.float64)[..., None], scores.shape)
    constant, standing, behind = np.ones(scores.shape), (scores - mean) / deviation, (best - scores) / deviation
    return np.stack([constant, standing, behind, seen, again], axis=-1)


def _inputs(signs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return `hit_signs` with the two distances as logarithms: twice as far says as much more wherever one is."""
    constant, standing, behind, *others = np.moveaxis(signs, -1, 0)
    return np.stack([constant, np.log(np.maximum(standing, 1.0)), np.log1p(np.maximum(behind, 0.0)), *others], axis=-1)


def _together(hits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a constant and log odds ``[..., 3]``: of the best hit, and of one being right if they were independent.

    They are not: a text is understood or is not, so that a few good hits may all be wrong.
    """
    shares = [hits.max(axis=-1, initial=0.0), 1.0 - np.prod(1.0 - hits, axis=-1)]
    best, one = (np.log(p / (1.0 - p)) for p in np.clip(shares, 1e-5, 1.0 - 1e-5))
    return np.stack([np.ones(best.shape), best, one], axis=-1)


def venn_abers(stated: NDArray[np.float64], right: NDArray[np.bool_]) -> Steps:
    """Return what came where something was stated, as points to interpolate between.

    Venn-Abers prediction (Vovk and Petej, 2014), a conformal one: the case that is asked about is added once as right
    and once as wrong, and of the two answers of `isotonic` the odds are taken, so that few cases show no certainty.
    """
    points = np.quantile(stated, np.linspace(0.0, 1.0, _PLACES))
    wrong, well = (
        np.array([np.interp(x, *isotonic(np.append(stated, x), np.append(right, came))) for x in points])
        for came in (False, True)
    )
    return tuple(points.tolist()), tuple(np.maximum.accumulate(well / (1.0 - wrong + well)).tolist())


def isotonic(stated: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    """Return the ascending function nearest to what was right: pool adjacent violators (Ayer et al., 1955).

    >>> isotonic(np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, True, False, True]))
    ([0.1, 0.2, 0.3, 0.4], [0.0, 0.5, 0.5, 1.0])
    """
    points, which = np.unique(stated, return_inverse=True)
    blocks: list[tuple[float, float, int]] = []  # sum, count, points
    for one in zip(np.bincount(which, weights=right), np.bincount(which), [1] * points.size, strict=True):
        total, count, wide = one
        while blocks and blocks[-1][0] * count >= total * blocks[-1][1]:
            before = blocks.pop()
            total, count, wide = total + before[0], count + before[1], wide + before[2]
        blocks.append((total, count, wide))
    shares = [float(total / count) for total, count, wide in blocks for _ in range(wide)]
    return points.tolist(), shares


def logistic_fit(inputs: NDArray[np.float64], right: NDArray[np.bool_], prior: tuple[float, ...]) -> tuple[float, ...]:
    """Return the weights of a logistic regression by Newton's method, drawn towards ``prior``.

    A step that makes it worse, as from a prior far from the truth, is halved.
    """
    before, sign = np.array(prior), np.where(right, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> float:
        return float(np.logaddexp(0.0, -sign * (inputs @ weights)).sum() + _PRIOR / 2 * ((weights - before) ** 2).sum())

    weights, least = before, loss(before)
    for _ in range(30):
        p = _logistic(inputs @ weights)
        hessian = (inputs * (p * (1.0 - p))[:, None]).T @ inputs + _PRIOR * np.eye(len(before))
        step = np.linalg.solve(hessian, inputs.T @ (right - p) - _PRIOR * (weights - before))
        while (found := loss(weights + step)) > least and float(np.abs(step).max()) >= 1e-8:
            step /= 2
        if float(np.abs(step).max()) < 1e-8:
            break
        weights, least = weights + step, found
    return tuple(float(w) for w in weights)


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -50.0, 50.0))))


def shown(text: str, cover: dict[str, Any] | None) -> bool | None:
    """Return whether a probe shows what ``text`` names, as the index's manifest has it; None where nobody looked."""
    same = bank.named(text) if cover else []
    return not set(same) <= set(cover["not_shown"]) if cover and same else None


T = TypeVar("T")

FILE = "calibration.safetensors"
BANK = 1_024
"""Everyday concepts of the bank that a text is contrasted with: a third of them, for each costs the encoder's time."""

_SAMPLE = 4_096  # logits that stand for all


@dataclass(frozen=True, eq=False)
class Calibration:
    """Columns that the scorings `contrastive` and `bridged` need."""

    centre: NDArray[np.float32]  # float32 ``[n]``, cosine of each probe with the bank's texts, averaged over the bank
    texts: NDArray[np.float32]  # float32 ``[dim]``, the bank's mean text embedding
    hubness: NDArray[np.float32]  # float32 ``[logits]``, see `search.text.contrast.hubness`
    # float32 ``[2]``, mean and standard deviation over the bank of a text's best contrast with any probe
    peaks: NDArray[np.float32]
    # float32 ``[concepts]``, see `search.text.contrast.offered`; empty in an index built before it had any
    offered: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def contrast(self, similarity: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return texts' best contrast ``[texts]``, in the bank's standard deviations, from ``[texts, n]`` cosines."""
        best = (similarity - self.centre).max(axis=1).astype(np.float64)
        return np.asarray((best - float(self.peaks[0])) / max(float(self.peaks[1]), 1e-9))

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        write_tensors(folder / FILE, vars(self))

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        return read_kept(folder / FILE, cls)


def calibrate(material: Material, *, previous: Calibration | None = None, progress: bool = True) -> Calibration:
    """Return the calibration of a version; only new logits are measured when ``previous``, of one before, goes on."""
    from tqdm import tqdm

    texts, count = material.embed(spread(bank.names(), BANK)), material.model_of.size
    similarity = texts @ material.probes.T
    centre = (material.probes @ texts.mean(axis=0)).astype(np.float32)
    asked = zero_shot(similarity, centre)
    if previous is not None and previous.offered.size and np.array_equal(previous.centre, centre):
        done, found = previous.hubness[:count], previous.offered
    else:
        some = np.array(spread(list(range(count)), _SAMPLE), np.int64)
        done, found = np.empty(0, np.float32), offered(strengths(material.vectors(some)), asked)
    parts = [done]
    with tqdm(total=count - done.size, desc="hubness", unit="logit", disable=not progress, leave=False) as bar:
        for _, strong in blocks(material.vectors, np.arange(done.size, count)):
            parts.append(hubness(strong, asked, found))
            bar.update(len(strong))
    best = (similarity - centre).max(axis=1)
    peaks = np.array([best.mean(), best.std()], np.float32)
    return Calibration(centre, texts.mean(axis=0), np.concatenate(parts), peaks, found)


def spread(all_of: list[T], count: int) -> list[T]:
    """Return ``count`` of the elements, evenly spread over their order."""
    return [all_of[i] for i in np.linspace(0, len(all_of) - 1, min(count, len(all_of))).astype(int).tolist()]
