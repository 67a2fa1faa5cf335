"""What `complete` is asked for, and what its fit hands on; without torch, spared where nothing is to be filled in."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from workspace import ConfigError

if TYPE_CHECKING:
    from completion.factors import Factors

Method = Literal["em", "mean", "soft-impute", "anchors"]

LEAST_PROBES = 32
"""Probes a model must have been run on to be completed; see docs/complete.md for what fewer give."""
LEAST_SHARE = 0.015
"""The same as a share of all probes."""


@dataclass(frozen=True)
class Settings:
    """Options of `complete`, one for each of the command line.

    Attributes:
        method: em, or a baseline: mean, soft-impute, anchors.
        rank: latent dimensions; chosen on hidden responses when None.
        ridge: multiple of the prior precision that is learned for each column of the basis.
        iterations: passes of EM at most.
        device: cpu, cuda ...; the best there is when empty.
        refit: fit anew although the gallery has hardly changed.
        seed: of the start.
    """

    method: Method = "em"
    rank: int | None = None
    ridge: float = 1.0
    iterations: int = 8
    device: str = ""
    refit: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"rank must be at least 1, not {self.rank}")
        if not 0 < self.ridge < math.inf:
            raise ConfigError(f"ridge must be above 0, not {self.ridge}")
        if self.iterations < 0:
            raise ConfigError(f"iterations must be at least 0, not {self.iterations}")

    def chosen_device(self) -> str:
        """Return the device to compute on."""
        if self.device:
            return self.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def fit_key(self) -> str:
        """Return what makes two fits to one gallery the same; ``doubt`` is a word of this way to fit."""
        return f"{self.method}:{self.rank}:{self.ridge}:{self.iterations}:{self.seed}:doubt"


def least_probes(n: int) -> int:
    """Return how many of ``n`` probes a model must have been run on to be completed."""
    return max(LEAST_PROBES, math.ceil(LEAST_SHARE * n))


@dataclass(frozen=True)
class Trained:
    """What completes the partial models.

    Attributes:
        factors: None when there are none.
        digest: what descriptors made with them depend on.
        reason: why there are none; empty when there are.
        diagnostics: for the run's manifest.
    """

    factors: Factors | None
    digest: str = ""
    reason: str = ""
    diagnostics: dict[str, Any] = field(default_factory=dict)
