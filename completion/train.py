"""How `complete` fits, whether it has to, and the factors that it keeps with what they were fitted to.

* ``em``: `completion.fit`, the default.
* ``mean``: every probe's mean; factors without a basis.
* ``anchors``: the leading directions of the fully probed models, each partial model by ridge regression on them.
* ``soft-impute``: nuclear-norm regularisation (Mazumder, Hastie and Tibshirani 2010), in memory.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from completion.factors import Block, Factors, Solved, load
from completion.fit import GAIN, WIDE, Fit, affordable_rank, fit, largest_rank, subspace
from completion.responses import Gallery, Known
from completion.settings import Settings, Trained
from completion.validation import Blocks, Case, Measured, Split, calibrated, measure
from workspace import ConfigError, Workspace, WorkspaceError

SOFT_IMPUTE_ENTRIES = 100_000_000
"""Logits times probes that soft-impute may hold: 400 MB, and two copies in work."""
THRESHOLDS = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25)
"""Thresholds tried, in units of the largest singular value that noise alone would have; each starts from the last."""
STEPS = 8
"""Iterations at each threshold."""


def probe_mean(blocks: Blocks, split: Split, cases: list[Case], *, device: str) -> Fit:
    """Return factors without a basis: every entry not run is its probe's mean."""
    factors = subspace(blocks, split, 1, seed=0, device=device)
    spread = factors.noise + factors.basis.square().sum(1)
    found, measured = calibrated(Factors(factors.mean, factors.basis[:, :0], spread), cases)
    return Fit(found, measured, [measured.r2])


def anchor_ridge(blocks: Blocks, split: Split, cases: list[Case], *, rank: int, seed: int, device: str) -> Fit:
    """Return the leading directions of the fully probed models; the noise is the ridge of the regression on them."""
    factors, measured = calibrated(subspace(blocks, split, rank, seed=seed, device=device, full=0), cases)
    return Fit(factors, measured, [measured.r2])


def soft_impute(blocks: Blocks, split: Split, cases: list[Case], *, rank: int, seed: int, device: str) -> Fit:
    """Return the factors of the soft-impute solution, its threshold chosen on hidden entries.

    Each step replaces what was not run by the last estimate and shrinks the singular values by the threshold. At the
    fixed point ``U S V'`` each row is the ridge regression of its observed entries on ``B = V S^(1/2)`` with the
    threshold as ridge (Hastie, Mazumder, Lee and Zadeh 2015, lemma 1): factors with basis B and that noise.

    Raises `WorkspaceError` when the gallery is too large to hold.
    """
    n = split.n
    kept = [split.kept(block) for block in blocks()]
    logits = sum(len(block.values) for block in kept)
    if logits * n > SOFT_IMPUTE_ENTRIES:
        raise WorkspaceError(
            f"soft-impute holds all of {logits} x {n} responses in memory: for more than "
            f"{SOFT_IMPUTE_ENTRIES} use --method em, which streams"
        )
    matrix, mask = torch.zeros(logits, n, device=device), torch.zeros(logits, n, dtype=torch.bool, device=device)
    start = 0
    for block in kept:
        rows = slice(start, start + len(block.values))
        matrix[rows, block.observed] = block.values.to(device)
        mask[rows, block.observed] = True
        start = rows.stop
    count = mask.sum(0)
    mean = matrix.sum(0) / (count + 10.0)
    matrix = torch.where(mask, matrix - mean, 0.0)
    noise = float(matrix.square().sum() / mask.sum()) ** 0.5 * float(mask.float().mean()) ** 0.5
    edge = noise * (math.sqrt(logits) + math.sqrt(n))  # largest singular value of a matrix of such noise
    directions = torch.linalg.qr(torch.randn(n, rank, generator=torch.Generator().manual_seed(seed)))[0].to(device)
    left = torch.zeros(logits, rank, device=device)
    history: list[float] = []
    best: tuple[Factors, Measured] | None = None
    for times in THRESHOLDS:
        threshold = edge * times
        for _ in range(STEPS):
            left, values, directions = _step(matrix, mask, left, directions, threshold)
        found = Fixed(mean, directions * values.sqrt(), torch.full((n,), threshold, device=device))
        measured = measure(found.complete, cases, n)
        history.append(measured.r2)
        if best is not None and measured.r2 < best[1].r2 + GAIN:
            break
        best = found, measured
    assert best is not None
    # Basis and noise scaled together complete alike; their scale is what makes the deviations right.
    scale = best[1].calibration
    scaled = Fixed(mean, best[0].basis * scale**0.5, best[0].noise * scale)
    return Fit(scaled, measure(scaled.complete, cases, n), history)


class Fixed(Factors):
    """Factors whose noise is the same for every model: soft-impute has one threshold for all rows."""

    def complete(self, block: Block, _: Solved | None = None) -> tuple[Tensor, Tensor]:
        """Return posterior means and variances; see `Factors.complete`."""
        latent, covariance = self.posterior(block.observed, block.values)
        values = self.mean + latent @ self.basis.T
        variance = self.noise + ((self.basis @ covariance) * self.basis).sum(1)
        values[:, block.observed] = block.values
        variance[block.observed] = 0.0
        return values, variance


def _step(
    matrix: Tensor, mask: Tensor, left: Tensor, directions: Tensor, threshold: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``U S``, S and V after one step; the singular vectors by one round of subspace iteration, warm."""
    filled = torch.where(mask, matrix, left @ directions.T)
    basis = torch.linalg.qr(filled @ directions)[0]
    u, s, vh = torch.linalg.svd(basis.T @ filled, full_matrices=False)
    values = (s - threshold).clamp_min(0.0)
    return (basis @ u) * values, values, vh.T


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
    split = Split({m.key: m.observed for m in usable}, n, {m.key: m.logits for m in usable})
    logits = sum(model.logits for model in usable)
    whole = sum(model.logits for model in usable if model.observed == n)
    broad = sum(model.logits for model in usable if model.observed == n and model.logits >= WIDE)
    masks = len({model.key for model in usable if model.observed < n} | split.measured)
    largest = min(largest_rank(logits), n)
    rank = settings.rank
    if rank is not None and (min(masks, n) * rank * rank * 4 > GRAM_BYTES or rank > n):
        raise ConfigError(f"rank {rank} takes more than {GRAM_BYTES >> 30} GiB for {n} probes: ask for less")
    cases = split.cases(gallery, device)
    if settings.method == "mean":
        return probe_mean(gallery, split, cases, device=device)
    if settings.method == "soft-impute":
        rank = rank or min(128, largest)
        return soft_impute(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
    if settings.method == "anchors":
        if whole < LEAST_LOGITS:
            raise ConfigError(f"{whole} logits were run on all probes, --method anchors takes {LEAST_LOGITS}: use em")
        rank = rank or min(128, whole // 2)
        return anchor_ridge(gallery, split, cases, rank=rank, seed=settings.seed, device=device)
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
        wide=0 < broad < whole < logits,
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
