"""How well completed descriptors search, on real models: share of the full-probing top-1 under the same scoring.

``python -m benchmarks.completion.real`` completes EfficientNet-Lite0, probed in part, by factors of a gallery, and asks
for its 1,000 logits by class name (text) and by the full descriptors of EfficientNet-Lite1 (logit). Half of the classes
are for choosing (``val``), figures to quote are of the other half (``test``).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.completion.real_data import Array, Real, load
from completion.factors import Block, Factors
from completion.fit import affordable_rank, fit, largest_rank
from completion.validation import Split
from probing import subset

N_TEXT = 128
"""Probes a text is compared on: its strongest."""


def unit(x: Array) -> Array:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-9)


def zscore(x: Array) -> Array:
    return ((x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)).astype(np.float32)


class Scores:
    """Ranks Lite0's logits: relu(z)^2, cosine, text scores z-scored for each logit over a bank of concepts."""

    def __init__(self, real: Real, on: np.ndarray | None = None) -> None:
        self.real, self.on = real, slice(None) if on is None else on
        bank = (real.bank @ real.captions.T)[:, self.on]
        text = (real.names @ real.captions.T)[:, self.on]
        centre = bank.mean(0)
        self.texts, self.banks = self._weights(text - centre), self._weights(bank - centre)
        self.queries = unit(np.maximum(zscore(real.lite1[:, self.on]), 0) ** 2)
        order = np.random.default_rng(20261123).permutation(1000)
        self.halves = {"val": np.sort(order[:500]), "test": np.sort(order[500:])}

    def _weights(self, similarity: Array) -> Array:
        z = zscore(similarity)
        k = min(N_TEXT, z.shape[1])
        kept = np.zeros_like(z)
        place = np.argpartition(-z, k - 1, axis=1)[:, :k]
        np.put_along_axis(kept, place, np.take_along_axis(np.maximum(z, 0) ** 3, place, 1), 1)
        return unit(kept)

    def top1(self, features: Array) -> dict[str, float]:
        """Return the top-1 accuracy of each kind of query on each half; features are float32 ``[1000, n]``."""
        gallery = unit(features)
        bank = self.banks @ gallery.T
        text = (self.texts @ gallery.T - bank.mean(0)) / np.maximum(bank.std(0), 1e-9)
        scores = {"text": text, "logit": self.queries @ gallery.T}
        concept = self.real.concept
        return {
            f"{kind} {half}": float((concept[score[rows].argmax(1)] == concept[rows]).mean())
            for kind, score in scores.items()
            for half, rows in self.halves.items()
        }


def strong(values: Array) -> Array:
    return np.maximum(values, 0) ** 2


def expected(values: Array, variance: Array) -> Array:
    """Return ``E[max(g, 0)^2]`` for ``g ~ N(m, v)``: ``(m^2 + v) Phi(m / s) + m s phi(m / s)``."""
    m, v = torch.from_numpy(values), torch.from_numpy(variance)
    s = v.clamp_min(1e-9).sqrt()
    a = m / s
    found = (m * m + v) * torch.special.ndtr(a) + m * s * torch.exp(-0.5 * a * a) / (2 * np.pi) ** 0.5
    return torch.where(v > 1e-8, found, m.clamp_min(0).square()).numpy()


@dataclass(frozen=True)
class Probed:
    """A partial probing of Lite0: ids run, those drawn at random, and z-scores by the moments over these."""

    ids: np.ndarray
    random: np.ndarray
    values: Array


def probe(raw: Array, factors: Factors | None, share: float, seed: int, own_noise: bool = False) -> Probed:
    """Run a random share, or, with factors, a random tenth and four adaptive rounds.

    With ``own_noise`` the prober is given the noise that the random tenth says this model has, not the gallery's.
    """
    n, budget = raw.shape[1], round(raw.shape[1] * share)
    order = np.random.default_rng(seed).permutation(n)
    first = min(budget, round(n * subset.RANDOM_SHARE)) if factors is not None else budget
    random = np.sort(order[:first]).astype(np.int32)
    ids = random
    if factors is not None:
        times = factors.solve(block_of("", Probed(ids, random, zscore(raw[:, ids])))).noise() if own_noise else 1.0
        known = subset.Factors(factors.mean, factors.basis, factors.noise * times)
        for count in subset.rounds(budget - first):
            ids = np.union1d(ids, subset.choose_next(known, np.ascontiguousarray(raw[:, ids].T), ids, random, count))
    part = raw[:, random]
    return Probed(ids, random, ((raw - part.mean(1, keepdims=True)) / part.std(1, keepdims=True))[:, ids])


def block_of(key: str, probed: Probed) -> Block:
    return Block((key, ""), torch.from_numpy(probed.ids.astype(np.int64)), torch.from_numpy(probed.values))


def whole(key: str, values: Array) -> Block:
    return Block((key, ""), torch.arange(values.shape[1]), torch.from_numpy(values))


def fitted(blocks: list[Block], rank: int | None) -> Factors:
    n = max(int(b.observed.max()) for b in blocks) + 1
    split = Split({b.key: len(b.observed) for b in blocks}, n)

    def gallery() -> Iterator[Block]:
        return iter(blocks)

    logits = sum(len(b.values) for b in blocks)
    full = sum(len(b.values) for b in blocks if len(b.observed) == n)
    masks = len({b.key for b in blocks if len(b.observed) < n} | split.measured)
    found = fit(
        gallery, split, split.cases(gallery, "cpu"), rank=rank, largest=largest_rank(logits),
        affordable=affordable_rank(n, masks), anchors=32 <= full < logits, iterations=0 if full == logits else 8,
    )  # fmt: skip
    say(f"  fitted {len(blocks)} models, {logits} logits: {'; '.join(found.log[-1:])}")
    return found.factors


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def row(name: str, share: float, results: list[dict[str, float]], full: dict[str, float]) -> None:
    mean = {key: np.mean([result[key] / full[key] for result in results]) for key in full}
    cells = " | ".join(f"{mean[key]:.3f}" for key in ("text val", "text test", "logit val", "logit test"))
    say(f"| {name} | {share:.3f} | {cells} |")


def main() -> None:
    """Print the table, a line a setting, as it goes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shares", default="0.333,0.167,0.1,0.05,0.02")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--galleries", default="lite1,lite1+minihub")
    parser.add_argument("--collaborative", action="store_true", help="also fit with every model partial")
    options = parser.parse_args()
    real, started = load(), time.time()
    scores = Scores(real)
    full = scores.top1(strong(zscore(real.lite0)))
    say(f"full probing: {full}; MiniHub: {len(real.minihub)} models, {sum(map(len, real.minihub))} logits")
    say(
        "| gallery, probing, scoring | share of probes | text val | text test | logit val | logit test |\n|---|---|"
        + "---|" * 4
    )
    lite1, mini = whole("lite1", zscore(real.lite1)), [whole(f"m{i}", v) for i, v in enumerate(real.minihub)]
    galleries = {"lite1": [lite1], "minihub": mini, "lite1+minihub": [lite1, *mini]}
    shares = [float(text) for text in options.shares.split(",")]
    for share in shares:
        alone, fixed = [], []
        for seed in range(options.seeds):
            seen = probe(real.lite0, None, share, seed)
            features = np.zeros_like(real.lite0)
            features[:, seen.ids] = strong(seen.values)
            alone.append(scores.top1(features))
            fixed.append(Scores(real, seen.ids).top1(strong(seen.values)))
        row("observed alone", share, alone, full)
        row("same fixed subset for all", share, fixed, full)
    for name in options.galleries.split(","):
        if len(galleries[name]) == 0:
            continue
        # One model alone is no gallery for `hubprobe complete`; here its own rows measure the noise.
        known = galleries[name] if len(galleries[name]) > 1 else _halves(lite1)
        factors = fitted(known, options.rank)
        for share in shares:
            for how in ("random", "adaptive", "adaptive with own noise")[: 3 if share > subset.RANDOM_SHARE else 1]:
                plain, soft = [], []
                for seed in range(options.seeds):
                    seen = probe(real.lite0, factors if how != "random" else None, share, seed, "own" in how)
                    values, variance = (t.numpy() for t in factors.complete(block_of("lite0", seen)))
                    plain.append(scores.top1(strong(values)))
                    soft.append(scores.top1(expected(values, variance)))
                row(f"{name}, {how}", share, plain, full)
                row(f"{name}, {how}, expected squares", share, soft, full)
    if options.collaborative:
        for share in shares[:2]:
            seen = [probe(raw, None, share, i) for i, raw in enumerate([real.lite0, real.lite1, *real.minihub])]
            factors = fitted([block_of(f"m{i}", part) for i, part in enumerate(seen)], options.rank)
            values, variance = (t.numpy() for t in factors.complete(block_of("m0", seen[0])))
            row("everything partial, random", share, [scores.top1(strong(values))], full)
            row("everything partial, random, expected squares", share, [scores.top1(expected(values, variance))], full)
    say(f"{time.time() - started:.0f} s by the clock, {time.process_time():.0f} s of processor time")


def _halves(block: Block) -> list[Block]:
    return [Block((f"{block.key[0]}-{i}", ""), block.observed, block.values[i::3].contiguous()) for i in range(3)]


if __name__ == "__main__":
    main()
