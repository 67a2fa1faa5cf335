"""How good a model is, without a single label of a photograph: how often it answers the probes as others would.

A probe that shows one of the model's classes, as the encoder and the namesakes of its outputs in other models see it,
should have that output as the model's strongest. The share that does estimates the accuracy, with what makes models
differ in it: their skill, and how many classes they tell apart. Nothing of the model itself, or of its near-copies, has
a say in what is right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from search.text.contrast import Material, strengths, unit
from search.text.labels import Bridge, Named

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


@dataclass(frozen=True, eq=False)
class Estimator:
    """Estimates the accuracy of models whose outputs have names, in a gallery.

    ``centre`` is that of the calibration, float32 ``[n]``; ``family_of`` the family of every output's model.
    """

    named: Named
    bridge: Bridge
    material: Material
    centre: NDArray[np.float32]
    family_of: NDArray[np.int32]

    def of(self, rows: NDArray[np.int64], raw: NDArray[np.float32]) -> float | None:
        """Return the estimate for the model whose outputs are at ``rows``, ascending, and their ``raw`` responses.

        None when too few have names.
        """
        _, at, outputs = np.intersect1d(self.named.rows, rows, assume_unique=True, return_indices=True)
        labels = self.named.label_of[at]
        labels, first = np.unique(labels, return_index=True)
        if labels.size < 2:
            return None
        some = np.unique(np.linspace(0, labels.size - 1, min(CLASSES, labels.size)).astype(np.int64))
        labels, outputs = labels[some], outputs[first[some]]
        expected = self.material.expected([self.named.words[label] for label in labels.tolist()], self.centre)
        for row, label in zip(expected, labels.tolist(), strict=True):
            others = self._others(label, int(self.family_of[rows[0]]))
            row += row if others is None else others
        return accuracy(raw, outputs, unit(expected))

    def _others(self, label: int, family: int) -> NDArray[np.float32] | None:
        """Return what a label's outputs in other families answer, float32 ``[n]`` of length 1; None without any."""
        rows, weights = self.bridge.of_label(label)
        others = self.family_of[rows] != family
        if not others.any():
            return None
        return np.asarray(unit((weights[others] @ strengths(self.material.vectors(rows[others])))[None])[0])
