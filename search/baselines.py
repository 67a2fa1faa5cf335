"""Ways to match a text with logits that others published, as `search.evaluate` measures them beside ours.

They read every descriptor whole and are no scoring of a search: each returns the score of every logit for every text,
higher for a better match, float32 ``[texts, logits]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from search.text.contrast import unit

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.scan.gallery import Gallery

PROBES = 20
"""Probes of a logit that speak for it, and probes of a text that it should find, when nobody says how many."""

_ROWS = 2_048

Baseline = Callable[["Gallery", "NDArray[np.float32]", "NDArray[np.float32]", int], "NDArray[np.float32]"]


def semantic_lens(
    gallery: Gallery, probes: NDArray[np.float32], texts: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    """Cosine of a text with the mean embedding of the ``k`` probes that a logit answers most strongly.

    Source: Dreyer et al., "Mechanistic understanding and validation of large AI models with SemanticLens", 2025.

    Args:
        gallery: the logits.
        probes: float32 ``[n, dim]``, the probes' embeddings, rows of unit length.
        texts: float32 ``[texts, dim]``, the same of the texts.
        k: probes that speak for a logit.
    """
    scores = np.empty((len(texts), len(gallery)), np.float32)
    for start in range(0, len(gallery), _ROWS):
        vectors = gallery.vectors(np.arange(start, min(start + _ROWS, len(gallery))))
        strongest = np.argpartition(-vectors, min(k, vectors.shape[1]) - 1, axis=1)[:, :k]
        scores[:, start : start + len(vectors)] = texts @ unit(probes[strongest].mean(axis=1)).T
    return scores


def auprc(gallery: Gallery, probes: NDArray[np.float32], texts: NDArray[np.float32], k: int) -> NDArray[np.float32]:
    """Area under the precision-recall curve of a logit's responses as a detector of the ``k`` probes most like a text.

    It is the average precision, the detector's scores being the responses: ``mean over the positives of i / place``,
    the i-th of them being at that place. Arguments as of `semantic_lens`.
    """
    k = min(k, len(probes))
    positives = np.argpartition(-(texts @ probes.T), k - 1, axis=1)[:, :k]
    scores = np.empty((len(texts), len(gallery)), np.float32)
    found = np.arange(1, k + 1, dtype=np.float32)
    for start in range(0, len(gallery), _ROWS):
        vectors = gallery.vectors(np.arange(start, min(start + _ROWS, len(gallery))))
        places = np.empty(vectors.shape, np.int32)
        np.put_along_axis(places, np.argsort(-vectors, axis=1), np.arange(1, vectors.shape[1] + 1, dtype=np.int32), 1)
        for text, columns in enumerate(positives):
            scores[text, start : start + len(vectors)] = (found / np.sort(places[:, columns], axis=1)).mean(axis=1)
    return scores


BASELINES: dict[str, Baseline] = {"auprc": auprc, "semanticlens": semantic_lens}
"""By the names that `search.evaluate` takes; they answer texts only."""
