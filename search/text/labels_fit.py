"""Building the label bridge: which labels a gallery carries, how far each can be trusted, and how much they count.

Nothing but the gallery is used. A label is trusted by two signs: its logit answers the probes as an encoder expects of
its words, and as its namesakes in other models do (`search.text.labels`). The two numbers of the fusion are those that
rank held-out named logits best when their own model's labels are hidden.

What is learned (the curve of trust, the map, the two numbers, coverage) is learned anew when the named logits have
grown by `GROWTH`; a smaller append takes it over, and costs as much as what is new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from search.text.calibration import Calibration, Certainty
from search.text.contrast import Embed, Vectors, strengths, unit, zero_shot
from search.text.labels import ENOUGH, LOGITS, Bridge, Named, Near, Trust, counting, extend, learn

GROWTH = 1.1
"""Learn anew from so many times the named logits that were learned from: all appends together cost a few builds."""

_MAP_LABELS = 200  # labels below which no map is fitted
_MAP_MOST = 20_000
_RIDGES = (1.0, 3.0, 10.0)  # per thousand labels
_WIDTHS, _SHARES = (0.05, 0.1, 0.2), (0.0, 0.15, 0.3, 0.6)
_QUERIES, _CANDIDATES = 300, 20_000
_ROWS = 4_096
_FILTERED = 0.1  # share of the models that a filter leaves, where one is learned from
_MANY = 2**31  # logits before one that is not there
_FIRST_PAGE = 10  # hits among which one must be right for a query to count as answered


def build(
    named: Named,
    vectors: Vectors,
    model_of: NDArray[np.int32],
    embed: Embed,
    probes: NDArray[np.float32],
    calibration: Calibration,
    previous: Path | None = None,
) -> tuple[Bridge, Trust] | None:
    """Return the bridge of a version and the trust it rests on, or None when no model in it has honest labels.

    Args:
        named: the version's logits that carry a label in words.
        vectors: reads its descriptors.
        model_of: int32 ``[logits]``, the model of each of its logits.
        embed: embeds texts.
        probes: float32 ``[n, dim]``, the probes under the same encoder.
        calibration: of the version.
        previous: folder of the version that this one continues, when its calibration has the same centre.
    """
    if not named.words:
        return None
    bridge, older = (Bridge.load(previous), Trust.load(previous)) if previous is not None else (None, None)
    if bridge is not None and older is not None and named.rows.size < GROWTH * older.learned:  # noqa: SIM102
        if named.begins_with(older.rows, older.label_of):
            return _extended(bridge, older, vectors, named, embed, probes, calibration)
    texts = embed(named.words)
    expected = zero_shot(texts @ probes.T, calibration.centre)
    believed = learn(vectors, named, expected, calibration.hubness)
    lists = _namesakes(vectors, believed, range(len(named.words)))
    none = np.empty((0, probes.shape[0]), np.float16)
    empty = np.empty(0, np.float32)
    bridge = Bridge(calibration.texts, none, empty, np.zeros(1, np.int64), np.empty(0, np.int64), empty, none)
    placed = bridge.place(texts)
    bridge = _listed(replace(bridge, embeddings=placed.astype(np.float16)), lists)
    if len(named.words) < ENOUGH:
        return bridge, believed
    bridge, leave_out = _mapped(vectors, bridge, placed)
    contrast = calibration.contrast(texts @ probes.T)
    return _weighed(vectors, model_of, bridge, placed, expected, calibration.hubness, contrast, leave_out), believed


def _extended(
    bridge: Bridge,
    believed: Trust,
    vectors: Vectors,
    named: Named,
    embed: Embed,
    probes: NDArray[np.float32],
    calibration: Calibration,
) -> tuple[Bridge, Trust]:
    """Return the bridge with the named rows that are new; what was learned stays."""
    touched, which = np.unique(named.label_of[believed.rows.size :], return_inverse=True)
    if not touched.size:
        return bridge, believed
    texts = embed([named.words[label] for label in touched.tolist()])
    expected = zero_shot(texts @ probes.T, calibration.centre)[which]
    believed = extend(believed, vectors, named, expected, calibration.hubness)
    known = bridge.trust.size
    fresh = bridge.place(texts)[touched >= known].astype(np.float16)  # words are numbered as they appear
    lists = {label: _list_of(bridge, label) for label in range(known)}
    lists |= dict(zip(touched.tolist(), _namesakes(vectors, believed, touched.tolist()), strict=True))
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


def _list_of(bridge: Bridge, label: int) -> Listed:
    own = slice(int(bridge.first[label]), int(bridge.first[label + 1]))
    return bridge.rows[own], bridge.weights[own]


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
    lists = [_list_of(bridge, label) for label in labels.tolist()]
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
        i = np.array([position.get(label, 0) for label in labels.tolist()], np.int64)
        return left_out(penalty, i, _prototypes(vectors, bridge, labels))

    return replace(bridge, mapped=(mapped / scale).astype(np.float16)), leave_out


def _weighed(
    vectors: Vectors,
    model_of: NDArray[np.int32],
    bridge: Bridge,
    placed: NDArray[np.float32],
    expected: NDArray[np.float32],
    hubness: NDArray[np.float32],
    contrast: NDArray[np.float64],
    leave_out: LeaveOut | None,
) -> Bridge:
    """Return the bridge with the width and the share that find named logits best without their own model's labels."""
    rng = np.random.default_rng(2)
    asked = rng.permutation(np.flatnonzero(bridge.trust > 0.1))[:_QUERIES]  # not only the easy ones
    if asked.size < ENOUGH:
        return bridge
    trial = _Trial(vectors, model_of, bridge, asked, placed, expected[asked], hubness, leave_out)
    own_model_hidden = trial.lent(everywhere=False)
    best, found = -1.0, bridge
    for width in _WIDTHS:
        for share in _SHARES if leave_out else (0.0,):
            above = trial.ranked(own_model_hidden, width, share).above
            score = float((1.0 / (1.0 + above)).mean())
            if score > best + 1e-4:
                best, found = score, replace(bridge, width=width, share=share)
    # what decides about a query is whether anybody named it, and whether a filter left what was named
    cases, hidden = [], []
    for everywhere in (False, True):
        near = trial.lent(everywhere=True) if everywhere else own_model_hidden
        trust = np.array([0.0 if n is None else n.trust(found.width) for n in near])
        for kept in (1.0, _FILTERED):
            one = trial.ranked(near, found.width, found.share, any_of=everywhere, kept=kept)
            signs = np.column_stack([contrast[asked], trust, one.standing])
            cases.append((signs, one.above < _FIRST_PAGE, one.lag, one.stands, one.right, one.known))
            hidden.append(np.full(asked.size, everywhere and kept == 1.0))
    signs, answered, *hits = (np.concatenate(part) for part in zip(*cases, strict=True))
    lag, stands, right, known = hits
    certainty = Certainty.learn(signs, answered, np.concatenate(hidden), (lag, stands, right, known))
    return replace(found, coverage=certainty)


class _Ranked(NamedTuple):
    """What came of asking: see `_Trial.ranked`. The last four are of each query's first ten, ``[queries, 10]``."""

    above: NDArray[np.int64]
    standing: NDArray[np.float64]
    lag: NDArray[np.float64]
    stands: NDArray[np.float64]
    right: NDArray[np.bool_]
    known: NDArray[np.bool_]


class _Trial:
    """Named logits, each asked for by its label among other logits, with labels hidden."""

    def __init__(
        self,
        vectors: Vectors,
        model_of: NDArray[np.int32],
        bridge: Bridge,
        asked: NDArray[np.int64],
        placed: NDArray[np.float32],
        expected: NDArray[np.float32],
        hubness: NDArray[np.float32],
        leave_out: LeaveOut | None,
    ) -> None:
        self._vectors, self._model_of, self._bridge, self._asked, self._placed = (
            vectors,
            model_of,
            bridge,
            asked,
            placed,
        )
        self._expected = expected
        rng = np.random.default_rng(4)
        self._target = bridge.rows[rng.integers(bridge.first[asked], bridge.first[asked + 1])]
        others = np.random.default_rng(3).permutation(model_of.size)[:_CANDIDATES]
        parts = [strengths(vectors(others[i : i + _ROWS])) for i in range(0, others.size, _ROWS)]
        self._strong, self._common = np.concatenate(parts), hubness[others]
        self._others, self._models = others, int(model_of.max(initial=-1)) + 1
        self._has_label = np.isin(others, bridge.rows)
        self._hubness = hubness
        self._named = [bridge.rows[bridge.first[label] : bridge.first[label + 1]] for label in asked.tolist()]
        self._rivals = np.stack([~np.isin(others, named) for named in self._named])
        self._mapped = leave_out(asked) if leave_out else np.zeros_like(expected)

    def lent(self, *, everywhere: bool) -> list[Near | None]:
        """Return what labels lend to each query when its own model's are hidden, or its own label ``everywhere``."""
        model_of, found = self._model_of, list[Near | None]()
        for label, row in zip(self._asked.tolist(), self._target.tolist(), strict=True):
            allowed = model_of != model_of[row]
            if not allowed[self._bridge.rows].any():
                allowed = np.ones(model_of.size, bool)  # one named model only: hide just the label itself
                allowed[self._named[len(found)]] = False
            without = label if everywhere else None
            found.append(self._bridge.nearest(self._placed[label], self._vectors, allowed, without))
        return found

    def ranked(
        self, near: Sequence[Near | None], width: float, share: float, *, any_of: bool = False, kept: float = 1.0
    ) -> _Ranked:
        """Return how many rivals come before each query's logit, or ``any_of`` those that carry its label.

        Also how far the best score stands out, and the same of the first ten hits; whether one is right is known of
        those that carry a label. Logits that carry the query's are no rivals. A filter leaves ``kept`` of the models.
        """
        fused = self._expected + np.float32(share) * self._mapped
        for i, one in enumerate(near):
            if one is not None:
                fused[i] += np.float32(counting(one.trust(width))) * one.side
        fused = unit(fused)
        right = self._named if any_of else [self._target[i : i + 1] for i in range(self._target.size)]
        rng = np.random.default_rng(5)
        parts = []
        every = fused @ self._strong.T - self._common
        for q, found, rows, rivals in zip(fused, every, right, self._rivals, strict=True):
            there = np.ones(self._models, bool) if kept == 1.0 else rng.random(self._models) < kept
            own = rows[there[self._model_of[rows]]]
            scores = (strengths(self._vectors(own)) @ q - self._hubness[own]).astype(np.float64)
            allowed = there[self._model_of[self._others]]
            moments = float(found.mean()), max(float(found.std()), 1e-9)  # of all, whatever the filter leaves
            others = found[allowed].astype(np.float64)
            parts.append(_one(scores, others, moments, rivals[allowed], self._has_label[allowed]))
        return _Ranked(*(np.stack(part) for part in zip(*parts, strict=True)))


def _one(
    own: NDArray[np.float64],
    others: NDArray[np.float64],
    moments: tuple[float, float],
    rivals: NDArray[np.bool_],
    labelled: NDArray[np.bool_],
) -> tuple[Any, ...]:
    """Return one query's row of `_Ranked` from the scores of its own logits and of the others."""
    mean, deviation = moments
    against, told = others[rivals], labelled[rivals]
    scores = np.concatenate([own, against, np.full(_FIRST_PAGE, -np.inf)])
    right = np.arange(scores.size) < own.size
    known = np.concatenate([np.ones(own.size, bool), told, np.zeros(_FIRST_PAGE, bool)])
    first = np.argsort(-scores, kind="stable")[:_FIRST_PAGE]
    best = float(scores[first[0]]) if np.isfinite(scores[first[0]]) else mean
    shown = np.where(np.isfinite(scores[first]), scores[first], mean)
    above = int((against > own.max()).sum()) if own.size else _MANY
    lag, stands = (best - shown) / deviation, (shown - mean) / deviation
    return np.int64(above), np.float64((best - mean) / deviation), lag, stands, right[first], known[first]
