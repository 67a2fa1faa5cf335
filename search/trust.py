"""Which outputs carry a label in words, and how far an encoder believes each.

A label is believed when its logit answers the probes as an encoder expects of its words, more than it would of other
labels' words: one minus the local false discovery rate (Efron 2004), with the labels of other rows as the null.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from search.bridge import plain
from search.contrast import strengths
from workspace.files import damaged, read_tensors, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.gallery import Gallery

FILE = "trust.safetensors"

NAMED = "named"
"""The label quality of a model whose labels are words."""

WITHOUT_EVIDENCE = 0.8
"""Trust in the labels of a gallery with too few to tell."""

ENOUGH = 50  # labels below which nothing is learned from them
_GRID = 256
_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Named:
    """The logits of a version that carry a label in words.

    Attributes:
        rows: int64 ``[named]``, their positions, ascending.
        words: distinct labels, in order of first appearance.
        label_of: int32 ``[named]``, which of the words each carries.
    """

    rows: NDArray[np.int64]
    words: list[str]
    label_of: NDArray[np.int32]

    @classmethod
    def of(cls, gallery: Gallery) -> Named:
        """Return those of a version, by the label quality of their models."""
        quality = np.array([q == NAMED for q in gallery.models.column("label_quality").to_pylist()], bool)
        rows = np.flatnonzero(quality[gallery.model_of])
        distinct = gallery.logits.column("label").combine_chunks().dictionary_encode()
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
    """How far each named row is believed.

    Attributes:
        rows: of `Named`; so is ``label_of``.
        trust: float32 ``[named]``, probability that the label tells the truth.
        grid: float32, scores; ``curve`` is the trust at each. Empty when there were too few labels to learn from.
        learned: named rows of the version that the curve was learned in.
    """

    rows: NDArray[np.int64]
    label_of: NDArray[np.int32]
    trust: NDArray[np.float32]
    grid: NDArray[np.float32]
    curve: NDArray[np.float32]
    learned: int

    def save(self, folder: Path) -> None:
        """Write it into a version's folder, for the build of the next one."""
        tensors = {name: getattr(self, name) for name in ("rows", "label_of", "trust", "grid", "curve")}
        write_tensors(folder / FILE, tensors, {"learned": str(self.learned)})

    @classmethod
    def load(cls, folder: Path) -> Trust | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        try:
            tensors, about = read_tensors(path)
            return cls(**tensors, learned=int(about["learned"]))
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(path, error) from error


def learn(gallery: Gallery, named: Named, expected: NDArray[np.float32], hubness: NDArray[np.float32]) -> Trust:
    """Return the trust in every named row: ``1 - pi0 f0(s) / f(s)``, made monotone in the score s.

    Args:
        gallery: the version's logits.
        named: its named rows.
        expected: float32 ``[words, n]``, what the encoder expects of each label.
        hubness: float32 ``[logits]``.
    """
    rows, label_of = named.rows, named.label_of
    nothing = np.empty(0, np.float32)
    flat = Trust(rows, label_of, np.full(rows.size, WITHOUT_EVIDENCE, np.float32), nothing, nothing, rows.size)
    if rows.size < ENOUGH:
        return flat
    rng = np.random.default_rng(0)
    own, other = np.empty(rows.size, np.float32), []
    for start in range(0, rows.size, _ROWS):
        part = slice(start, start + _ROWS)
        strong, common, of = strengths(gallery.vectors(rows[part])), hubness[rows[part]], label_of[part]
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
    before: Trust, gallery: Gallery, named: Named, expected: NDArray[np.float32], hubness: NDArray[np.float32]
) -> Trust:
    """Return the trust in all named rows of a version that continues another, by the curve learned there.

    Args:
        before: of that version; ``named`` begins with its rows.
        gallery: the version's logits.
        named: its named rows.
        expected: float32 ``[rows that are new, n]``, what the encoder expects of the label of each.
        hubness: float32 ``[logits]``.
    """
    rows = named.rows[before.rows.size :]
    new = np.full(rows.size, WITHOUT_EVIDENCE, np.float32)
    for start in range(0, rows.size if before.grid.size else 0, _ROWS):
        part = slice(start, start + _ROWS)
        strong = strengths(gallery.vectors(rows[part]))
        own = np.einsum("ij,ij->i", strong, expected[part]) - hubness[rows[part]]
        new[part] = np.interp(own, before.grid, before.curve)
    trust = np.concatenate([before.trust, new])
    return Trust(named.rows, named.label_of, trust, before.grid, before.curve, before.learned)


def _density(values: NDArray[np.float32], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Gaussian kernel density estimate on the grid, Silverman's bandwidth, from at most 20,000 values."""
    sample = values[:: max(1, values.size // 20_000)].astype(np.float64)
    width = max(0.9 * float(sample.std()) * sample.size**-0.2, 1e-4)
    kernel = np.exp(-0.5 * ((grid[:, None] - sample[None]) / width) ** 2)
    density: NDArray[np.float64] = kernel.mean(axis=1) / width + 1e-9
    return density
