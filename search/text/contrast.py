"""What a query is compared with: not how well it matches a probe, but how much better than other concepts do.

Everything here is ours; figures are in docs/results.md. The published text descriptor (METHOD: cosine similarity with
every probe, z-scored) ranks probes that match any text first; these functions take that out on the query's side, and
what is left of it on the gallery's side (hubness) by an inverted softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""Embeds texts, float32 ``[texts, dim]`` of unit length."""

Vectors = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Returns the descriptors of some logits by their positions, float32 ``[rows, n_probes]``."""


@dataclass(frozen=True, eq=False)
class Material:
    """What an index learns from."""

    vectors: Vectors  # reads descriptors
    model_of: NDArray[np.int32]  # int32 ``[logits]``, the model of each
    embed: Embed  # embeds texts
    probes: NDArray[np.float32]  # float32 ``[n, dim]``, the probes under the encoder

    def expected(self, texts: Sequence[str], centre: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what each text expects of every probe, float32 ``[texts, n]``; see `zero_shot`."""
        return zero_shot(self.embed(texts) @ self.probes.T, centre)


POWER, SHOWN = 3.0, 1_000
"""Exponent of a query's contrast: one probe that shows the concept says more than many that share something with it.
Of fewer than so many probes more often none shows it: the exponent falls with their number, to 1; see
`benchmarks/photohub/COVER.md`."""

STRONGEST = 128
"""Probes of a text or an image that can carry weight."""

TEMPERATURE = 0.04
"""Of the inverted softmax, in units of the score (0 to 1)."""

_ROWS = 4_096  # logits read at once


def zero_shot(similarity: NDArray[np.float32], centre: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a query expects of every probe: ``max(z, 0)^POWER`` of its contrast, strongest only, unit length.

    Args:
        similarity: float32 ``[queries, n]``, cosine of the query's embedding with every probe's.
        centre: float32 ``[n]``, the same averaged over a bank of queries.

    Returns float32 ``[queries, n]``, not negative; a row is zero when the query matches every probe as the bank does.
    """
    contrast = similarity - centre
    contrast -= contrast.mean(axis=1, keepdims=True)
    contrast /= np.maximum(contrast.std(axis=1, keepdims=True), 1e-12)
    weights = np.maximum(contrast, 0.0) ** max(1.0, POWER * min(1.0, contrast.shape[1] / SHOWN))
    if weights.shape[1] > STRONGEST:
        least = np.partition(weights, -STRONGEST, axis=1)[:, -STRONGEST, None]
        weights[weights < least] = 0.0
    return unit(weights)


def strengths(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a logit's strong responses, ``max(g, 0)^2`` at unit length, float32 ``[logits, n]``."""
    return unit(np.maximum(vectors, 0.0) ** 2)


def blocks(vectors: Vectors, rows: NDArray[np.int64], size: int = 4_096) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield the `strengths` of some logits, ``size`` at a time, and where among ``rows`` these are."""
    for start in range(0, rows.size, size):
        part = slice(start, start + size)
        yield part, strengths(vectors(rows[part]))


def hubness(
    strong: NDArray[np.float32], bank: NDArray[np.float32], found: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Return how near each logit is to everything: ``T log mean over the bank of exp((score - found) / T)``.

    Subtracting it from a score is the inverted softmax (Smith et al., ICLR 2017; Bogolin et al., CVPR 2022, as
    QB-Norm): a logit that many concepts find must be found better to rank as high. Returns float32 ``[logits]``.

    Args:
        strong: float32 ``[logits, n]``, of `strengths`.
        bank: float32 ``[concepts, n]``, of `zero_shot`.
        found: float32 ``[concepts]``, of `offered`: a concept that has its logits counts for less with each of them.
    """
    scores = strong @ bank.T
    return soft_mean(scores if found is None else scores - found, axis=1)


def offered(strong: NDArray[np.float32], bank: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return how near each of the bank's concepts is to a gallery's logits, hubs apart, float32 ``[concepts]``.

    With it, `hubness` is what one round of Sinkhorn's iteration makes of both sides (Cuturi, NeurIPS 2013).
    """
    scores = strong @ bank.T
    return soft_mean(scores - soft_mean(scores, axis=1)[:, None], axis=0)


def soft_mean(scores: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Return ``T log mean of exp(score / T)`` along an axis, float32."""
    most = scores.max(axis=axis, keepdims=True)
    total = np.log(np.exp((scores - most) / np.float32(TEMPERATURE)).mean(axis=axis)) * np.float32(TEMPERATURE)
    return np.asarray(total + most.squeeze(axis), np.float32)


def unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the rows at length 1; a row of zeros stays."""
    norms = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return np.asarray(rows / np.maximum(norms, 1e-12)[:, None], np.float32)
