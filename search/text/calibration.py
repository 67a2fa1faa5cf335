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
from workspace.files import damaged, read_tensors, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

COVERED = 0.5
"""Probability under which a query is declined."""

DEFAULT = (-1.2, 0.7, 4.0, 0.5)
"""Bias and weights of the signs where a gallery has too few labels to learn from; see `benchmarks/accuracy`."""

_PRIOR = 1.0  # ridge towards `DEFAULT`, so that a small or one-sided gallery cannot turn a sign around
_SHIFT, _SCALE = np.array([0.0, 0.0, 5.0]), np.array([1.0, 1.0, 2.0])


@dataclass(frozen=True)
class Coverage:
    """What can be said of an answer before anybody looks at it.

    Attributes:
        probability: that one of the ten nearest logits recognises what was asked, 0 to 1.
        covered: whether that is at least `COVERED`.
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


def probability(signs: NDArray[np.float64], weights: tuple[float, ...]) -> NDArray[np.float64]:
    """Return the probability of an answer, float64 ``[queries]``, from signs ``[queries, 3]``."""
    logit = weights[0] + ((signs - _SHIFT) / _SCALE) @ np.array(weights[1:])
    return _logistic(logit)


def fit(signs: NDArray[np.float64], answered: NDArray[np.bool_]) -> tuple[float, ...]:
    """Return bias and weights of a logistic regression by Newton's method, drawn towards `DEFAULT`."""
    inputs = np.column_stack([np.ones(len(signs)), (signs - _SHIFT) / _SCALE])
    prior = np.array(DEFAULT)
    weights = prior.copy()
    for _ in range(30):
        p = _logistic(inputs @ weights)
        hessian = (inputs * (p * (1.0 - p))[:, None]).T @ inputs + _PRIOR * np.eye(len(prior))
        step = np.linalg.solve(hessian, inputs.T @ (answered - p) - _PRIOR * (weights - prior))
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
        if not (folder / FILE).exists():
            return None
        try:
            return cls(**read_tensors(folder / FILE)[0])
        except TypeError as error:
            raise damaged(folder / FILE, error) from error


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
