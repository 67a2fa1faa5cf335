"""Whole lists of labels, tested against whole models: whether output i answers the probes as name i is expected to.

A model that says nothing of its outputs was often trained on a data set whose classes are known, in a known order. Each
known list of as many names is compared: those that come with the package (``data/lists.tsv``), ImageNet's larger ones
(timm has them), and every honestly labelled model's own. One name alone proves little; that all names in this order fit
their outputs, and in another order do not, proves much.

Agreement with the order alone would accept lists that are only alike: two halves of ImageNet, each in its order, begin
with fishes and end with fungi. So the names must also be the best of their list for many of the outputs. The same two
say whether a model's own list is believed. Agreement of seven names can be luck, however good it is; that each name has
an output of its own is none, so `Fit.evidence` adds the two. What a name expects is told by the text, and shown by the
outputs of other models that honestly bear it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from search.text.calibration import spread
from search.text.contrast import Material, strengths, unit
from search.text.labels import NAMED, plain

DATA = Path(__file__).parent.parent / "data" / "lists.tsv"
TIMM = ("imagenet-12k", "imagenet-21k-goog", "imagenet-21k-miil", "imagenet-22k", "imagenet-22k-ms")
"""ImageNet's larger lists, by timm's names."""

FEWEST = 7
"""Outputs of a model that a list can be told from others by."""

MOST = 256
"""Outputs that are compared, evenly spread over a longer list."""

ACCEPTED, BEST = 6.75, 0.45
"""`Fit.evidence` from which a list may name a model, and the share of the outputs for which their name must be the best
of the list: see `benchmarks/photohub/LISTS.md`."""

NAMESAKES = 8
"""Outputs of other models that honestly bear a name and say, beside the text, what is answered to it."""

SHARPNESS, WEIGHT = 0.1, 2.0
"""Temperature of the matching of names with outputs, and its weight beside the agreement."""

OWN_ACCEPTED, OWN_BEST = 5.0, 0.05
"""The same for a list that a model states itself, though not for certain: off by one, it is the best for none."""

REFUTED = 1.0
"""Agreement by the text alone below which no list is believed, a model's own neither."""

REFUSED = "refuted"
"""In place of the label quality of such a model, where labels are lent."""

REMEMBERED = 256 << 20
"""Bytes of what lists expect that are kept, of the lists compared last."""

LENT = 200
"""Other models' lists that are compared for one number of outputs: those that most models state."""


@lru_cache(maxsize=1)
def shipped() -> dict[str, tuple[str, ...]]:
    """Return the lists that come with the package, by name."""
    rows = [line.split("\t") for line in DATA.read_text(encoding="utf-8").splitlines()[1:]]
    return {name: tuple(labels.split("|")) for name, _, labels in rows}


def known(count: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield name and labels of every known list for ``count`` outputs; 1,001 are ImageNet's with a background first.

    >>> [name for name, labels in known(10)]
    ['cifar-10', 'eurosat', 'fashion-mnist', 'mnist']
    """
    for name, labels in shipped().items():
        if len(labels) == count:
            yield name, labels
        elif name == "imagenet-1k" and count == len(labels) + 1:
            yield f"{name} and background", ("background", *labels)
    if count > 10_000:
        from timm.data.imagenet_info import ImageNetInfo

        for name in TIMM:
            info: Any = ImageNetInfo(name)
            if info.num_classes() == count:
                yield name, tuple(info.index_to_description(i) for i in range(count))


class Fit(NamedTuple):
    """How a list fits a model's outputs."""

    # with the order of the names, in standard deviations over all orders. With S the agreement of name i with output j,
    # centred over names and over outputs, the sum of S[i, i] over random orders has mean 0 and variance ``sum of S^2 /
    # (n - 1)`` (Hoeffding, 1951).
    agreement: float
    best: float  # share of the outputs whose name has the largest S of all names
    # the agreement, and how much likelier than by chance each output goes to its own name: the mean log of n D[i, i],
    # where D is S under a softmax over the outputs, then over the names (one round of Sinkhorn's)
    evidence: float

    @classmethod
    def of(cls, expected: NDArray[np.float32], answered: NDArray[np.float32]) -> Fit:
        """Return how names fit of what they expect, float32 ``[n, probes]``, and of `answers`.

        S is of two equal parts: what is answered strongly, and what more strongly than by the other outputs.
        """
        strong, shares = np.split(expected @ answered.T, 2, axis=1)
        scores = _centred(_centred(strong) + _centred(shares))
        own, matched = np.diag(scores), scores / SHARPNESS
        for axis in (1, 0):
            matched -= _log_sum_exp(matched, axis)
        agreement = float(own.sum())
        matching = float(np.diag(matched).mean() + np.log(len(scores)))
        return cls(agreement, float((scores <= own[None]).all(axis=0).mean()), agreement + WEIGHT * matching)


def answers(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what outputs answer strongly, then how much more than the other outputs do (softmax), ``[2 n, probes]``.

    ``vectors`` are their descriptors, float32 ``[n, probes]``.
    """
    return np.concatenate([strengths(vectors), np.exp(vectors - _log_sum_exp(vectors, axis=0))])


def _centred(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Return scores less the means of their rows and columns, in deviations of the sum over a random order."""
    found = scores - scores.mean(axis=0, keepdims=True, dtype=np.float64)
    found -= found.mean(axis=1, keepdims=True)
    return np.asarray(found / max(float(np.sqrt((found**2).sum() / max(len(found) - 1, 1))), 1e-12), np.float64)


def _log_sum_exp(rows: NDArray[Any], axis: int) -> NDArray[Any]:
    most = rows.max(axis=axis, keepdims=True)
    return np.asarray(most + np.log(np.exp(rows - most).sum(axis=axis, keepdims=True)))


@dataclass(frozen=True, eq=False)
class Model:
    """A model whose outputs are compared with lists."""

    repo_id: str  # its repository
    quality: str | None  # its label quality
    count: int  # outputs it has, searchable or not
    rows: NDArray[np.int64]  # int64, positions of its searchable outputs, and ``outputs``, their numbers
    outputs: NDArray[np.int64]
    labels: Sequence[str | None]  # its own, of the searchable outputs

    @property
    def own(self) -> tuple[str, ...] | None:
        """Its labels as a whole list of words, or None where one is missing or says nothing."""
        if len(self.labels) != self.count or not np.array_equal(self.outputs, np.arange(self.count)):
            return None
        words = tuple(plain(label) or "" for label in self.labels)
        return words if all(words) and len(set(words)) > 1 else None


@dataclass(frozen=True)
class Verdict:
    """What the lists say of a model."""

    # the list that names it, ``OWNER/MODEL`` for another model's, ``its own`` for one that was stated without
    # certainty; None when its labels stay as they are
    source: str | None = None
    # agreement of that list, or of its own labels when they are words; None where nothing could be compared
    fit: float | None = None
    names: Mapping[int, str] = field(default_factory=dict)  # the names by row, when a list names it


class Judge:
    """Compares models with lists; of all models of a gallery, those with honest labels lend theirs.

    ``centre`` is that of the calibration, float32 ``[n]``.
    """

    def __init__(self, models: Sequence[Model], material: Material, centre: NDArray[np.float32]) -> None:
        self._material, self._centre = material, centre
        self._expected: LRUCache[tuple[tuple[str, ...], bool], NDArray[np.float32]] = LRUCache(
            REMEMBERED, getsizeof=lambda expected: expected.nbytes
        )
        wanted = {model.count for model in models if model.quality != NAMED}
        counted: dict[int, Counter[tuple[str, ...]]] = {count: Counter() for count in wanted}
        self._lender: dict[tuple[str, ...], str] = {}
        self._namesakes: dict[str, list[tuple[int, tuple[str, ...] | None]]] = {}  # rows, and their models' lists
        for model in models if wanted else ():
            if model.quality != NAMED:
                continue
            own = model.own
            for row, label in zip(model.rows.tolist(), model.labels, strict=False):
                self._namesakes.setdefault(plain(label) or "", []).append((row, own))
            if model.count in wanted and own is not None:
                counted[model.count][own] += 1
                self._lender.setdefault(own, model.repo_id)
        self._lent = {count: [own for own, _ in lists.most_common(LENT)] for count, lists in counted.items()}

    def verdicts(self, models: Sequence[Model], *, progress: bool = False) -> list[Verdict]:
        """Return what the lists say of each of some models.

        Those of one number of outputs are compared together, for they are compared with the same lists.
        """
        from tqdm import tqdm

        found = dict[int, Verdict]()
        order = sorted(range(len(models)), key=lambda i: models[i].count)
        for i in tqdm(order, desc="lists", unit="model", disable=not progress, leave=False):
            found[i] = self.verdict(models[i])
        return [found[i] for i in range(len(models))]

    def verdict(self, model: Model) -> Verdict:
        """Return what the lists say of a model."""
        if model.rows.size < FEWEST:
            return Verdict()
        at = np.unique(np.linspace(0, model.rows.size - 1, min(MOST, model.rows.size)).astype(np.int64))
        answered = answers(self._material.vectors(model.rows[at]))
        outputs, own = model.outputs[at], model.own
        stated = Fit.of(self._expects(_part(own, outputs)), answered) if own else None
        if model.quality == NAMED:
            return Verdict(fit=stated.agreement if stated else None)
        if own and stated and stated.agreement >= OWN_ACCEPTED and stated.best >= OWN_BEST:
            return Verdict("its own", stated.agreement, _names(model, own))
        lists = [*known(model.count), *((self._lender[labels], labels) for labels in self._lent[model.count])]
        found, most = Verdict(), ACCEPTED
        for source, labels in lists:
            names, whole = _part(labels, outputs), _part(labels, np.arange(len(labels)))
            fit = Fit.of(self._expects(names, whole), answered)
            if fit.evidence < most or fit.best < BEST:
                continue
            if Fit.of(self._expects(names), answered).agreement >= REFUTED:  # namesakes alone may all be wrong
                found, most = Verdict(source, fit.agreement, _names(model, labels)), fit.evidence
        return found

    def _expects(self, names: tuple[str, ...], whole: tuple[str, ...] | None = None) -> NDArray[np.float32]:
        """Return what names expect by the text and, of a ``whole`` list, by namesakes, float32 ``[names, n]``.

        Models that state this very list are no witnesses for it.
        """
        key = names, whole is None
        found = self._expected.get(key)
        if found is None:
            found = self._material.expected(names, self._centre)
            pairs = [
                (i, row)
                for i, name in enumerate(names if whole else ())
                for row in spread([row for row, own in self._namesakes.get(name, ()) if own != whole], NAMESAKES)
            ]
            if pairs:
                at, rows = np.array(pairs, np.int64).T
                shares = 1.0 / np.bincount(at)[at]  # those of one name that disagree are a short vector together
                np.add.at(found, at, strengths(self._material.vectors(rows)) * shares[:, None].astype(np.float32))
                found = unit(found)
            if found.nbytes <= REMEMBERED:
                self._expected[key] = found
        return found


def _part(labels: tuple[str, ...], outputs: NDArray[np.int64]) -> tuple[str, ...]:
    return tuple(_plain(labels[i]) for i in outputs.tolist())


@lru_cache(maxsize=1 << 16)
def _plain(label: str) -> str:
    return plain(label) or label


def _names(model: Model, labels: tuple[str, ...]) -> dict[int, str]:
    return {row: labels[i] for row, i in zip(model.rows.tolist(), model.outputs.tolist(), strict=True)}


def quality(model: Model, source: str | None, fit: float | None) -> str | None:
    """Return a model's label quality after its verdict: `NAMED` by a list, `REFUSED` where its words fit no better.

    Its own words are refused when they agree no better than in any order, where they could have.
    """
    if source is not None:
        return NAMED
    refused = model.quality == NAMED and fit is not None and fit < REFUTED and model.rows.size > 2 * OWN_ACCEPTED
    return REFUSED if refused else model.quality
