"""How `complete` fits, whether it has to, and the factors that it keeps with what they were fitted to."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from completion import baselines
from completion.factors import Factors, load
from completion.fit import Fit, affordable_rank, fit, largest_rank
from completion.responses import Gallery, Known
from completion.validation import Split
from workspace import ConfigError, Workspace

LEAST_PROBES = 32
"""Probes a model must have been run on to be completed; see docs/complete.md for what fewer give."""
LEAST_SHARE = 0.015
"""The same as a share of all probes."""
LEAST_MODELS = 2
"""Models a fit needs: one alone says nothing about the probes it was not run on."""
LEAST_LOGITS = 32
"""Searchable logits a fit needs."""
CHANGE = 0.05
"""Share of the observed entries that must be new, or gone, before factors are fitted anew: less hardly moves them."""
MANY_MASKS = 1000
"""Sets of probes above which ranks over 128 are not tried: the start of a large gallery would take minutes."""
GRAM_BYTES = 2 << 30
"""What a probe's Gram matrices may take in all: 4,000 probes at rank 362."""


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

    method: baselines.Method = "em"
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
        import torch

        return self.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def fit_key(self) -> str:
        """Return what makes two fits to one gallery the same."""
        return f"{self.method}:{self.rank}:{self.ridge}:{self.iterations}:{self.seed}"


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


def train(
    workspace: Workspace, usable: list[Known], sources: list[Path], n_probes: int, settings: Settings, *,
    dry_run: bool, progress: bool,
) -> Trained:  # fmt: skip
    """Return the factors of the gallery: those kept, when it has hardly changed, else new ones, which are kept.

    Args:
        workspace: where they are kept.
        usable: the models to fit to.
        sources: files of responses.
        n_probes: probes in all.
        settings: how to fit.
        dry_run: fit nothing.
        progress: show bars on stderr.
    """
    logits = sum(model.logits for model in usable)
    if len(usable) < LEAST_MODELS or logits < LEAST_LOGITS:
        return Trained(
            None,
            reason=f"factors take {LEAST_MODELS} models and {LEAST_LOGITS} logits, here are {len(usable)} and "
            f"{logits}: probe more models, or these on all probes",
        )
    probe_set = workspace.probe_set
    path = workspace.factors_path(probe_set)
    kept = load(path, probe_set, n_probes) if dry_run or not settings.refit else None
    entries = sum(model.logits * model.observed for model in usable)
    if kept is not None:
        factors, about = kept
        same = about.get("settings") == settings.fit_key()
        grown = abs(entries - int(about.get("entries", "0"))) > CHANGE * entries
        if (same and not grown) or dry_run:
            diagnostics = json.loads(about.get("diagnostics", "{}"))
            return Trained(factors.to(settings.chosen_device()), factors.digest(), "", diagnostics)
    if dry_run:
        return Trained(None, digest="dry run")
    found = _fit(usable, sources, n_probes, settings, kept[0] if kept else None, progress)
    diagnostics = _diagnostics(found, settings)
    about = {"settings": settings.fit_key(), "entries": str(entries), "models": str(len(usable))}
    found.factors.save(path, probe_set, {**about, "diagnostics": json.dumps(diagnostics), "method": settings.method})
    return Trained(found.factors, found.factors.digest(), "", diagnostics)


def _fit(
    usable: list[Known], sources: list[Path], n: int, settings: Settings, warm: Factors | None, progress: bool
) -> Fit:
    device = settings.chosen_device()
    gallery = Gallery(sources, usable)
    split = Split({model.key: model.observed for model in usable}, n)
    logits = sum(model.logits for model in usable)
    whole = sum(model.logits for model in usable if model.observed == n)
    masks = len({model.key for model in usable if model.observed < n} | split.measured)
    largest = min(largest_rank(logits), n)
    rank = settings.rank
    if rank is not None and (min(masks, n) * rank * rank * 4 > GRAM_BYTES or rank > n):
        raise ConfigError(f"rank {rank} takes more than {GRAM_BYTES >> 30} GiB for {n} probes: ask for less")
    cases = split.cases(gallery, device)
    if settings.method == "mean":
        return baselines.probe_mean(gallery, split, cases, device=device)
    if settings.method == "soft-impute":
        rank = rank or min(128, largest)
        return baselines.soft_impute(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
    if settings.method == "anchors":
        if whole < LEAST_LOGITS:
            raise ConfigError(f"{whole} logits were run on all probes, --method anchors takes {LEAST_LOGITS}: use em")
        rank = rank or min(128, whole // 2)
        return baselines.anchor_ridge(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
    return fit(
        gallery,
        split,
        cases,
        rank=rank,
        largest=largest if masks <= MANY_MASKS else min(largest, 128),
        affordable=affordable_rank(n, masks),
        ridge=settings.ridge,
        # Where nothing is missing the start is the answer: principal components (Tipping and Bishop 1999).
        iterations=0 if whole == logits else settings.iterations,
        warm=warm,
        anchors=LEAST_LOGITS <= whole < logits,
        seed=settings.seed,
        device=device,
        progress=progress,
    )


def _diagnostics(found: Fit, settings: Settings) -> dict[str, Any]:
    """Return what a manifest says of a fit; quantiles are the 0, 10, 25, 50, 75, 90 and 100 % ones."""
    measured = found.measured
    return {
        "method": settings.method,
        "rank": found.factors.rank,
        "r2": round(measured.r2, 5),
        "r2_per_iteration": [round(value, 5) for value in found.history],
        "r2_by_model_quantiles": _quantiles(measured.by_model),
        "r2_by_probe_quantiles": _quantiles(measured.by_probe),
        "squared_error_over_variance": round(measured.calibration, 4),
        "log_likelihood": round(measured.log_likelihood, 5),
        "noise_quantiles": _quantiles(found.factors.noise.tolist()),
        "choices": found.log,
    }


def _quantiles(values: list[float]) -> list[float]:
    if not values:
        return []
    return [round(float(q), 4) for q in np.quantile(values, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1])]
