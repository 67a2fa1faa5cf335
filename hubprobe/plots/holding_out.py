"""Treating fully probed models as if they had been probed in part, to see what that would have cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from search.contrast import strengths
from workspace import ConfigError, QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from completion.factors import Block, Factors
    from search import Index

HITS = 10
FITTED_LOGITS = 6_000
"""Logits that factors are fitted to: at 4,000 probes 96 MB, and minutes at most."""

LEAST_MODELS = 6
_MEASURED_MODELS = 64
_MEASURED_LOGITS = 64  # of one model: one with 21,000 should not decide alone
_QUERIES = 512


def held_out(
    index: Index, shares: Sequence[float], *, seed: int = 0, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Measure what `hubprobe.plots.curve.curve` draws; returns its rows, and ``measured``, ``fitted`` and ``logits``.

    Completion sees none of the measured models: they are new to it, as the next ones of a crawl will be.
    """
    from completion.settings import LEAST_PROBES

    gallery, n = index.gallery, index.gallery.n_probes
    wrong = [share for share in shares if not LEAST_PROBES <= math.ceil(share * n) < n]
    if not shares or wrong:
        raise ConfigError(f"a share runs at least {LEAST_PROBES} of the {n} probes and leaves some out, not {wrong}")
    rng = np.random.default_rng(seed)
    whole = np.flatnonzero(gallery.logits.column("observed").to_numpy() >= 1.0)
    models = rng.permutation(np.unique(gallery.model_of[whole]))
    if models.size < LEAST_MODELS:
        raise QueryError(f"{models.size} models were run on all probes: at least {LEAST_MODELS} are needed")
    measured = models[: min(_MEASURED_MODELS, models.size // 3)]
    rest = whole[~np.isin(gallery.model_of[whole], measured)]
    rest = np.sort(rng.choice(rest, min(rest.size, FITTED_LOGITS), replace=False))
    factors = _factors(index, rest, seed, progress)
    parts = [_some(whole[gallery.model_of[whole] == model]) for model in measured]
    truth = gallery.vectors(np.concatenate(parts))
    queries = {"similar": strengths(gallery.vectors(_some(rest, _QUERIES))), "text": _texts(index)}
    best = {name: _best(asked, truth) for name, asked in queries.items() if asked is not None}
    rows = []
    for share in shares:
        filled, alone, hidden = _as_partial(truth, [len(part) for part in parts], factors, share, rng)
        wrongness = ((truth - filled)[hidden] ** 2).sum(dtype=np.float64)
        r2 = 1.0 - float(wrongness / (truth[hidden] ** 2).sum(dtype=np.float64))
        row: dict[str, Any] = {"share": round(share, 4), "probes": math.ceil(share * n), "r2": round(r2, 4)}
        for name, asked in queries.items():
            for ending, vectors in (("", filled), ("_observed", alone)):
                kept = None if asked is None else round(_same(best[name], _best(asked, vectors)), 4)
                row[f"{name}{ending}"] = kept
        rows.append(row)
    fitted = int(np.unique(gallery.model_of[rest]).size)
    return rows, {"measured": int(measured.size), "fitted": fitted, "logits": len(truth)}


def _some(rows: NDArray[np.int64], count: int = _MEASURED_LOGITS) -> NDArray[np.int64]:
    spread: NDArray[np.int64] = rows[np.linspace(0, rows.size - 1, min(count, rows.size)).astype(int)]
    return spread


def _factors(index: Index, rows: NDArray[np.int64], seed: int, progress: bool) -> Factors:
    import torch

    from completion.factors import Block
    from completion.fit import fit, largest_rank
    from completion.validation import Split

    everything = torch.arange(index.gallery.n_probes)
    blocks: list[Block] = []
    for model in np.unique(index.gallery.model_of[rows]):
        own = rows[index.gallery.model_of[rows] == model]
        blocks.append(Block((str(model), ""), everything, torch.from_numpy(index.gallery.vectors(own))))
    split = Split({block.key: len(everything) for block in blocks}, len(everything))
    return fit(
        lambda: blocks, split, split.cases(lambda: blocks, "cpu"),
        rank=None, largest=min(128, largest_rank(rows.size)), iterations=2, seed=seed, progress=progress,
    ).factors  # fmt: skip


def _texts(index: Index) -> NDArray[np.float32] | None:
    """Return what names of the bank expect of every probe, float32 ``[names, n]``; None without an encoder."""
    from hubprobe.plots.hubness import unused_names
    from search.bridge import ZERO_SHOT

    if index.gallery.calibration is None:
        return None
    names = unused_names(_QUERIES)
    index.prepare(names)
    return np.stack([index.descriptor(name).sides[ZERO_SHOT] for name in names]).astype(np.float32)


def _as_partial(
    truth: NDArray[np.float32], sizes: list[int], factors: Factors, share: float, rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return descriptors completed, the same with 0 for what was not run, and which entries those are.

    As the prober would leave it: every model has a random set of its own, and responses are z-scored over that alone.
    """
    import torch

    from completion.factors import Block

    n = truth.shape[1]
    filled, alone = np.empty_like(truth), np.zeros_like(truth)
    hidden = np.ones(truth.shape, bool)
    start = 0
    for size in sizes:
        here = slice(start, start + size)
        run = np.sort(rng.choice(n, math.ceil(share * n), replace=False))
        seen = truth[here][:, run]
        seen = (seen - seen.mean(axis=1, keepdims=True)) / np.maximum(seen.std(axis=1, keepdims=True), 1e-3)
        block: Block = Block(("", ""), torch.from_numpy(run), torch.from_numpy(seen.astype(np.float32)))
        filled[here] = factors.complete(block)[0].numpy()
        alone[here, run] = seen
        hidden[here, run] = False
        start += size
    return filled, alone, hidden


def _best(asked: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the `HITS` logits of highest score for every query, int64 ``[queries, hits]``, in no order."""
    hits = min(HITS, len(vectors) // 3)
    found: NDArray[np.int64] = np.argpartition(-(asked @ strengths(vectors).T), hits - 1, axis=1)[:, :hits]
    return found


def _same(before: NDArray[np.int64], after: NDArray[np.int64]) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(before, after, strict=True)]))
