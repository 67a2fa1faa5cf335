"""A query in the form that search compares: one number per probe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from workspace import QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray


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
            zero-shot side of length 1. Texts and images have some; `search.scoring.bridged` adds them up.
        signs: of a text, its best contrast with a probe and the trust in the nearest label; see `search.coverage`.
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
    def raw(self) -> NDArray[np.float32]:
        """The values before z-scoring, float32 ``[n_probes]``."""
        return (self.vector.astype(np.float64) * self.std + self.mean).astype(np.float32)
