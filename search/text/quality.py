"""How good a model is, without a single label of a photograph: how often it answers the probes as others would.

A probe that shows one of the model's classes, as the encoder and the namesakes of its outputs in other models see it,
should have that output as the model's strongest. The share that does estimates the accuracy, with what makes models
differ in it: their skill, and how many classes they tell apart. Nothing of the model itself, or of its near-copies, has
a say in what is right.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from search.text.contrast import strengths, unit, zero_shot
from search.text.labels import Bridge, Named

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.text.contrast import Embed, Vectors

SHOWN = 10
"""Probes of a class that are looked at: those that show it best."""

CLASSES = 64
"""Classes of a model that are looked at, evenly spread; its answer is its strongest of all outputs."""

LEAST = 0.5
"""Share of these that the probes must show, else nothing is said."""


def accuracy(raw: NDArray[np.float32], classes: NDArray[np.int64], expected: NDArray[np.float32]) -> float | None:
    """Return the mean over classes of how often a model's strongest output is the class that a probe shows.

    Args:
        raw: float32 ``[outputs, probes]``, before any softmax.
        classes: int64 ``[c]``, which outputs are asked about.
        expected: float32 ``[c, probes]``, how well each probe shows each class, not negative.

    Returns a share from 0 to 1; None when of the classes fewer than `LEAST` are what some probe shows best.
    """
    shows, answer = expected.argmax(axis=0), raw.argmax(axis=0)
    shares = []
    for i, output in enumerate(classes.tolist()):
        best = np.argsort(-expected[i], kind="stable")[:SHOWN]
        best = best[(shows[best] == i) & (expected[i, best] > 0)]
        if best.size:
            shares.append(float((answer[best] == output).mean()))
    return float(np.mean(shares)) if len(shares) >= max(2, LEAST * classes.size) else None


class Estimator:
    """Estimates the accuracy of models whose outputs have names.

    Args:
        named: the outputs that have one, in a gallery.
        bridge: what they lend.
        vectors: reads descriptors.
        moments: standard deviation and mean of every output's raw responses, float32 ``[logits]`` each.
        family_of: family of every output's model.
        embed: embeds texts.
        probes: float32 ``[n, dim]``, the probes under the encoder.
        centre: float32 ``[n]``, of the calibration.
    """

    def __init__(
        self,
        named: Named,
        bridge: Bridge,
        vectors: Vectors,
        moments: tuple[NDArray[np.float32], NDArray[np.float32]],
        family_of: NDArray[np.int32],
        embed: Embed,
        probes: NDArray[np.float32],
        centre: NDArray[np.float32],
    ) -> None:
        self._named, self._bridge, self._vectors, self._moments = named, bridge, vectors, moments
        self._family_of, self._embed, self._probes, self._centre = family_of, embed, probes, centre

    def of(self, rows: NDArray[np.int64]) -> float | None:
        """Return the estimate for the model whose outputs are at ``rows``, ascending; None when too few have names."""
        at = np.searchsorted(self._named.rows, rows)
        has = (at < self._named.rows.size) & (self._named.rows[np.minimum(at, self._named.rows.size - 1)] == rows)
        labels, outputs = self._named.label_of[at[has]], np.flatnonzero(has)
        labels, first = np.unique(labels, return_index=True)
        if labels.size < 2:
            return None
        some = np.unique(np.linspace(0, labels.size - 1, min(CLASSES, labels.size)).astype(np.int64))
        labels, outputs = labels[some], outputs[first[some]]
        texts = self._embed([self._named.words[label] for label in labels.tolist()])
        expected = zero_shot(texts @ self._probes.T, self._centre)
        for row, label in zip(expected, labels.tolist(), strict=True):
            others = self._others(label, int(self._family_of[rows[0]]))
            row += row if others is None else others
        expected = unit(expected)
        std, mean = (part[rows][:, None] for part in self._moments)
        return accuracy(self._vectors(rows) * std + mean, outputs, expected)

    def _others(self, label: int, family: int) -> NDArray[np.float32] | None:
        """Return what a label's outputs in other families answer, float32 ``[n]`` of length 1; None without any."""
        own = slice(int(self._bridge.first[label]), int(self._bridge.first[label + 1]))
        rows, weights = self._bridge.rows[own], self._bridge.weights[own]
        others = self._family_of[rows] != family
        if not others.any():
            return None
        found: NDArray[np.float32] = unit((weights[others] @ strengths(self._vectors(rows[others])))[None])[0]
        return found
