"""What a logit's question needs of every other logit: the length of its responses, and how near it is to its peers.

With ``v = max(g, 0)^2`` a text scores by ``w . v / |v|_2``: of a logit with one response far above the others little
but that one counts. A logit that asks is no guess, so more should: it scores by ``w . v / |v|_1.7``, less a quarter of
the mean score of the logit's nearest peers (CSLS, Conneau et al., ICLR 2018; of its two sides the one that differs
between answers). Power, length and share were chosen on validation classes: benchmarks/photohub/RESULTS.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.scan.scoring import OWN_POWER
from search.text.contrast import Vectors, unit
from workspace.files import read_kept, write_tensors

LENGTH = 1.7
"""Of the norm that an answering logit's squared positive responses are divided by."""

SHARE = 0.25
"""Of the nearness to its peers that is subtracted."""

NEAREST = 5
"""Peers that it is averaged over."""

BANK = 512
"""Logits that stand for all of them, evenly spread over the gallery."""

FILE = "peers.safetensors"
_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Peers:
    """What a question by a logit needs of every logit."""

    bank: NDArray[np.int64]  # int64, rows that stand for all
    length: NDArray[np.float32]  # float32 ``[logits]``, norm of the squared positive responses
    # float32 ``[logits]``, mean score among the nearest logits of the bank that are of other models
    hubness: NDArray[np.float32]

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        write_tensors(folder / FILE, {"bank": self.bank, "length": self.length, "hubness": self.hubness})

    @classmethod
    def load(cls, folder: Path) -> Peers | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        return read_kept(folder / FILE, cls)


def own_weights(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a logit asks for, ``max(g, 0)^OWN_POWER`` at unit length, float32 ``[logits, n]``."""
    return unit(np.asarray(np.maximum(vectors, 0.0) ** OWN_POWER, np.float32))


def measure(vectors: Vectors, model_of: NDArray[np.int32], previous: Peers | None = None) -> Peers:
    """Return them for a version; those of the version before, which this one continues, are kept.

    ``model_of`` is the model of each logit, int32 ``[logits]``.
    """
    count = model_of.size
    if previous is None or not previous.bank.size:
        previous = None
        bank = np.unique(np.linspace(0, max(count - 1, 0), min(BANK, count)).astype(np.int64))
    else:
        bank = previous.bank
    asked = own_weights(vectors(bank))
    start = 0 if previous is None else previous.length.size
    lengths = [np.empty(0, np.float32) if previous is None else previous.length]
    nearness = [np.empty(0, np.float32) if previous is None else previous.hubness]
    for begin in range(start, count, _ROWS):
        rows = np.arange(begin, min(begin + _ROWS, count))
        squares = np.maximum(vectors(rows), 0.0) ** 2
        length = (squares**LENGTH).sum(axis=1) ** (1.0 / LENGTH)
        scores = (squares @ asked.T) / np.maximum(length, 1e-6)[:, None]
        scores[model_of[rows][:, None] == model_of[bank][None]] = 0.0  # its own model says nothing about others
        near = np.sort(scores, axis=1)[:, -NEAREST:]
        lengths.append(length.astype(np.float32))
        nearness.append(near.mean(axis=1).astype(np.float32))
    return Peers(bank, np.concatenate(lengths), np.concatenate(nearness))
