"""Where a fit starts: the leading subspace of the gallery with zeros for what was not run.

Zero-filling a random subset shrinks every covariance of two probes alike, so its leading subspace is close to the
gallery's; what is left for EM is to undo the shrinking probe by probe.
"""

from __future__ import annotations

import torch
from torch import Tensor

from completion.factors import Factors
from completion.validation import Blocks, Split

PASSES = 3
"""Passes of subspace iteration, `EXTRA` dimensions wider than asked (Halko, Martinsson and Tropp 2011)."""
EXTRA = 8
_SHRINK = 10.0  # logits' worth of zero added to each probe's mean, which is 0 over all probes


def subspace(blocks: Blocks, split: Split, rank: int, *, seed: int, device: str, full_only: bool = False) -> Factors:
    """Return factors whose basis spans the leading directions, longest first: any number of columns is a fit, too.

    Args:
        blocks: the gallery.
        split: what must not be seen.
        rank: directions to find.
        seed: of the first guess.
        device: where to compute.
        full_only: use only models whose every probe was run.
    """
    n = split.n
    wide = min(rank + EXTRA, n)

    def seen() -> Blocks:
        return lambda: (b for b in blocks() if not full_only or len(b.observed) == n)

    total, count, square = (torch.zeros(n, device=device) for _ in range(3))
    for block in seen()():
        kept = split.kept(block).to(device)
        total[kept.observed] += kept.values.sum(0)
        square[kept.observed] += kept.values.square().sum(0)
        count[kept.observed] += len(kept.values)
    mean = total / (count + _SHRINK)
    variance = (square / count.clamp_min(1) - mean.square()).clamp_min(1e-3)
    generator = torch.Generator().manual_seed(seed)
    guess = torch.linalg.qr(torch.randn(n, wide, generator=generator))[0].to(device)
    for last in [False] * PASSES + [True]:
        image, inner = torch.zeros(n, wide, device=device), torch.zeros(wide, wide, device=device)
        for block in seen()():
            kept = split.kept(block).to(device)
            centred = kept.values - mean[kept.observed]
            shadow = centred @ guess[kept.observed]
            if last:
                inner += shadow.T @ shadow
            else:
                image[kept.observed] += centred.T @ shadow
        if not last:
            guess = torch.linalg.qr(image)[0]
    logits = float(count.max().clamp_min(1))
    share = min(max(float(count.mean()) / logits, 1e-3), 1.0)
    return _scaled(guess, inner / logits, mean, variance, share, rank)


def _scaled(guess: Tensor, inner: Tensor, mean: Tensor, variance: Tensor, share: float, rank: int) -> Factors:
    """Turn directions into a basis: zero-filling leaves ``share^2 * covariance + share (1 - share) * diagonal``."""
    power, turn = torch.linalg.eigh(inner)
    power, turn = power.flip(0)[:rank], turn.flip(1)[:, :rank]
    diagonal = float(variance.mean())
    true = (power - share * (1 - share) * diagonal) / share**2
    basis = (guess @ turn) * true.clamp_min(1e-4).sqrt()
    noise = variance - basis.square().sum(1)
    floor = 0.05 * diagonal
    return Factors(mean, basis, noise.clamp_min(floor))


def truncated(factors: Factors, rank: int) -> Factors:
    """Return the first ``rank`` columns of a start; the variance of those left out becomes noise."""
    left_out = factors.basis[:, rank:].square().sum(1)
    return Factors(factors.mean, factors.basis[:, :rank], factors.noise + left_out)
