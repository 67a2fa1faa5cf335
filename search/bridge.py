"""The label bridge: a text also finds honestly named logits, whose responses say what to expect of the others.

Many public models carry honest labels. A text is compared with those labels (sentence similarity), and the responses
of the logits that carry the nearest ones become a second query, fused with the zero-shot one; a linear map from text
to responses, learned on the same logits, adds a third for concepts that nobody named. How much each counts, and how
far a label can be trusted, is learned from the gallery alone (`search.bridge_fit`). In no paper; METHOD.md section 5.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.contrast import strengths, unit
from search.coverage import DEFAULT
from workspace.files import damaged, read_tensors, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE = "bridge.safetensors"
LABELS = 16
"""Labels nearest to a text that are read."""

LOGITS = 8
"""Logits of a label that are read: those trusted most."""

KERNEL = 0.05
"""A label's share falls by e for every so much less similarity."""

ZERO_SHOT, BRIDGE, MAP = "zero-shot", "labels", "map"
"""The three sides of a text query: what an encoder sees in the probes, other models' labels, and the learned map."""

Vectors = Callable[["NDArray[np.int64]"], "NDArray[np.float32]"]
"""Returns the descriptors of some logits, float32 ``[rows, n_probes]``."""


@dataclass(frozen=True, eq=False)
class Near:
    """The labels nearest to a text.

    Attributes:
        side: float32 ``[n]`` of unit length, strong responses of their logits.
        labels: similarity and trust of each, nearest first.
    """

    side: NDArray[np.float32]
    labels: tuple[tuple[float, float], ...]

    def trust(self, width: float) -> float:
        """Return how far the nearest label can be trusted to be the same thing, 0 to 1."""
        return min(1.0, max(float(np.exp((s - 1.0) / width)) * t for s, t in self.labels))


@dataclass(frozen=True, eq=False)
class Bridge:
    """The named logits of a version of the index.

    Attributes:
        centre: float32 ``[dim]``, mean text embedding of the bank: what all texts have in common.
        embeddings: float16 ``[labels, dim]``, of the distinct labels, in the space of `place`.
        trust: float32 ``[labels]``, probability that a label tells the truth, of its most trusted logit.
        first: int64 ``[labels + 1]``, where each label's rows begin.
        rows: int64, logits that carry it, at most `LOGITS` a label, and their ``weights``, float32.
        mapped: float16 ``[dim, n]``, the linear map from text to strong responses; of no rows without one.
        width: similarity to the nearest label at which trust in it falls by e.
        share: how much the map counts beside the zero-shot side, which counts 1.
        coverage: bias and weights of `search.coverage.probability`.
    """

    centre: NDArray[np.float32]
    embeddings: NDArray[np.float16]
    trust: NDArray[np.float32]
    first: NDArray[np.int64]
    rows: NDArray[np.int64]
    weights: NDArray[np.float32]
    mapped: NDArray[np.float16]
    width: float = 0.1
    share: float = 0.3
    coverage: tuple[float, ...] = DEFAULT

    def sides(
        self,
        embedding: NDArray[np.float32],
        vectors: Vectors,
        allowed: NDArray[np.bool_] | None = None,
    ) -> tuple[dict[str, NDArray[np.float32]], float]:
        """Return what other models' labels, and the map, expect of every probe for a text, and the trust in a label.

        Args:
            embedding: float32 ``[dim]``, of the text.
            vectors: reads descriptors.
            allowed: bool ``[logits]``, which logits may help; all when None.

        Returns float32 ``[n]`` a side, as long as it counts beside a zero-shot side of length 1; a side that has
        nothing to say is missing.
        """
        placed = self.place(embedding[None])[0]
        found: dict[str, NDArray[np.float32]] = {}
        near = self.nearest(placed, vectors, allowed)
        if near is not None:
            found[BRIDGE] = np.float32(counting(near.trust(self.width))) * near.side
        if self.mapped.size and self.share > 0:
            mapped = unit(np.maximum(placed @ self._map, 0.0)[None])[0]
            found[MAP] = np.float32(self.share) * mapped
        return found, 0.0 if near is None else near.trust(self.width)

    @cached_property
    def _wide(self) -> NDArray[np.float32]:
        return self.embeddings.astype(np.float32)  # numpy multiplies halves a hundred times slower

    @cached_property
    def _map(self) -> NDArray[np.float32]:
        return self.mapped.astype(np.float32)

    def place(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return text embeddings ``[texts, dim]`` without what all texts share, at unit length."""
        return unit(embeddings - self.centre)

    def nearest(
        self,
        placed: NDArray[np.float32],
        vectors: Vectors,
        allowed: NDArray[np.bool_] | None = None,
        without: int | None = None,
    ) -> Near | None:
        """Return what the logits expect whose labels are nearest to a text ``[dim]``, or None when there are none.

        The label ``without`` counts as shown by nobody.
        """
        similarity = self._wide @ placed
        if without is not None:
            similarity[without] = -np.inf
        rows, shares, found = [], [], []
        for label in np.argsort(-similarity, kind="stable")[: 8 * LABELS].tolist():
            own = slice(int(self.first[label]), int(self.first[label + 1]))
            some, weights = self.rows[own], self.weights[own]
            if allowed is not None:
                some, weights = some[allowed[self.rows[own]]], weights[allowed[self.rows[own]]]
            if some.size and self.trust[label] > 0 and label != without:
                share = np.exp((similarity[label] - 1.0) / KERNEL) * self.trust[label]
                rows.append(some)
                shares.append(share * weights / max(float(weights.sum()), 1e-9))
                found.append((float(similarity[label]), float(self.trust[label])))
            if len(found) == LABELS:
                break
        if not rows:
            return None
        total = np.concatenate(shares)
        total = (total / max(float(total.max()), 1e-30)).astype(np.float32)
        return Near(unit((total @ strengths(vectors(np.concatenate(rows))))[None])[0], tuple(found))

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        names = ("centre", "embeddings", "trust", "first", "rows", "weights", "mapped")
        tensors = {name: getattr(self, name) for name in names}
        about = {"width": repr(self.width), "share": repr(self.share), "coverage": json.dumps(self.coverage)}
        write_tensors(folder / FILE, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Bridge | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            tensors, about = read_tensors(path)
            coverage = tuple(float(w) for w in json.loads(about["coverage"]))
            return cls(**tensors, width=float(about["width"]), share=float(about["share"]), coverage=coverage)
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, error) from error


def counting(trust: float) -> float:
    """Return how much the labels' side counts beside a zero-shot side of 1, by the trust in the nearest label.

    The odds of that trust: a label that is surely right and surely the same word leaves nothing to the other sides.
    """
    return trust / (1.02 - min(trust, 1.0))


def plain(label: str | None) -> str | None:
    """Return a label as words to compare with a text, or None when it names nothing.

    The first of several names (ImageNet's "tench, Tinca tinca") stands for all; underscores and hyphens are spaces.
    """
    if label is None:
        return None
    words = re.sub(r"[\s_\-]+", " ", label.split(",")[0]).strip().lower()[:100]
    if sum(c.isalpha() for c in words) < 2 or re.fullmatch(r"(label|class|category|target) ?\d*", words):
        return None
    return words
