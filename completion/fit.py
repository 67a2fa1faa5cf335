"""Fitting the factors by EM, each pass streaming over the gallery.

Expectation: one Cholesky factor per model gives the latents of all its logits. Maximisation: one ridge regression per
probe on the expected latents, the posterior covariance added to the Gram matrix; how unsure its row of the basis is
counts in the next expectation, so that a large basis does not follow the noise (Ilin and Raiko 2010, sections 2 to 4).
Selection by what was observed needs no correction: it is missing at random.

It starts from the leading subspace of the gallery with zeros for what was not run. Zero-filling a random subset
shrinks every covariance of two probes alike, so that subspace is close to the gallery's; what is left for EM is to
undo the shrinking probe by probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from completion.factors import Block, Factors
from completion.validation import Blocks, Case, Measured, Split, calibrated

RANKS = (4, 8, 16, 32, 64, 128, 256, 512)
"""Ranks that are tried when none is asked for, as far as the gallery's size and the cost of a pass allow."""
WIDE = 256
"""Logits of a model that many things are told apart by."""
GAIN = 5e-4
"""What an iteration, or a doubling of the rank, must add to R2 on hidden entries; less is noise."""
PASS_FLOP = 1.0e11
"""Multiply-adds a pass of EM may cost at a rank above 128: seconds on 2 cores. A start costs far less, at any rank."""
_BATCH = 64  # models whose Gram matrices are added to the probes' by one product
_NOISE_LOGITS = 50.0  # logits' worth of the mean noise in each probe's own
PASSES = 3
"""Passes of subspace iteration, `EXTRA` dimensions wider than asked (Halko, Martinsson and Tropp 2011)."""
EXTRA = 8
_SHRINK = 10.0  # logits' worth of zero added to each probe's mean, which is 0 over all probes
_CHUNK = 256  # probes solved at a time: a batched Cholesky copies its input


@dataclass(frozen=True)
class Fit:
    """A fit and how it came about.

    Attributes:
        factors: with the noise calibrated on hidden entries.
        measured: on the hidden entries.
        history: R2 there, of the start and after each iteration of the passes that ended best.
        log: one line for each choice that was made.
    """

    factors: Factors
    measured: Measured
    history: list[float]
    log: list[str] = field(default_factory=list)


def largest_rank(logits: int) -> int:
    """Return the largest rank worth trying: what ``logits`` can hold."""
    return max((r for r in RANKS if r <= logits // 2), default=max(logits // 4, 1))


def affordable_rank(n: int, masks: int) -> int:
    """Return the largest rank at which a pass of EM over ``masks`` distinct sets of probes takes seconds."""
    cheap = [r for r in RANKS if r <= 128 or 4.0 * masks * n * r * r + n * r**3 / 3 <= PASS_FLOP]
    return max(cheap)


def fit(
    blocks: Blocks,
    split: Split,
    cases: list[Case],
    *,
    rank: int | None,
    largest: int,
    affordable: int = 128,
    ridge: float = 1.0,
    iterations: int = 8,
    warm: Factors | None = None,
    anchors: bool = False,
    wide: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = False,
) -> Fit:
    """Fit factors to what ``split`` lets be seen; stop when R2 on hidden entries no longer rises.

    Args:
        blocks: the gallery.
        split: what must not be seen.
        cases: the measured models, on ``device``.
        rank: latent dimensions; the best of `RANKS` up to ``largest`` when None.
        largest: the largest rank to try.
        affordable: the largest rank to iterate at when none is asked for; the best start's is tried, too.
        ridge: multiple of the basis' prior precision, which is learned for each column (automatic relevance).
        iterations: passes at most, after the start's.
        warm: an earlier fit to go on from, where it is better than a new start.
        anchors: whether some models were run on all probes: these alone are tried as a start, too.
        wide: whether some of these, not all, have `WIDE` logits: they alone are tried, as in them many things differ.
        seed: of the start.
        device: where to compute.
        progress: show a bar on stderr.
    """
    log: list[str] = []
    starts = [("all models", subspace(blocks, split, rank or largest, seed=seed, device=device))]
    for name, least in (("fully probed models", 0),) * anchors + (("wide ones of these", WIDE),) * wide:
        starts.append((name, subspace(blocks, split, rank or largest, seed=seed, device=device, full=least)))
    tried: list[tuple[str, Factors]] = []
    for name, start in starts:
        widths = [start.rank] if rank else [r for r in RANKS if r < start.rank and r >= start.rank // 8] + [start.rank]
        tried += [(f"{name}, rank {r}", truncated(start, r)) for r in widths]
    if warm is not None and (rank is None or warm.rank == rank):
        tried.append((f"earlier factors, rank {warm.rank}", warm.to(device)))
    best: tuple[Factors, Measured] | None = None
    begun: dict[int, tuple[Factors, Measured]] = {}
    for name, start in tried:
        found = calibrated(start, cases)
        log.append(f"start from {name}: R2 {found[1].r2:.4f}")
        if best is None or found[1].r2 > best[1].r2 + GAIN:
            best = found
        known = begun.get(start.rank)
        if (rank or start.rank <= affordable) and (known is None or found[1].r2 > known[1].r2 + GAIN):
            begun[start.rank] = found
    assert best is not None
    # Zeros for what was not run favour narrow starts; a wide one, which knows how unsure it is, may still end above.
    likeliest = max(begun, key=lambda r: begun[r][1].r2, default=0)
    begins = [begun[r] for r in sorted({likeliest, max(begun, default=0)})] if begun else [best]
    history: list[float] = []
    for now, last in begins:
        reached = [last.r2]
        for _ in tqdm(range(iterations), desc="fit", unit="pass", disable=None if progress else True):
            now, found_now = calibrated(_iterate(blocks, split, now, ridge, device), cases)
            reached.append(found_now.r2)
            if found_now.r2 > best[1].r2 + GAIN:
                best, history = (now, found_now), reached
            if found_now.r2 <= last.r2 + GAIN:
                break
            last = found_now
        log.append(f"iterated at rank {now.rank}: R2 {max(reached):.4f}")
        history = history or reached
    log.append(f"kept rank {best[0].rank}: R2 {best[1].r2:.4f}")
    return Fit(*best, history, log)


def _iterate(blocks: Blocks, split: Split, factors: Factors, ridge: float, device: str) -> Factors:
    sums = _Sums(factors, device)
    for block in blocks():
        sums.add(split.kept(block).to(device))
    return sums.maximised(ridge)


def _held_masks(n: int) -> int:
    """Return how many masks' Gram matrices are held before they are added to those of the ``n`` probes."""
    return max(_BATCH, n // 8)


class _Sums:
    """The sufficient statistics of one pass, latents extended by a constant 1 whose column of the basis is the mean.

    Models with the same probes share one Gram matrix; with few distinct masks these are kept (``masks * rank^2``
    numbers), with many they are added to the probes' (``n * rank^2``: 262 MB for 4,000 probes at rank 128).
    """

    def __init__(self, factors: Factors, device: str) -> None:
        self.factors, self.device = factors, device
        n, wide = len(factors.mean), factors.rank + 1
        self.right = torch.zeros(n, wide, device=device)
        self.squares, self.count = torch.zeros(n, device=device), torch.zeros(n, device=device)
        self.latent = torch.zeros(wide, wide, device=device)
        self._grams: Tensor | None = None
        self._kept: dict[bytes, tuple[Tensor, Tensor]] = {}
        self._most = _held_masks(n)

    def add(self, block: Block) -> None:
        latent, covariance = self.factors.posterior(block.observed, block.values)
        wide = torch.cat([latent, torch.ones(len(latent), 1, device=self.device)], 1)
        moment = wide.T @ wide
        moment[:-1, :-1] += len(latent) * covariance
        self.latent += moment
        self.right[block.observed] += block.values.T @ wide
        self.squares[block.observed] += block.values.square().sum(0)
        mask = torch.zeros(len(self.count), device=self.device)
        mask[block.observed] = 1.0
        self.count += mask * len(latent)
        key = mask.bool().cpu().numpy().tobytes()
        if key in self._kept:
            self._kept[key][1].add_(moment)
        else:
            self._kept[key] = mask, moment
        if len(self._kept) >= (self._most if self._grams is None else _BATCH):
            self._flush()

    def _flush(self) -> None:
        masks, moments = self._stacked()
        if self._grams is None:
            self._grams = torch.zeros(len(self.count), moments.shape[1], device=self.device)
        for start in range(0, len(masks), _BATCH):
            self._grams.addmm_(masks[start : start + _BATCH].T, moments[start : start + _BATCH])
        self._kept = {}

    def _stacked(self) -> tuple[Tensor, Tensor]:
        masks, moments = zip(*self._kept.values(), strict=True)
        return torch.stack(masks), torch.stack(moments).flatten(1)

    def maximised(self, ridge: float) -> Factors:
        n, wide = self.right.shape
        old = self.factors
        # Automatic relevance (Ilin and Raiko 2010, section 4.1): a column's prior variance is its own mean square.
        power = old.basis.square().sum(0)
        if old.doubt is not None:
            power = power + old.noise.sum() * old.doubt.diagonal()
        precision = n / power.clamp_min(1e-6)
        prior = torch.cat([ridge * precision, torch.ones(1, device=self.device)])
        held = self._stacked() if self._kept else None
        solved = torch.empty_like(self.right)
        residual = torch.empty(n, device=self.device)
        doubt = torch.zeros(wide, wide, device=self.device)
        for start in range(0, n, _CHUNK):
            part = slice(start, start + _CHUNK)
            grams = held[0][:, part].T @ held[1] if held else torch.zeros(1, device=self.device)
            grams = (grams if self._grams is None else grams + self._grams[part]).view(-1, wide, wide)
            ridges = old.noise[part, None] * prior
            root = torch.linalg.cholesky(grams + torch.diag_embed(ridges))
            row = torch.cholesky_solve(self.right[part, :, None], root)[..., 0]
            fitted = ((grams @ row[..., None])[..., 0] * row).sum(1)
            inverse = torch.cholesky_inverse(root)  # the row's covariance, over its noise
            doubt += inverse.sum(0)
            unsure = old.noise[part] * (wide - (ridges * inverse.diagonal(dim1=1, dim2=2)).sum(1))
            residual[part] = self.squares[part] - 2 * (row * self.right[part]).sum(1) + fitted + unsure
            solved[part] = row
        average = residual.sum() / self.count.sum().clamp_min(1)
        noise = (residual + _NOISE_LOGITS * average) / (self.count + _NOISE_LOGITS)
        return self._whitened(solved, noise.clamp_min(1e-3), doubt[:-1, :-1] / n)

    def _whitened(self, solved: Tensor, noise: Tensor, doubt: Tensor) -> Factors:
        """Move the latents' mean and covariance into the basis, where N(0, I) holds again: EM gets there faster."""
        latent = self.latent / self.latent[-1, -1]
        centre = latent[:-1, -1]
        spread = latent[:-1, :-1] - torch.outer(centre, centre)
        root = torch.linalg.cholesky(spread + 1e-6 * torch.eye(len(spread), device=self.device))
        mean, basis = solved[:, -1] + solved[:, :-1] @ centre, solved[:, :-1] @ root
        return Factors(mean, basis, noise, doubt=root.T @ doubt @ root)


def subspace(blocks: Blocks, split: Split, rank: int, *, seed: int, device: str, full: int | None = None) -> Factors:
    """Return factors whose basis spans the leading directions, longest first: any number of columns is a fit, too.

    Args:
        blocks: the gallery.
        split: what must not be seen.
        rank: directions to find.
        seed: of the first guess.
        device: where to compute.
        full: use only models whose every probe was run, of at least so many logits.
    """
    n = split.n
    wide = min(rank + EXTRA, n)

    def used(block: Block) -> bool:
        return full is None or (len(block.observed) == n and len(block.values) >= full)

    def seen() -> Iterator[Block]:
        return (split.kept(block).to(device) for block in blocks() if used(block))

    total, count, square = (torch.zeros(n, device=device) for _ in range(3))
    for kept in seen():
        total[kept.observed] += kept.values.sum(0)
        square[kept.observed] += kept.values.square().sum(0)
        count[kept.observed] += len(kept.values)
    mean = total / (count + _SHRINK)
    variance = (square / count.clamp_min(1) - mean.square()).clamp_min(1e-3)
    generator = torch.Generator().manual_seed(seed)
    guess = torch.linalg.qr(torch.randn(n, wide, generator=generator))[0].to(device)
    for last in [False] * PASSES + [True]:
        image, inner = torch.zeros(n, wide, device=device), torch.zeros(wide, wide, device=device)
        for kept in seen():
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
