"""Building the label bridge: which labels a gallery carries, how far each can be trusted, and how much they count.

Nothing but the gallery is used. A label is trusted by two signs: its logit answers the probes as an encoder expects of
its words more than it would of other labels' words (a local false discovery rate, Efron 2004), and as its namesakes in
other models do. The two numbers of the fusion are those that rank held-out named logits best when their own model's
labels are hidden.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from search import coverage
from search.bridge import LOGITS, Bridge, Near, counting, plain
from search.contrast import strengths, unit, zero_shot

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.calibration import Calibration
    from search.gallery import Gallery

NAMED = "named"
"""The label quality of a model whose labels are words."""

TRUST_WITHOUT_EVIDENCE = 0.8
"""Of labels in a gallery with too few to tell."""

_ENOUGH = 50  # labels below which nothing is learned from them
_MAP_LABELS = 200  # labels below which no map is fitted
_MAP_MOST = 20_000
_RIDGES = (1.0, 3.0, 10.0)  # per thousand labels
_WIDTHS, _SHARES = (0.05, 0.1, 0.2), (0.0, 0.15, 0.3, 0.6)
_QUERIES, _CANDIDATES = 300, 20_000
_ROWS = 4_096
_FIRST_PAGE = 10  # hits among which one must be right for a query to count as answered

Embed = Callable[[Sequence[str]], "NDArray[np.float32]"]


def build(gallery: Gallery, embed: Embed, probes: NDArray[np.float32], calibration: Calibration) -> Bridge | None:
    """Return the bridge of a version, or None when no model in it has honest labels.

    Args:
        gallery: the version's logits.
        embed: embeds texts, float32 ``[texts, dim]`` of unit length.
        probes: float32 ``[n, dim]``, the probes under the same encoder.
        calibration: of the version.
    """
    rows, words, label_of = _named(gallery)
    if not words:
        return None
    texts = embed(words)
    expected = zero_shot(texts @ probes.T, calibration.centre)
    trust = _trust(gallery, rows, label_of, expected, calibration.hubness)
    first, kept, weights = _namesakes(gallery, rows, label_of, trust, len(words))
    best = np.array([weights[a:b].max(initial=0.0) for a, b in pairwise(first.tolist())], np.float32)
    none = np.empty((0, probes.shape[0]), np.float16)
    bridge = Bridge(calibration.texts, none, best, first, kept, weights, none)
    placed = bridge.place(texts)
    bridge = replace(bridge, embeddings=placed.astype(np.float16))
    if len(words) < _ENOUGH:
        return bridge
    bridge, leave_out = _mapped(gallery, bridge, placed)
    contrast = calibration.contrast(texts @ probes.T)
    return _weighed(gallery, bridge, placed, expected, calibration.hubness, contrast, leave_out)


def _named(gallery: Gallery) -> tuple[NDArray[np.int64], list[str], NDArray[np.int64]]:
    """Return the rows with an honest label, the distinct labels, and which of them each row carries."""
    quality = np.array([q == NAMED for q in gallery.models.column("label_quality").to_pylist()])
    labels = gallery.logits.column("label").to_pylist()
    rows, words, of = [], dict[str, int](), []
    for row in np.flatnonzero(quality[gallery.model_of]).tolist():
        word = plain(labels[row])
        if word is not None:
            rows.append(row)
            of.append(words.setdefault(word, len(words)))
    return np.array(rows, np.int64), list(words), np.array(of, np.int64)


def _trust(
    gallery: Gallery,
    rows: NDArray[np.int64],
    label_of: NDArray[np.int64],
    expected: NDArray[np.float32],
    hubness: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return for each named row the probability that its label tells the truth, as far as an encoder can see.

    1 - lfdr with the labels of other rows as the null: ``1 - pi0 f0(s) / f(s)``, made monotone in the score s.
    """
    if rows.size < _ENOUGH:
        return np.full(rows.size, TRUST_WITHOUT_EVIDENCE, np.float32)
    rng = np.random.default_rng(0)
    own, other = np.empty(rows.size, np.float32), []
    for start in range(0, rows.size, _ROWS):
        part = slice(start, start + _ROWS)
        strong = strengths(gallery.vectors(rows[part]))
        of = label_of[part]
        own[part] = np.einsum("ij,ij->i", strong, expected[of]) - hubness[rows[part]]
        for _ in range(4):
            mixed = label_of[rng.integers(0, rows.size, of.size)]
            scores = np.einsum("ij,ij->i", strong, expected[mixed]) - hubness[rows[part]]
            other.append(scores[mixed != of])
    null = np.concatenate(other)
    if not null.size:
        return np.full(rows.size, TRUST_WITHOUT_EVIDENCE, np.float32)
    grid = np.linspace(min(own.min(), null.min()), max(own.max(), null.max()), 256)
    density, density0 = _density(own, grid), _density(null, grid)
    wrong = min(1.0, 2.0 * float((own < np.median(null)).mean()))  # Storey's estimate at the null's median
    right = np.maximum.accumulate(np.clip(1.0 - wrong * density0 / density, 0.0, 1.0))
    return np.asarray(np.interp(own, grid, right), np.float32)


def _density(values: NDArray[np.float32], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Gaussian kernel density estimate on the grid, Silverman's bandwidth, from at most 20,000 values."""
    sample = values[:: max(1, values.size // 20_000)].astype(np.float64)
    width = max(0.9 * float(sample.std()) * sample.size**-0.2, 1e-4)
    kernel = np.exp(-0.5 * ((grid[:, None] - sample[None]) / width) ** 2)
    density: NDArray[np.float64] = kernel.mean(axis=1) / width + 1e-9
    return density


def _namesakes(
    gallery: Gallery, rows: NDArray[np.int64], label_of: NDArray[np.int64], trust: NDArray[np.float32], labels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Return each label's most trusted rows; namesakes in other models that answer alike raise each other's trust."""
    carriers = defaultdict(list)
    for i, label in enumerate(label_of.tolist()):
        carriers[label].append(i)
    first, kept, weights = [0], [], []
    for label in range(labels):
        some = np.array(sorted(carriers[label], key=lambda i: (-trust[i], rows[i]))[: 4 * LOGITS])
        weight = trust[some].astype(np.float64)
        if some.size > 2:
            strong = strengths(gallery.vectors(rows[some]))
            alike = np.maximum(strong @ strong.T, 0.0)
            np.fill_diagonal(alike, 0.0)
            support = alike @ (weight + 0.1) / ((weight + 0.1).sum() - weight - 0.1)
            weight = np.sqrt((weight + 0.05) * support / max(float(support.max()), 1e-9)).clip(0.0, 1.0)
        order = np.lexsort((rows[some], -weight))[:LOGITS]
        kept.append(rows[some][order])
        weights.append(weight[order])
        first.append(first[-1] + order.size)
    return np.array(first, np.int64), np.concatenate(kept), np.concatenate(weights).astype(np.float32)


def _prototypes(gallery: Gallery, bridge: Bridge, labels: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the strong responses of some labels' logits, averaged by trust, float32 ``[labels, n]`` of unit length."""
    out = np.zeros((labels.size, gallery.n_probes), np.float32)
    for i, label in enumerate(labels.tolist()):
        own = slice(int(bridge.first[label]), int(bridge.first[label + 1]))
        out[i] = bridge.weights[own] @ strengths(gallery.vectors(bridge.rows[own]))
    return unit(out)


LeaveOut = Callable[["NDArray[np.int64]"], "NDArray[np.float32]"]


def _mapped(gallery: Gallery, bridge: Bridge, placed: NDArray[np.float32]) -> tuple[Bridge, LeaveOut | None]:
    """Return the bridge with a ridge regression from text to strong responses, and its leave-one-label-out predictions.

    The penalty is the one whose leave-one-out predictions (from the hat matrix) are nearest to the truth.
    """
    chosen = np.flatnonzero(bridge.trust > 0)
    if chosen.size > _MAP_MOST:
        chosen = np.sort(np.random.default_rng(0).choice(chosen, _MAP_MOST, replace=False))
    if chosen.size < _MAP_LABELS:
        return bridge, None
    x, weight = placed[chosen], bridge.trust[chosen][:, None]
    cross = np.zeros((x.shape[1], gallery.n_probes), np.float32)
    for start in range(0, chosen.size, 512):
        part = slice(start, start + 512)
        cross += (x[part] * weight[part]).T @ _prototypes(gallery, bridge, chosen[part])
    gram = (x * weight).T @ x
    tested = np.random.default_rng(1).permutation(chosen.size)[:_QUERIES]
    truth = _prototypes(gallery, bridge, chosen[tested])

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
        return left_out(penalty, i, _prototypes(gallery, bridge, labels))

    return replace(bridge, mapped=(mapped / scale).astype(np.float16)), leave_out


def _weighed(
    gallery: Gallery,
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
    if asked.size < _ENOUGH:
        return bridge
    trial = _Trial(gallery, bridge, asked, placed, expected[asked], hubness, leave_out)
    own_model_hidden = trial.lent(everywhere=False)
    best, found = -1.0, bridge
    for width in _WIDTHS:
        for share in _SHARES if leave_out else (0.0,):
            above, _ = trial.ranked(own_model_hidden, width, share)
            score = float((1.0 / (1.0 + above)).mean())
            if score > best + 1e-4:
                best, found = score, replace(bridge, width=width, share=share)
    # what decides about a query is whether anybody named it, so both cases are learned from
    cases = []
    for near in (own_model_hidden, trial.lent(everywhere=True)):
        any_of = near is not own_model_hidden
        above, standing = trial.ranked(near, found.width, found.share, any_of=any_of)
        trust = np.array([0.0 if n is None else n.trust(found.width) for n in near])
        cases.append((np.column_stack([contrast[asked], trust, standing]), above < _FIRST_PAGE))
    signs, answered = (np.concatenate(part) for part in zip(*cases, strict=True))
    return replace(found, coverage=coverage.fit(signs, answered))


class _Trial:
    """Named logits, each asked for by its label among other logits, with labels hidden."""

    def __init__(
        self,
        gallery: Gallery,
        bridge: Bridge,
        asked: NDArray[np.int64],
        placed: NDArray[np.float32],
        expected: NDArray[np.float32],
        hubness: NDArray[np.float32],
        leave_out: LeaveOut | None,
    ) -> None:
        self._gallery, self._bridge, self._asked, self._placed = gallery, bridge, asked, placed
        self._expected = expected
        rng = np.random.default_rng(4)
        self._target = bridge.rows[rng.integers(bridge.first[asked], bridge.first[asked + 1])]
        others = np.random.default_rng(3).permutation(len(gallery))[:_CANDIDATES]
        parts = [strengths(gallery.vectors(others[i : i + _ROWS])) for i in range(0, others.size, _ROWS)]
        self._strong, self._common = np.concatenate(parts), hubness[others]
        self._hubness = hubness
        self._named = [bridge.rows[bridge.first[label] : bridge.first[label + 1]] for label in asked.tolist()]
        self._rivals = np.stack([~np.isin(others, named) for named in self._named])
        self._mapped = leave_out(asked) if leave_out else np.zeros_like(expected)

    def lent(self, *, everywhere: bool) -> list[Near | None]:
        """Return what labels lend to each query when its own model's are hidden, or its own label ``everywhere``."""
        gallery, found = self._gallery, list[Near | None]()
        for label, row in zip(self._asked.tolist(), self._target.tolist(), strict=True):
            allowed = gallery.model_of != gallery.model_of[row]
            if not allowed[self._bridge.rows].any():
                allowed = np.ones(len(gallery), bool)  # one named model only: hide just the label itself
                allowed[self._named[len(found)]] = False
            without = label if everywhere else None
            found.append(self._bridge.nearest(self._placed[label], gallery.vectors, allowed, without))
        return found

    def ranked(
        self, near: Sequence[Near | None], width: float, share: float, *, any_of: bool = False
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return how many rivals come before each query's logit, or ``any_of`` those that carry its label.

        Also how far the best score stands out. Logits that carry the label are no rivals.
        """
        fused = self._expected + np.float32(share) * self._mapped
        for i, one in enumerate(near):
            if one is not None:
                fused[i] += np.float32(counting(one.trust(width))) * one.side
        fused = unit(fused)
        right = self._named if any_of else [self._target[i : i + 1] for i in range(self._target.size)]
        vectors = self._gallery.vectors
        own = np.array(
            [(strengths(vectors(rows)) @ q - self._hubness[rows]).max() for q, rows in zip(fused, right, strict=True)]
        )
        scores = (fused @ self._strong.T - self._common).astype(np.float64)
        above = ((scores > own[:, None]) & self._rivals).sum(axis=1)
        return above, coverage.standing(np.maximum(scores.max(axis=1), own), scores)
