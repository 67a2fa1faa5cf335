"""What the index knows of its encoder's view: the bank's mean answer on every probe, every logit's hubness, coverage.

Coverage is whether a text can be answered at all: the probability that one of its ten nearest logits is right. Three
signs, each better than chance on real models (docs/results.md): how much better than the bank's concepts the text fits
its best probe, how far a label of the gallery is the same word, and how far the nearest logit stands out. A logistic
regression over them is fitted on the gallery's own honest labels, each asked with its model's labels hidden.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from search.text import bank
from search.text.contrast import Embed, Vectors, hubness, offered, strengths, zero_shot
from workspace.files import read_kept, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERED = 0.5
"""Probability under which a query is declined, where a gallery has too few labels to learn from."""

RISK = 0.2
"""Share of the answers that may be wrong where no label of the gallery names the concept; see `Certainty.learn`."""

HITS = (0.0, 1.0, -1.0, 0.3)
"""Bias and weights of a hit's signs where nothing was learned: its query's log-odds, its lag behind the first, its
standing."""

DEFAULT = (-1.2, 0.7, 4.0, 0.5)
"""Bias and weights of the signs where a gallery has too few labels to learn from; see `benchmarks/accuracy`."""

GROUP = 20
"""Cases of one step of `isotonic`, at least."""

_PRIOR = 1.0  # ridge towards `DEFAULT`, so that a small or one-sided gallery cannot turn a sign around
_SHIFT, _SCALE = np.array([0.0, 0.0, 5.0]), np.array([1.0, 1.0, 2.0])


@dataclass(frozen=True)
class Coverage:
    """What can be said of an answer before anybody looks at it.

    Attributes:
        probability: that one of the ten nearest logits recognises what was asked, 0 to 1.
        covered: whether that is at least what `Certainty.answer` asks.
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
            return f"probably answered: one of the ten nearest is right with probability {self.probability:.2f}"
        why = "the probes show nothing like it" if self.contrast < 0 or self.shown is False else "no logit stands out"
        label = "" if self.trust >= COVERED else ", and no label can be trusted to name it"
        return f"probably not covered ({why}{label}): probability {self.probability:.2f}"


@dataclass(frozen=True)
class Certainty:
    """How probable an answer is, and each hit, learned from a gallery's own labels.

    Attributes:
        weights: bias and weights of a query's signs, of a logistic regression.
        stated: what that states, ascending, and ``right``: the share that was right where it stated so (isotonic).
        answer: probability from which a query counts as answered.
        hits: bias and weights of a hit's signs; ``hits_stated`` and ``hits_right`` as above.
    """

    weights: tuple[float, ...] = DEFAULT
    stated: tuple[float, ...] = (0.0, 1.0)
    right: tuple[float, ...] = (0.0, 1.0)
    answer: float = COVERED
    hits: tuple[float, ...] = HITS
    hits_stated: tuple[float, ...] = (0.0, 1.0)
    hits_right: tuple[float, ...] = (0.0, 1.0)

    @classmethod
    def of_json(cls, known: dict[str, Any]) -> Certainty:
        """Return what `dataclasses.asdict` and JSON made of it."""
        lists = {name: tuple(float(v) for v in values) for name, values in known.items() if name != "answer"}
        return cls(**lists, answer=float(known.get("answer", COVERED)))

    def of(self, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the probability that one of the ten nearest logits is right, from signs ``[queries, 3]``."""
        found: NDArray[np.float64] = np.interp(probability(signs, self.weights), self.stated, self.right)
        return found

    def of_hits(
        self, query: float | NDArray[np.float64], lag: NDArray[np.float64], above: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the probability that each hit is right, never above that of its query.

        Args:
            query: of `of`.
            lag: how far each hit's score is behind the first one's, in standard deviations of all scores.
            above: how far it stands above their mean.
        """
        signs = _hit_signs(query, lag, above)
        found = np.interp(_logistic(signs @ np.array(self.hits)), self.hits_stated, self.hits_right)
        return np.asarray(np.minimum(found, query), np.float64)

    @classmethod
    def learn(
        cls,
        signs: NDArray[np.float64],
        answered: NDArray[np.bool_],
        hidden: NDArray[np.bool_],
        hits: tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]],
    ) -> Certainty:
        """Return what a gallery's labels teach, each asked for in several ways.

        A query counts as answered from the least probability at which, of the cases ``hidden`` everywhere that reach
        it, at most `RISK` are wrong, one more being counted: conformal risk control (Angelopoulos et al., 2022).

        Args:
            signs: float64 ``[queries, 3]``.
            answered: whether one of the ten nearest was right.
            hidden: whether the concept's name was hidden in all models.
            hits: lag and standing of every query's first ten, ``[queries, 10]``, whether each was right, and whether
                that is known.
        """
        weights = fit(signs, answered)
        raw = probability(signs, weights)
        stated, right = isotonic(raw, answered)
        found = cls(weights, stated, right)
        share = found.of(signs)
        answer = COVERED
        if hidden.any():
            order = np.argsort(-share[hidden], kind="stable")
            wrong = np.cumsum(~answered[hidden][order]) + 1
            allowed = np.flatnonzero(wrong / np.arange(2, wrong.size + 2) <= RISK)
            answer = float(share[hidden][order][allowed[-1] if allowed.size else 0])
        lag, above, correct, known = hits
        query = np.broadcast_to(share[:, None], lag.shape)
        inputs = _hit_signs(query[known], lag[known], above[known])
        learned = logistic_fit(inputs, correct[known], HITS)
        hits_stated, hits_right = isotonic(_logistic(inputs @ np.array(learned)), correct[known])
        return cls(weights, stated, right, answer, learned, hits_stated, hits_right)


def _hit_signs(query: Any, lag: NDArray[np.float64], above: NDArray[np.float64]) -> NDArray[np.float64]:
    share = np.clip(np.broadcast_to(np.asarray(query, np.float64), lag.shape), 1e-3, 1 - 1e-3)
    odds = np.log(share / (1.0 - share))
    return np.stack([np.ones(lag.shape), odds, lag, (above - 5.0) / 2.0], axis=-1)


def isotonic(stated: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the ascending step function nearest to what was right, as points to interpolate between.

    Pool adjacent violators (Ayer et al., 1955), over groups of `GROUP` cases, each end drawn half a case inwards: no
    finite number of cases shows that something is certain.

    >>> isotonic(np.linspace(0, 1, 40), np.arange(40) >= 20)[1]
    (0.0125, 0.0125, 0.9875, 0.9875)
    """
    order = np.argsort(stated, kind="stable")
    x, y = stated[order].astype(np.float64), right[order].astype(np.float64)
    blocks: list[list[float]] = []  # sum, count, first, last
    for start in range(0, x.size, GROUP):
        part = slice(start, start + GROUP)
        blocks.append([float(y[part].sum()), float(y[part].size), float(x[part][0]), float(x[part][-1])])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            total, count, _, last = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count, blocks[-1][2], last]
    points: list[float] = []
    shares: list[float] = []
    most = 1.0 - 0.5 / max(x.size, 1)
    for total, count, first, last in blocks:
        points += [first, last]
        shares += [min(max(total / count, 1.0 - most), most)] * 2
    return tuple(points), tuple(shares)


def probability(signs: NDArray[np.float64], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the probability of an answer, float64 ``[queries]``, from signs ``[queries, 3]``."""
    logit = weights[0] + ((signs - _SHIFT) / _SCALE) @ np.array(weights[1:])
    return _logistic(logit)


def fit(signs: NDArray[np.float64], answered: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return bias and weights of `probability`, drawn towards `DEFAULT`."""
    return logistic_fit(np.column_stack([np.ones(len(signs)), (signs - _SHIFT) / _SCALE]), answered, DEFAULT)


def logistic_fit(inputs: NDArray[np.float64], right: NDArray[np.bool_], prior: tuple[float, ...]) -> tuple[float, ...]:
    """Return the weights of a logistic regression by Newton's method, drawn towards ``prior``."""
    before = np.array(prior)
    weights = before.copy()
    for _ in range(30):
        p = _logistic(inputs @ weights)
        hessian = (inputs * (p * (1.0 - p))[:, None]).T @ inputs + _PRIOR * np.eye(len(before))
        step = np.linalg.solve(hessian, inputs.T @ (right - p) - _PRIOR * (weights - before))
        weights += step
        if float(np.abs(step).max()) < 1e-8:
            break
    return tuple(float(w) for w in weights)


def _logistic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = 1.0 / (1.0 + np.exp(-np.clip(x, -50.0, 50.0)))
    return found


def shown(text: str, cover: dict[str, Any] | None) -> bool | None:
    """Return whether a probe shows what ``text`` names, as the index's manifest has it; None where nobody looked."""
    same = bank.named(text) if cover else []
    return not set(same) <= set(cover["not_shown"]) if cover and same else None


def standing(best: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the best score stands above a sample of scores ``[queries, logits]``, in standard deviations."""
    above: NDArray[np.float64] = (best - scores.mean(axis=1)) / np.maximum(scores.std(axis=1), 1e-9)
    return above


T = TypeVar("T")

FILE = "calibration.safetensors"
BANK = 1_024
"""Everyday concepts of the bank that a text is contrasted with: a third of them, for each costs the encoder's time."""

_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Calibration:
    """Columns that the scorings `contrastive` and `bridged` need.

    Attributes:
        centre: float32 ``[n]``, cosine of each probe with the bank's texts, averaged over the bank.
        texts: float32 ``[dim]``, the bank's mean text embedding.
        hubness: float32 ``[logits]``, see `search.text.contrast.hubness`.
        peaks: float32 ``[2]``, mean and standard deviation over the bank of a text's best contrast with any probe.
        offered: float32 ``[concepts]``, see `search.text.contrast.offered`; empty in an index built before it had any.
    """

    centre: NDArray[np.float32]
    texts: NDArray[np.float32]
    hubness: NDArray[np.float32]
    peaks: NDArray[np.float32]
    offered: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def contrast(self, similarity: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return texts' best contrast ``[texts]``, in the bank's standard deviations, from ``[texts, n]`` cosines."""
        best = (similarity - self.centre).max(axis=1).astype(np.float64)
        scaled: NDArray[np.float64] = (best - float(self.peaks[0])) / max(float(self.peaks[1]), 1e-9)
        return scaled

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        names = ("centre", "texts", "hubness", "peaks", "offered")
        write_tensors(folder / FILE, {name: getattr(self, name) for name in names})

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        return read_kept(folder / FILE, cls)


def calibrate(
    vectors: Vectors,
    count: int,
    embed: Embed,
    probes: NDArray[np.float32],
    *,
    previous: Calibration | None = None,
    progress: bool = True,
) -> Calibration:
    """Return the calibration of a version.

    Args:
        vectors: reads its descriptors.
        count: its logits.
        embed: embeds the bank's names.
        probes: float32 ``[n, dim]``, the probes under the encoder.
        previous: of the version before, when that is a prefix of this one: only new logits are measured.
        progress: draw a progress bar on stderr.
    """
    from tqdm import tqdm

    texts = embed(spread(bank.names(), BANK))
    centre = (probes @ texts.mean(axis=0)).astype(np.float32)
    asked = zero_shot(texts @ probes.T, centre)
    if previous is not None and previous.offered.size and np.array_equal(previous.centre, centre):
        done, found = previous.hubness[:count], previous.offered
    else:
        some = np.array(spread(list(range(count)), _ROWS), np.int64)
        done, found = np.empty(0, np.float32), offered(strengths(vectors(some)), asked)
    parts = [done]
    with tqdm(total=count - done.size, desc="hubness", unit="logit", disable=not progress, leave=False) as bar:
        for start in range(done.size, count, _ROWS):
            rows = np.arange(start, min(start + _ROWS, count))
            parts.append(hubness(strengths(vectors(rows)), asked, found))
            bar.update(rows.size)
    best = (texts @ probes.T - centre).max(axis=1)
    peaks = np.array([best.mean(), best.std()], np.float32)
    return Calibration(centre, texts.mean(axis=0), np.concatenate(parts), peaks, found)


def spread(all_of: list[T], count: int) -> list[T]:
    """Return ``count`` of the elements, evenly spread over their order."""
    return [all_of[i] for i in np.linspace(0, len(all_of) - 1, min(count, len(all_of))).astype(int).tolist()]
