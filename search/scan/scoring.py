"""A query as one number per probe, and what each scoring compares: a weighted sum of squares over some probes.

With q the query, g a logit of the gallery and w the weights (they sum to 1), the distance is
``sum over the columns of w * (q - g)^2``: a mean of squares, so that distances of different queries compare. Of the
scorings that sum the logit's positive squares in place of differences, the weights have length 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workspace import QueryError
from workspace.text import printable

_SHOWN = 100  # characters of what was read of a text, in a note


@dataclass(frozen=True, eq=False)
class Descriptor:
    """What a query answers on every probe, z-scored (METHOD: phi = (r - mean r) / std r).

    Attributes:
        vector: float32 ``[n_probes]``, mean 0 and standard deviation 1 over the probes.
        mean: mean of the raw values, so that ``raw = vector * std + mean``.
        std: standard deviation (ddof = 0) of the raw values.
        about: what was asked, for people.
        kind: ``text``, ``image``, ``logit`` or ``vector``.
        model: ``(repo_id, sha)`` of the model a logit query comes from, else None.
        logit: index of that logit, else None.
        sides: what else is known to look for, by where it comes from: float32 ``[n_probes]``, not negative, the
            zero-shot side of length 1. Texts and images have some; `search.scan.scoring.bridged` adds them up.
        read: the part of a text that the encoder reads, when that is not all of it; else None.
        signs: of a text, its best contrast with a probe and the trust in the nearest label; see `Coverage`.
    """

    vector: NDArray[np.float32] = field(repr=False)
    mean: float = 0.0
    std: float = 1.0
    about: str = ""
    kind: str = "vector"
    model: tuple[str, str] | None = None
    logit: int | None = None
    sides: Mapping[str, NDArray[np.float32]] = field(default_factory=dict, repr=False)
    signs: tuple[float, float] | None = None
    read: str | None = None

    @classmethod
    def from_raw(cls, raw: Any, *, about: str = "", kind: str = "vector") -> Descriptor:
        """Z-score ``raw``, one finite number per probe; raises `QueryError` when that is impossible."""
        values = np.asarray(raw, dtype=np.float64)
        if values.ndim != 1 or values.size == 0:
            raise QueryError(f"a descriptor is one number per probe, not an array of shape {values.shape}")
        if not np.isfinite(values).all():
            raise QueryError("the query's answers to the probes are not all finite numbers")
        mean, std = float(values.mean()), float(values.std())
        if std <= 1e-12 * max(1.0, abs(mean)):
            raise QueryError("the query answers every probe alike, so there is nothing to rank by")
        return cls(((values - mean) / std).astype(np.float32), mean, std, about, kind)

    @property
    def note(self) -> str:
        """What somebody who asked should know: that a text was cut. Empty otherwise."""
        if self.read is None:
            return ""
        shown = self.read if len(self.read) <= _SHOWN else f"{self.read[: _SHOWN // 2]} … {self.read[-_SHOWN // 2 :]}"
        left = len(self.about) - len(self.read)
        return (
            f"the text is longer than the encoder reads: it read “{printable(shown, 2 * _SHOWN)}” and left out the "
            f"last {left} of {len(self.about)} characters; say it in fewer words"
        )

    @property
    def raw(self) -> NDArray[np.float32]:
        """The values before z-scoring, float32 ``[n_probes]``."""
        return (self.vector.astype(np.float64) * self.std + self.mean).astype(np.float32)


ZERO_SHOT, BRIDGE, MAP = "zero-shot", "labels", "map"
"""The three sides of a text query: what an encoder sees in the probes, other models' labels, and the learned map."""

_NONE: NDArray[np.float32] = np.empty(0, np.float32)


@dataclass(frozen=True, eq=False)
class Comparison:
    """A query compiled for the scan."""

    columns: NDArray[np.int32]  # int32 ``[k]``, the probes compared, ascending
    targets: NDArray[np.float32]  # float32 ``[k]``, the query's values there
    weights: NDArray[np.float32]  # float32 ``[k]``, summing to 1; of length 1 when ``positive``
    # compare raw responses (descriptor times std plus mean) in place of z-scored ones; read exactly, unscanned
    raw: bool = False
    positive: bool = False  # sum ``w * max(g, 0)^2`` in place of squared differences; ``scale`` is then negative
    # calibration: the distance is the mean of squares times ``scale`` plus ``shift`` of the logit, float32 ``[logits]``
    # in the index's order, ``scale`` positive unless said; both empty without calibration
    scale: NDArray[np.float32] = field(default_factory=lambda: _NONE)
    shift: NDArray[np.float32] = field(default_factory=lambda: _NONE)
    # a logit's question in whitened directions, int8 ``[rank]``, whose cosine is taken off; see `search.scan.whitening`
    whitened: NDArray[np.int8] | None = None


def probelog(query: Descriptor, k: int) -> Comparison:
    """ProbeLog's discrepancy: the mean squared difference over the ``k`` probes where the query is largest.

    Source: Kahana et al., arXiv 2502.09619, section 3 (top-k discrepancy); squares averaged, not rooted. Asymmetric:
    the probes are the query's. Of equally large values the lower probe number is taken.
    """
    return _compare(query.vector, _strongest(query.vector, k))


def full(query: Descriptor, k: int) -> Comparison:
    """Full-query baseline of the same paper: all probes, whatever ``k``. Ranks as Pearson's correlation does."""
    del k
    return _compare(query.vector, np.arange(query.vector.size, dtype=np.int32))


def unnormalised(query: Descriptor, k: int) -> Comparison:
    """Ablation of the same paper: `probelog` on raw responses, without z-scoring. Near 0 % for text."""
    comparison = _compare(query.raw, _strongest(query.vector, k))
    return Comparison(comparison.columns, comparison.targets, comparison.weights, raw=True)


def strong(query: Descriptor, k: int) -> Comparison:
    """Cosine of squared positive responses over the query's ``k`` strongest probes; distance is 1 minus it.

    ``1 - sum over S of q+^2 g+^2 / (|q+^2 on S| |g+^2|)`` with x+ = max(x, 0): a logit scores by the share of its
    strong responses that fall on the query's strong probes, so one strong match counts for more than many weak ones.
    Ours; the figures are in docs/results.md.
    The logit's norm, over all probes, is put in by `search.scan.gallery.Gallery.compile`.
    """
    columns = _strongest(query.vector, k)
    weights = np.maximum(query.vector[columns].astype(np.float64), 0.0) ** 2
    norm = float(np.linalg.norm(weights))
    if norm == 0.0:
        raise QueryError("the query answers no probe strongly, so there is nothing to rank by")
    return Comparison(columns, query.vector[columns], (weights / norm).astype(np.float32), positive=True)


def contrastive(query: Descriptor, k: int) -> Comparison:
    """Zero-shot side of a text or an image alone: contrast against a bank of concepts, cubed (`search.text.contrast`).

    As `strong` on the gallery's side, less each logit's hubness, which `search.scan.gallery.Gallery.compile` puts in. A
    logit or a vector asks by its own positive values to the power of `OWN_POWER` (`search.scan.peers`), and by the
    cosine of whitened ones (`search.scan.whitening`).
    """
    return _evidence(query, [ZERO_SHOT], k)


def bridged(query: Descriptor, k: int) -> Comparison:
    """`contrastive`, and what other models' honest labels and the learned map expect (`search.text.labels`): the sum.

    The default. Ours; METHOD.md section 5 measured its parts, docs/results.md this.
    """
    return _evidence(query, list(query.sides), k)


def _evidence(query: Descriptor, sides: list[str], k: int) -> Comparison:
    found = [query.sides[side].astype(np.float64) for side in sides if side in query.sides]
    weights = np.sum(found, axis=0) if found else np.maximum(query.vector.astype(np.float64), 0.0) ** OWN_POWER
    norm = float(np.linalg.norm(weights))
    if norm == 0.0:
        raise QueryError("the query expects nothing of any probe, so there is nothing to rank by")
    weights /= norm
    columns = _strongest(weights.astype(np.float32), k)
    columns = columns[weights[columns] > 0]
    return Comparison(columns, query.vector[columns], weights[columns].astype(np.float32), positive=True)


OWN_POWER = 1.25
"""Exponent of a logit's own responses when it asks: it is no guess, so more of its weak ones count than of a text's."""

Scoring = Callable[[Descriptor, int], Comparison]
SCORINGS: dict[str, Scoring] = {
    scoring.__name__: scoring for scoring in (bridged, contrastive, full, probelog, strong, unnormalised)
}
"""Every scoring by the name that ``scoring=`` and the configuration take."""

CALIBRATED = {"bridged", "contrastive"}
"""Scorings that subtract a logit's hubness."""

PROBES = {"bridged": 512, "contrastive": 512, "probelog": 64, "strong": 64, "unnormalised": 64}
"""Probes compared at most when nobody says how many; of the scorings not listed all."""


def compile_query(query: Descriptor, scoring: str, k: int | None) -> Comparison:
    """Return the comparison of ``query`` under the scoring named; raises `QueryError` for an unknown one or k < 1.

    ``k`` None means the scoring's own number of probes (`PROBES`).
    """
    if scoring not in SCORINGS:
        raise QueryError(f"unknown scoring '{scoring}': choose one of {', '.join(sorted(SCORINGS))}")
    if k is not None and k < 1:
        raise QueryError(f"k must be at least 1 probe, not {k}")
    return SCORINGS[scoring](query, PROBES.get(scoring, query.vector.size) if k is None else k)


def score_of(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 1 / (1 + distance): 1 for a perfect match, towards 0 for none. Higher is better."""
    return 1.0 / (1.0 + distance)


def _strongest(values: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Return the positions of the ``k`` largest values, ascending; of equal ones the first."""
    if k >= values.size:
        return np.arange(values.size, dtype=np.int32)
    least = np.partition(values, values.size - k)[values.size - k]
    above, equal = np.flatnonzero(values > least), np.flatnonzero(values == least)
    return np.sort(np.concatenate([above, equal[: k - above.size]])).astype(np.int32)


def _compare(values: NDArray[np.float32], columns: NDArray[np.int32]) -> Comparison:
    weights = np.full(columns.size, 1.0 / columns.size, np.float32)
    return Comparison(columns, np.ascontiguousarray(values[columns], np.float32), weights)
