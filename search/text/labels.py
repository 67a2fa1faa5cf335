"""The label bridge, and how far each label is believed.

A text also finds honestly named logits, whose responses say what to expect of the others: many public models carry
honest labels. A text is compared with those labels (sentence similarity), and the responses of the logits that carry
the nearest ones become a second query, fused with the zero-shot one; a linear map from text to responses, learned on
the same logits, adds a third for concepts that nobody named. How much each counts, and how far a label can be trusted,
is learned from the gallery alone (`search.text.labels_fit`). In no paper; METHOD.md section 5.

A label is believed when its logit answers the probes as an encoder expects of its words, more than it would of other
labels' words: one minus the local false discovery rate (Efron 2004), with the labels of other rows as the null.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import TypeAdapter

from search.scan.scoring import BRIDGE, MAP
from search.text.calibration import Certainty
from search.text.contrast import Vectors, blocks, strengths, unit
from workspace.files import read_kept, write_tensors

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

BRIDGE_FILE = "bridge.safetensors"
LABELS = 16
"""Labels nearest to a text that are read."""

LOGITS = 8
"""Logits of a label that are read: those trusted most."""

KERNEL = 0.05
"""A label's share falls by e for every so much less similarity."""


@dataclass(frozen=True, eq=False)
class Near:
    """The labels nearest to a text."""

    side: NDArray[np.float32]  # float32 ``[n]`` of unit length, strong responses of their logits
    labels: tuple[tuple[float, float], ...]  # similarity and trust of each, nearest first

    def trust(self, width: float) -> float:
        """Return how far the nearest label can be trusted to be the same thing, 0 to 1."""
        return min(1.0, max(float(np.exp((s - 1.0) / width)) * t for s, t in self.labels))


@dataclass(frozen=True, eq=False)
class Bridge:
    """The named logits of a version of the index."""

    centre: NDArray[np.float32]  # float32 ``[dim]``, mean text embedding of the bank: what all texts have in common
    embeddings: NDArray[np.float16]  # float16 ``[labels, dim]``, of the distinct labels, in the space of `place`
    # float32 ``[labels]``, probability that a label tells the truth, of its most trusted logit
    trust: NDArray[np.float32]
    first: NDArray[np.int64]  # int64 ``[labels + 1]``, where each label's rows begin
    rows: NDArray[np.int64]  # int64, logits that carry it, at most `LOGITS` a label, and their ``weights``, float32
    weights: NDArray[np.float32]
    # float16 ``[dim, n]``, the linear map from text to strong responses; of no rows without one
    mapped: NDArray[np.float16]
    width: float = 0.1  # similarity to the nearest label at which trust in it falls by e
    share: float = 0.3  # how much the map counts beside the zero-shot side, which counts 1
    certainty: Certainty = field(default_factory=Certainty)  # how probable it is that a hit is right

    def of_label(self, label: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return a label's rows and their weights, the most trusted first."""
        own = slice(int(self.first[label]), int(self.first[label + 1]))
        return self.rows[own], self.weights[own]

    def sides(
        self, embedding: NDArray[np.float32], vectors: Vectors, allowed: NDArray[np.bool_] | None = None
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
            some, weights = self.of_label(label)
            if allowed is not None:
                weights, some = weights[allowed[some]], some[allowed[some]]
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
        certainty = json.dumps(asdict(self.certainty))
        about = {"width": repr(self.width), "share": repr(self.share), "probability": certainty}
        write_tensors(folder / BRIDGE_FILE, tensors, about)

    @classmethod
    def load(cls, folder: Path) -> Bridge | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""

        def stated(about: dict[str, str]) -> dict[str, Any]:
            known = about.get("probability")  # an index built before it was learned as it is now has none
            certainty = TypeAdapter(Certainty).validate_json(known) if known else Certainty()
            return {"width": float(about["width"]), "share": float(about["share"]), "certainty": certainty}

        return read_kept(folder / BRIDGE_FILE, cls, stated)


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


TRUST_FILE = "trust.safetensors"

NAMED = "named"
"""The label quality of a model whose labels are words."""

WITHOUT_EVIDENCE = 0.8
"""Trust in the labels of a gallery with too few to tell."""

ENOUGH = 50  # labels below which nothing is learned from them
_GRID = 256


@dataclass(frozen=True, eq=False)
class Named:
    """The logits of a version that carry a label in words."""

    rows: NDArray[np.int64]  # int64 ``[named]``, their positions, ascending
    words: list[str]  # distinct labels, in order of first appearance
    label_of: NDArray[np.int32]  # int32 ``[named]``, which of the words each carries

    @classmethod
    def of(cls, labels: pa.ChunkedArray, model_of: NDArray[np.int32], quality: Sequence[str | None]) -> Named:
        """Return those of a version, from each logit's label and model ``[logits]``, and each model's label quality."""
        named = np.array([q == NAMED for q in quality], bool)
        rows = np.flatnonzero(named[model_of])
        distinct = labels.combine_chunks().dictionary_encode()
        spelled = [plain(label) for label in distinct.dictionary.to_pylist()]
        codes = np.asarray(distinct.indices.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)[rows]
        says = np.array([word is not None for word in spelled] + [False])  # the last one is for null
        rows, codes = rows[says[codes]], codes[says[codes]]
        _, first = np.unique(codes, return_index=True)
        words: dict[str, int] = {}
        ordinal = np.full(len(spelled), -1, np.int32)
        for code in codes[np.sort(first)].tolist():  # several spellings may be one word
            ordinal[code] = words.setdefault(spelled[code] or "", len(words))
        return cls(rows.astype(np.int64), list(words), ordinal[codes])

    def begins_with(self, rows: NDArray[np.int64], label_of: NDArray[np.int32]) -> bool:
        """Return whether these were the first of it, in a version that this one continues."""
        n = rows.size
        return np.array_equal(self.rows[:n], rows) and np.array_equal(self.label_of[:n], label_of)


@dataclass(frozen=True, eq=False)
class Trust:
    """How far each named row is believed."""

    rows: NDArray[np.int64]  # of `Named`; so is ``label_of``
    label_of: NDArray[np.int32]
    trust: NDArray[np.float32]  # float32 ``[named]``, probability that the label tells the truth
    # float32, scores; ``curve`` is the trust at each. Empty when there were too few labels to learn from.
    grid: NDArray[np.float32]
    curve: NDArray[np.float32]
    learned: int  # named rows of the version that the curve was learned in

    def save(self, folder: Path) -> None:
        """Write it into a version's folder, for the build of the next one."""
        tensors = {name: getattr(self, name) for name in ("rows", "label_of", "trust", "grid", "curve")}
        write_tensors(folder / TRUST_FILE, tensors, {"learned": str(self.learned)})

    @classmethod
    def load(cls, folder: Path) -> Trust | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        return read_kept(folder / TRUST_FILE, cls, lambda about: {"learned": int(about["learned"])})


def learn(vectors: Vectors, named: Named, expected: NDArray[np.float32], hubness: NDArray[np.float32]) -> Trust:
    """Return the trust in every named row: ``1 - pi0 f0(s) / f(s)``, made monotone in the score s.

    ``expected`` is what the encoder expects of each label, float32 ``[words, n]``; ``hubness`` float32 ``[logits]``.
    """
    rows, label_of = named.rows, named.label_of
    nothing = np.empty(0, np.float32)
    flat = Trust(rows, label_of, np.full(rows.size, WITHOUT_EVIDENCE, np.float32), nothing, nothing, rows.size)
    if rows.size < ENOUGH:
        return flat
    rng = np.random.default_rng(0)
    own, other = np.empty(rows.size, np.float32), []
    for part, strong in blocks(vectors, rows):
        common, of = hubness[rows[part]], label_of[part]
        own[part] = np.einsum("ij,ij->i", strong, expected[of]) - common
        for _ in range(4):
            mixed = label_of[rng.integers(0, rows.size, of.size)]
            scores = np.einsum("ij,ij->i", strong, expected[mixed]) - common
            other.append(scores[mixed != of])
    null = np.concatenate(other)
    if not null.size:
        return flat
    grid = np.linspace(min(own.min(), null.min()), max(own.max(), null.max()), _GRID)
    density, density0 = _density(own, grid), _density(null, grid)
    wrong = min(1.0, 2.0 * float((own < np.median(null)).mean()))  # Storey's estimate at the null's median
    curve = np.maximum.accumulate(np.clip(1.0 - wrong * density0 / density, 0.0, 1.0))
    trust = np.asarray(np.interp(own, grid, curve), np.float32)
    return Trust(rows, label_of, trust, grid.astype(np.float32), curve.astype(np.float32), rows.size)


def extend(
    before: Trust, vectors: Vectors, named: Named, expected: NDArray[np.float32], hubness: NDArray[np.float32]
) -> Trust:
    """Return the trust in all named rows of a version that continues another, by the curve learned there.

    As `learn`; ``named`` begins with the rows of ``before``, and ``expected`` is of those that are new.
    """
    rows = named.rows[before.rows.size :]
    new = np.full(rows.size, WITHOUT_EVIDENCE, np.float32)
    for part, strong in blocks(vectors, rows) if before.grid.size else ():
        own = np.einsum("ij,ij->i", strong, expected[part]) - hubness[rows[part]]
        new[part] = np.interp(own, before.grid, before.curve)
    trust = np.concatenate([before.trust, new])
    return Trust(named.rows, named.label_of, trust, before.grid, before.curve, before.learned)


def _density(values: NDArray[np.float32], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Gaussian kernel density estimate on the grid, Silverman's bandwidth, from at most 20,000 values."""
    sample = values[:: max(1, values.size // 20_000)].astype(np.float64)
    width = max(0.9 * float(sample.std()) * sample.size**-0.2, 1e-4)
    kernel = np.exp(-0.5 * ((grid[:, None] - sample[None]) / width) ** 2)
    return np.asarray(kernel.mean(axis=1) / width + 1e-9)
