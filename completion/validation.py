"""Measuring a completion on responses that were run but hidden from it.

Up to `MODELS` models, chosen by a hash of their key, have a tenth of their probes hidden from every fit: partial ones,
as what is best for those run in full need not be for them; others only where these have too few logits. Each is then
completed as a partially probed model would be: from at most `SHARE` of all probes. What is chosen is chosen on this.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from completion.factors import Block, Factors

Blocks = Callable[[], Iterable[Block]]
"""Gives the gallery anew, in the same order, for every pass."""

MODELS = 64
"""Models that are measured on: enough for a share that is stable to 0.01, and small in memory."""
LOGITS = 64
"""Logits of one model that are measured on, spread over all: a model with 21,000 logits should not decide alone."""
ENOUGH = 32
"""Logits of partial models that are measured on alone: with a tenth of a few hundred probes, a thousand entries."""
HIDDEN = 0.1
"""Share of a measured model's probes that is hidden."""
SHARE = 1 / 3
"""Share of all probes that a measured model is completed from, at most: the usual share of a partial model."""
STEP = 1.4
"""Factor between cautions that are tried."""
MOST = 10.0
"""Largest caution, and smallest inverse of one."""


@dataclass(frozen=True)
class Case:
    """One measured model.

    Attributes:
        given: what it is completed from.
        hidden: int64 ``[h]``, the hidden probes.
        truth: float32 ``[logits, h]``, the responses there.
    """

    given: Block
    hidden: Tensor
    truth: Tensor


@dataclass(frozen=True)
class Measured:
    """Errors on the hidden entries, float64.

    Attributes:
        r2: ``1 - squared error / squared response`` over all of them, responses being deviations from their mean.
        by_model: the same for each measured model.
        by_probe: the same for each probe hidden at least 16 times.
        calibration: mean of ``error^2 / variance``; 1 where deviations are right.
        log_likelihood: mean Gaussian log density of an entry.
    """

    r2: float
    by_model: list[float]
    by_probe: list[float]
    calibration: float
    log_likelihood: float


class Split:
    """Which probes of which models are hidden, decided by hashes alone: the same on every pass and every run.

    Args:
        observed: how many probes each model was run on.
        n: probes in all.
        logits: how many logits each has; `LOGITS` or more when None.
    """

    def __init__(
        self, observed: dict[tuple[str, str], int], n: int, logits: dict[tuple[str, str], int] | None = None
    ) -> None:
        self.n = n
        # Partial models are what is to be completed. Of all at most a third: in a small gallery what is hidden in
        # every model was seen by none, and no fit could predict it.
        order = sorted(observed, key=lambda key: (observed[key] == n, _seed(key)))
        most = min(MODELS, max(1, len(order) // 3))
        partial = [key for key in order[:most] if observed[key] < n]
        alone = sum((logits or {}).get(key, LOGITS) for key in partial) >= ENOUGH
        self.measured = set(partial if alone else order[:most])

    def kept(self, block: Block) -> Block:
        """Return the part of ``block`` that a fit may see."""
        return self._parts(block)[0] if block.key in self.measured else block

    def cases(self, blocks: Blocks, device: str) -> list[Case]:
        """Return the measured models, read in one pass."""
        found = []
        for block in blocks():
            if block.key not in self.measured:
                continue
            kept, hidden = self._parts(block)
            rows = torch.linspace(0, len(block.values) - 1, min(len(block.values), LOGITS)).long()
            order = np.random.default_rng(_seed(block.key) + 1).permutation(len(kept.observed))
            some = torch.from_numpy(np.sort(order[: max(2, math.ceil(self.n * SHARE))]))
            given = Block(block.key, kept.observed[some], kept.values[rows][:, some]).to(device)
            found.append(Case(given, hidden.observed.to(device), hidden.values[rows].to(device)))
        return found

    def _parts(self, block: Block) -> tuple[Block, Block]:
        order = np.random.default_rng(_seed(block.key)).permutation(len(block.observed))
        cut = math.ceil(len(order) * HIDDEN)
        parts = (torch.from_numpy(np.sort(part)) for part in (order[cut:], order[:cut]))
        kept, hidden = (Block(block.key, block.observed[p], block.values[:, p]) for p in parts)
        return kept, hidden


def measure(complete: Callable[[Block], tuple[Tensor, Tensor]], cases: list[Case], n: int) -> Measured:
    """Complete every case and compare with what was hidden.

    Args:
        complete: fills a block; see `completion.factors.Completer`.
        cases: the measured models, at least one.
        n: probes in all.
    """
    error, power, count = (np.zeros(n) for _ in range(3))
    by_model, calibration, likelihood, entries = [], 0.0, 0.0, 0
    for case in cases:
        values, variance = complete(case.given)
        wrong = (case.truth - values[:, case.hidden]).double().square()
        here = variance[case.hidden].double().clamp_min(1e-6)
        truth = case.truth.double().square()
        at = case.hidden.cpu().numpy()
        error[at] += wrong.sum(0).cpu().numpy()
        power[at] += truth.sum(0).cpu().numpy()
        count[at] += len(wrong)
        by_model.append(1.0 - float(wrong.sum() / truth.sum().clamp_min(1e-12)))
        calibration += float((wrong / here).sum())
        likelihood -= 0.5 * float((wrong / here + here.log() + math.log(2 * math.pi)).sum())
        entries += wrong.numel()
    enough = count >= 16
    by_probe = (1.0 - error[enough] / np.maximum(power[enough], 1e-12)).tolist()
    r2 = 1.0 - float(error.sum() / max(power.sum(), 1e-12))
    return Measured(r2, by_model, by_probe, calibration / max(entries, 1), likelihood / max(entries, 1))


def calibrated(factors: Factors, cases: list[Case]) -> tuple[Factors, Measured]:
    """Return ``factors`` with the caution that makes the hidden entries likeliest, and that measure.

    The noise of an EM fit is too small when the gallery is: a basis fitted to few logits follows their noise. The
    likelihood of hidden entries prefers deviations that are right, and means that do not trust too much with them.
    """
    n = len(factors.mean)
    solved = {case.given.key: factors.solve(case.given) for case in cases}

    def tried(times: float) -> tuple[Factors, Measured]:
        cautious = factors.cautious(times)
        return cautious, measure(lambda block: cautious.complete(block, solved[block.key]), cases, n)

    best = tried(1.0)
    for direction in (STEP, 1 / STEP):  # the likelihood rises to one top and falls
        times = direction
        while 1 / MOST <= times <= MOST and (found := tried(times))[1].log_likelihood > best[1].log_likelihood:
            best, times = found, times * direction
        if times != direction:
            break
    return best


def _seed(key: tuple[str, str]) -> int:
    return int.from_bytes(hashlib.sha256("@".join(key).encode("utf-8", "replace")).digest()[:7], "big")
