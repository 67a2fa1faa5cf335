"""The ways to complete: EM, and the baselines that it is measured against, all ending in factors.

* ``em``: `completion.fit`, the default.
* ``mean``: every probe's mean; factors without a basis.
* ``anchors``: the leading directions of the fully probed models, each partial model by ridge regression on them.
* ``soft-impute``: nuclear-norm regularisation (Mazumder, Hastie and Tibshirani 2010), in memory.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from completion.factors import Block, Factors, Solved
from completion.fit import GAIN, Fit, subspace
from completion.validation import Blocks, Case, Measured, Split, calibrated, measure
from workspace import WorkspaceError

Method = Literal["em", "mean", "soft-impute", "anchors"]

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
    factors, measured = calibrated(subspace(blocks, split, rank, seed=seed, device=device, full_only=True), cases)
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
