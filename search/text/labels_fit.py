"""Building the label bridge: which labels a gallery carries, how far each can be trusted, and how much they count.

Nothing but the gallery is used. A label is trusted by two signs: its logit answers the probes as an encoder expects of
its words, and as its namesakes in other models do (`search.text.labels`). The two numbers of the fusion are those that
rank held-out named logits best when their own model's labels are hidden.

What is learned (the curve of trust, the map, the two numbers, certainty) is learned anew when the named logits have
grown by `GROWTH`; a smaller append takes it over, and costs as much as what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from search.text.calibration import FIRST, Calibration, Certainty, hit_signs
from search.text.contrast import Material, Vectors, blocks, strengths, unit, zero_shot
from search.text.labels import ENOUGH, LOGITS, Bridge, Named, Near, Trust, counting, extend, learn

GROWTH = 1.1
"""Learn anew from so many times the named logits that were learned from: all appends together cost a few builds."""

_MAP_LABELS = 200  # labels below which no map is fitted
_MAP_MOST = 20_000
_RIDGES = (1.0, 3.0, 10.0)  # per thousand labels
_WIDTHS, _SHARES = (0.05, 0.1, 0.2), (0.0, 0.15, 0.3, 0.6)
_QUERIES, _CANDIDATES = 300, 20_000
_HIDDEN = ("nothing", "its model", "half", "everywhere")
"""Whose labels are hidden where certainty is learned: those of half the models, which alone are found, as by a filter
that asks for models without labels; or the label that is asked, whoever carries it."""
_KEPT = (1.0, 0.3, 0.1)  # shares of the models that filters leave, where certainty is learned
_HONEST = 0.5  # mean trust of a model's labels from which what they say is taken for the truth there


def build(
    named: Named, material: Material, calibration: Calibration, previous: Path | None = None
) -> tuple[Bridge, Trust] | None:
    """Return the bridge of a version and the trust it rests on, or None when no model in it has honest labels.

    ``previous`` is the folder of the version that this one continues, when its calibration has the same centre.
    """
    if not named.words:
        return None
    bridge, older = (Bridge.load(previous), Trust.load(previous)) if previous is not None else (None, None)
    if bridge is not None and older is not None and named.rows.size < GROWTH * older.learned:  # noqa: SIM102
        if named.begins_with(older.rows, older.label_of):
            return _extended(bridge, older, material, named, calibration)
    vectors, texts = material.vectors, material.embed(named.words)
    similarity = texts @ material.probes.T
    expected = zero_shot(similarity, calibration.centre)
    believed = learn(vectors, named, expected, calibration.hubness)
    lists = _namesakes(vectors, believed, range(len(named.words)))
    none = np.empty((0, len(material.probes)), np.float16)
    empty = np.empty(0, np.float32)
    bridge = Bridge(calibration.texts, none, empty, np.zeros(1, np.int64), np.empty(0, np.int64), empty, none)
    placed = bridge.place(texts)
    bridge = _listed(replace(bridge, embeddings=placed.astype(np.float16)), lists)
    if len(named.words) < ENOUGH:
        return bridge, believed
    bridge, leave_out = _mapped(vectors, bridge, placed)
    labels = _Labels(vectors, material.model_of, placed, expected, calibration.hubness, leave_out)
    bridge = _weighed(bridge, labels)
    certainty = _certainty(bridge, labels, named, believed, calibration.contrast(similarity))
    return replace(bridge, certainty=certainty), believed


def _extended(
    bridge: Bridge, believed: Trust, material: Material, named: Named, calibration: Calibration
) -> tuple[Bridge, Trust]:
    """Return the bridge with the named rows that are new; what was learned stays."""
    touched, which = np.unique(named.label_of[believed.rows.size :], return_inverse=True)
    if not touched.size:
        return bridge, believed
    texts = material.embed([named.words[label] for label in touched.tolist()])
    expected = zero_shot(texts @ material.probes.T, calibration.centre)[which]
    believed = extend(believed, material.vectors, named, expected, calibration.hubness)
    known = bridge.trust.size
    fresh = bridge.place(texts)[touched >= known].astype(np.float16)  # words are numbered as they appear
    lists = {label: bridge.of_label(label) for label in range(known)}
    lists |= dict(zip(touched.tolist(), _namesakes(material.vectors, believed, touched.tolist()), strict=True))
    grown = replace(bridge, embeddings=np.concatenate([bridge.embeddings, fresh]))
    return _listed(grown, [lists[label] for label in range(len(named.words))]), believed


Listed = tuple[NDArray[np.int64], NDArray[np.float32]]
"""A label's rows and their weights, the most trusted first."""


def _listed(bridge: Bridge, lists: Sequence[Listed]) -> Bridge:
    """Return the bridge with these rows for its labels, in order."""
    first = np.cumsum([0, *(rows.size for rows, _ in lists)])
    best = np.array([weights.max(initial=0.0) for _, weights in lists], np.float32)
    rows, weights = (np.concatenate(part) for part in zip(*lists, strict=True))
    return replace(bridge, trust=best, first=first.astype(np.int64), rows=rows, weights=weights)


def _namesakes(vectors: Vectors, believed: Trust, labels: Sequence[int]) -> list[Listed]:
    """Return each label's most trusted rows; namesakes in other models that answer alike raise each other's trust."""
    order = np.lexsort((believed.rows, -believed.trust, believed.label_of))
    bounds = np.searchsorted(believed.label_of[order], np.arange(int(believed.label_of.max()) + 2))
    found = []
    for label in labels:
        at = order[bounds[label] : bounds[label + 1]][: 4 * LOGITS]
        some, weight = believed.rows[at], believed.trust[at].astype(np.float64)
        if some.size > 2:
            strong = strengths(vectors(some))
            alike = np.maximum(strong @ strong.T, 0.0)
            np.fill_diagonal(alike, 0.0)
            support = alike @ (weight + 0.1) / ((weight + 0.1).sum() - weight - 0.1)
            weight = np.sqrt((weight + 0.05) * support / max(float(support.max()), 1e-9)).clip(0.0, 1.0)
        best = np.lexsort((some, -weight))[:LOGITS]
        found.append((some[best], weight[best].astype(np.float32)))
    return found


def _prototypes(vectors: Vectors, bridge: Bridge, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the strong responses of some labels' logits, averaged by trust, float32 ``[labels, n]`` of unit length."""
    lists = [bridge.of_label(label) for label in labels.tolist()]
    return unit(np.stack([weights @ strengths(vectors(rows)) for rows, weights in lists]))


LeaveOut = Callable[[NDArray[np.int64]], NDArray[np.float32]]


def _mapped(vectors: Vectors, bridge: Bridge, placed: NDArray[np.float32]) -> tuple[Bridge, LeaveOut | None]:
    """Return the bridge with a ridge regression from text to strong responses, and its leave-one-label-out predictions.

    The penalty is the one whose leave-one-out predictions (from the hat matrix) are nearest to the truth.
    """
    chosen = np.flatnonzero(bridge.trust > 0)
    if chosen.size > _MAP_MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MAP_MOST, replace=False))
    if chosen.size < _MAP_LABELS:
        return bridge, None
    x, weight = placed[chosen], bridge.trust[chosen][:, None]
    cross = np.zeros((x.shape[1], bridge.mapped.shape[1]), np.float32)
    for start in range(0, chosen.size, 512):
        part = slice(start, start + 512)
        cross += (x[part] * weight[part]).T @ _prototypes(vectors, bridge, chosen[part])
    gram = (x * weight).T @ x
    tested = np.random.default_rng(1).permutation(chosen.size)[:_QUERIES]
    truth = _prototypes(vectors, bridge, chosen[tested])

    def left_out(penalty: float, i: NDArray[np.int64], y: NDArray[np.float32]) -> NDArray[np.float32]:
        inverse = np.linalg.inv(gram + penalty * np.eye(len(gram), dtype=np.float32))
        leverage = (weight[i] * np.einsum("ij,jk,ik->i", x[i], inverse, x[i])[:, None]).clip(0.0, 0.99)
        return unit(np.maximum((x[i] @ (inverse @ cross) - leverage * y) / (1.0 - leverage), 0.0))

    penalties = [ridge * chosen.size / 1_000 for ridge in _RIDGES]
    fits = [float(np.einsum("ij,ij->i", left_out(p, tested, truth), truth).mean()) for p in penalties]
    penalty = penalties[int(np.argmax(fits))]
    mapped = np.linalg.solve(gram + penalty * np.eye(len(gram), dtype=np.float32), cross)
    scale = float(np.abs(mapped).max()) or 1.0  # only directions count, and fp16 ends at 65,504
    position = {label: i for i, label in enumerate(chosen.tolist())}

    def leave_out(labels: NDArray[np.int64]) -> NDArray[np.float32]:
        found = unit(np.maximum(placed[labels] @ mapped, 0.0))
        there = np.array([label in position for label in labels.tolist()])
        i = np.array([position[label] for label in labels[there].tolist()], np.int64)
        found[there] = left_out(penalty, i, _prototypes(vectors, bridge, labels[there]))
        return found

    return replace(bridge, mapped=(mapped / scale).astype(np.float16)), leave_out


@dataclass(frozen=True, eq=False)
class _Labels:
    """What asking a gallery for its own labels takes."""

    vectors: Vectors  # as `build` has them
    model_of: NDArray[np.int32]
    placed: NDArray[np.float32]  # float32 ``[labels, dim]``, the labels' words as the bridge places them
    expected: NDArray[np.float32]  # float32 ``[labels, n]``, what the encoder expects of each probe
    hubness: NDArray[np.float32]  # float32 ``[logits]``
    leave_out: LeaveOut | None  # what the map says of labels without them; None where there is no map

    def mapped(self, asked: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return what the map expects of labels that it was not shown, float32 ``[asked, n]``."""
        return self.leave_out(asked) if self.leave_out else np.zeros_like(self.expected[asked])


def _weighed(bridge: Bridge, labels: _Labels) -> Bridge:
    """Return the bridge with the width and the share that find named logits best without their own model's labels."""
    rng = np.random.default_rng(2)
    asked = rng.permutation(np.flatnonzero(bridge.trust > 0.1))[:_QUERIES]  # not only the easy ones
    if asked.size < ENOUGH:
        return bridge
    trial = _Trial(bridge, labels, asked)
    own_model_hidden = trial.lent()
    best, found = -1.0, bridge
    for width in _WIDTHS:
        for share in _SHARES if labels.leave_out else (0.0,):
            score = float((1.0 / (1.0 + trial.above(own_model_hidden, width, share))).mean())
            if score > best + 1e-4:
                best, found = score, replace(bridge, width=width, share=share)
    return found


class _Trial:
    """Named logits, each asked for by its label among other logits, with labels hidden."""

    def __init__(self, bridge: Bridge, labels: _Labels, asked: NDArray[np.int64]) -> None:
        self._bridge, self._labels, self._asked = bridge, labels, asked
        rng = np.random.default_rng(4)
        self._target = bridge.rows[rng.integers(bridge.first[asked], bridge.first[asked + 1])]
        others = np.random.default_rng(3).permutation(labels.model_of.size)[:_CANDIDATES]
        self._strong = np.concatenate([strong for _, strong in blocks(labels.vectors, others)])
        self._common = labels.hubness[others]
        self._named = [bridge.of_label(label)[0] for label in asked.tolist()]
        self._rivals = np.stack([~np.isin(others, named) for named in self._named])
        self._mapped = labels.mapped(asked)

    def lent(self) -> list[Near | None]:
        """Return what labels lend to each query when its own model's are hidden."""
        model_of, found = self._labels.model_of, list[Near | None]()
        for label, row in zip(self._asked.tolist(), self._target.tolist(), strict=True):
            allowed = model_of != model_of[row]
            if not allowed[self._bridge.rows].any():
                allowed = np.ones(model_of.size, bool)  # one named model only: hide just the label itself
                allowed[self._named[len(found)]] = False
            found.append(self._bridge.nearest(self._labels.placed[label], self._labels.vectors, allowed))
        return found

    def above(self, near: Sequence[Near | None], width: float, share: float) -> NDArray[np.int64]:
        """Return how many rivals come before each query's logit. Logits that carry its label are none."""
        fused = _fused(self._labels.expected[self._asked], self._mapped, near, width, share)
        own = np.einsum("ij,ij->i", strengths(self._labels.vectors(self._target)), fused)
        own -= self._labels.hubness[self._target]
        every = fused @ self._strong.T - self._common
        return np.asarray(((every > own[:, None]) & self._rivals).sum(axis=1), np.int64)


def _fused(
    expected: NDArray[np.float32], mapped: NDArray[np.float32], near: Sequence[Near | None], width: float, share: float
) -> NDArray[np.float32]:
    """Return what texts expect of every probe, float32 ``[texts, n]`` of unit length, as `bridged` adds it up."""
    fused = expected + np.float32(share) * mapped
    for i, one in enumerate(near):
        if one is not None:
            fused[i] += np.float32(counting(one.trust(width))) * one.side
    return unit(fused)


def _certainty(
    bridge: Bridge, labels: _Labels, named: Named, believed: Trust, contrast: NDArray[np.float64]
) -> Certainty:
    """Return how probable hits are, learned where what is right is known: of models whose labels are believed.

    All outputs of such a model count, those that the encoder cannot read too: else only easy ones would be asked.
    Every label is asked as `_HIDDEN` says, with all models and with some of them left by a filter. Of no other model it
    is known which of its outputs are right, so that these only say how far a hit stands out.
    """
    vectors, model_of, hubness = labels.vectors, labels.model_of, labels.hubness
    of_model = np.zeros((2, int(model_of.max()) + 1))
    np.add.at(of_model.T, model_of[named.rows], np.stack([believed.trust, np.ones(named.rows.size)], axis=1))
    honest = of_model[0] >= _HONEST * np.maximum(of_model[1], 1.0)
    told = np.flatnonzero(honest[model_of[named.rows]])
    rng = np.random.default_rng(5)
    told = np.sort(rng.permutation(told)[:_CANDIDATES])
    rows, label_of = named.rows[told], named.label_of[told]
    if rows.size < ENOUGH:
        return Certainty()
    asked = rng.permutation(np.unique(label_of))[:_QUERIES]
    mapped = labels.mapped(asked)
    others = rng.permutation(np.setdiff1d(np.arange(model_of.size), named.rows[honest[model_of[named.rows]]]))
    others = others[: max(_CANDIDATES - rows.size, 0)]
    right = label_of == asked[:, None]
    fused, trust = [], []
    lending = rng.permutation(honest.size) < honest.size // 2
    lent_by_half = lending[model_of]
    for hides in _HIDDEN:
        near = []
        for label, own in zip(asked.tolist(), right, strict=True):
            of = model_of[rng.choice(rows[own])]
            allowed = None if hides == "nothing" else lent_by_half if hides == "half" else model_of != of
            near.append(
                bridge.nearest(labels.placed[label], vectors, allowed, label if hides == "everywhere" else None)
            )
        fused.append(_fused(labels.expected[asked], mapped, near, bridge.width, bridge.share))
        trust.append(np.array([0.0 if one is None else one.trust(bridge.width) for one in near]))
    wanted = np.concatenate(fused)
    every = np.concatenate([rows, others])
    parts = [wanted @ strong.T - hubness[every[part]] for part, strong in blocks(vectors, every)]
    scores = np.concatenate(parts, axis=1).astype(np.float64)
    right = np.tile(np.pad(right, ((0, 0), (0, others.size))), (len(_HIDDEN), 1))
    about = scores.mean(axis=1), np.maximum(scores.std(axis=1), 1e-9), scores.max(axis=1)
    hides_of, believes = np.repeat(_HIDDEN, asked.size), np.concatenate(trust)
    hidden, half = hides_of == "everywhere", hides_of == "half"
    clear = hidden | (believes >= _HONEST)  # what its own model alone calls so is named no more when that is hidden
    seen, cases = np.tile(contrast[asked], len(_HIDDEN)), []
    for number, kept in enumerate(_KEPT):
        stays = honest & ~(half[:, None] & lending) & (rng.random((len(scores), honest.size)) < kept)
        left = np.where(stays[:, model_of[every]], scores, -np.inf)
        first = np.argsort(-left, axis=1, kind="stable")[:, :FIRST]
        found = np.take_along_axis(left, first, axis=1)
        there = np.isfinite(found)
        signs = hit_signs(np.where(there, found, 0.0), about, seen, model_of[every[first]])
        correct = np.take_along_axis(right, first, axis=1)
        case = signs, correct, there, believes, np.where(hidden, number, -1)
        cases.append([part[clear] for part in case])
    return Certainty.learn(*(np.concatenate(part) for part in zip(*cases, strict=True)))
