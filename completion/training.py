"""Deciding whether to fit, fitting, and keeping the factors with what they were fitted to."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from completion import methods
from completion.factors import Factors, load
from completion.fit import Fit, affordable_rank, fit, largest_rank
from completion.gallery import Gallery, Known, Model
from completion.settings import LEAST_LOGITS, LEAST_MODELS, Settings
from completion.validation import Split
from workspace import ConfigError, Workspace

_LOG = logging.getLogger(__name__)

CHANGE = 0.05
"""Share of the observed entries that must be new, or gone, before factors are fitted anew: less hardly moves them."""
MANY_MASKS = 1000
"""Sets of probes above which ranks over 128 are not tried: the start of a large gallery would take minutes."""
GRAM_BYTES = 2 << 30
"""What a probe's Gram matrices may take in all: 4,000 probes at rank 362."""


@dataclass(frozen=True)
class Trained:
    """What completes the partial models.

    Attributes:
        factors: None when there are none.
        digest: what descriptors made with them depend on.
        reason: why there are none; empty when there are.
        r2: on hidden responses when it was fitted; empty when it was not.
        diagnostics: for the run's manifest.
    """

    factors: Factors | None
    digest: str = ""
    reason: str = ""
    r2: float | str = ""
    diagnostics: dict[str, Any] = field(default_factory=dict)


def train(
    workspace: Workspace,
    known: list[Known],
    refused: dict[Model, str],
    sources: list[Path],
    n_probes: int,
    settings: Settings,
    *,
    dry_run: bool,
    progress: bool,
) -> Trained:
    """Return the factors of the gallery: those kept, when it has hardly changed, else new ones, which are kept."""
    usable = [model for model in known if model.key not in refused and model.logits]
    logits = sum(model.logits for model in usable)
    probe_set = workspace.probe_set
    path = workspace.factors_path(probe_set)
    if len(usable) < LEAST_MODELS or logits < LEAST_LOGITS:
        return Trained(
            None,
            reason=f"factors take {LEAST_MODELS} models and {LEAST_LOGITS} logits, here are {len(usable)} and "
            f"{logits}: probe more models, or these on all probes",
        )
    kept = load(path, probe_set, n_probes)
    entries = sum(model.logits * model.observed for model in usable)
    if kept is not None:
        factors, metadata = kept
        same = metadata.get("settings") == settings.fit_key()
        grown = abs(entries - int(metadata.get("entries", "0"))) > CHANGE * entries
        if (same and not grown and not settings.refit) or dry_run:
            told = json.loads(metadata.get("diagnostics", "{}"))
            return Trained(factors.to(settings.chosen_device()), factors.digest(), "", told.get("r2", ""), told)
    if dry_run:
        return Trained(None, digest="dry run")
    warm = kept[0] if kept is not None and not settings.refit else None
    found = _fit(usable, sources, n_probes, settings, warm, progress)
    diagnostics = _diagnostics(found, settings)
    said = {"settings": settings.fit_key(), "entries": str(entries), "models": str(len(usable))}
    found.factors.save(path, probe_set, {**said, "diagnostics": json.dumps(diagnostics), "method": settings.method})
    return Trained(found.factors, found.factors.digest(), "", diagnostics["r2"], diagnostics)


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
        return methods.probe_mean(gallery, split, cases, device=device)
    if settings.method == "soft-impute":
        rank = rank or min(128, largest)
        return methods.soft_impute(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
    if settings.method == "anchors":
        if whole < LEAST_LOGITS:
            raise ConfigError(f"{whole} logits were run on all probes, --method anchors takes {LEAST_LOGITS}: use em")
        rank = rank or min(128, whole // 2)
        return methods.anchor_ridge(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
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
