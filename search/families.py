"""Near-copies: models whose outputs answer the probes almost alike, grouped so that one of them can speak for all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOGITS, PROBES = 4, 128
"""A model's print: its first four logits on 128 probes spread over the probe set."""

ALIKE = 0.98
"""Correlation of two prints from which models count as near-copies; 512 values know it to within about 0.002."""

ALIKE_IF_NAMED = 0.90
"""The same for a model that names the other as its base: a fine-tune on the same classes."""

_ROWS = 2_048  # prints compared at a time


def prints(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float16]:
    """Return one row per model, float16 ``[models, LOGITS * PROBES]`` of unit length, from its first logits.

    Each element of ``vectors`` is float32 ``[up to LOGITS, n_probes]``; missing logits are zeros.
    """
    rows = np.zeros((len(vectors), LOGITS, PROBES), np.float32)
    for row, some in zip(rows, vectors, strict=True):
        spread = np.linspace(0, some.shape[1] - 1, PROBES).round().astype(np.int64)
        row[: len(some[:LOGITS])] = some[:LOGITS, spread]
    flat = rows.reshape(len(vectors), LOGITS * PROBES)
    unit: NDArray[np.float16] = (flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)).astype(
        np.float16
    )
    return unit


def families(
    rows: NDArray[np.float16], counts: Sequence[int], names: Sequence[str], bases: Sequence[Sequence[str] | None]
) -> list[int]:
    """Return for every model the first model of its family; a model without near-copies is its own.

    Args:
        rows: `prints` of the models.
        counts: logits of each model; only models with equally many can be copies.
        names: repositories.
        bases: repositories each says it was made from.
    """
    parent = list(range(len(names)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        first, second = sorted((root(i), root(j)))
        parent[second] = first

    groups: dict[int, list[int]] = defaultdict(list)
    for i, count in enumerate(counts):
        groups[count].append(i)
    for members in groups.values():
        own = rows[members].astype(np.float32)
        for start in range(0, len(members), _ROWS):
            alike = own[start : start + _ROWS] @ own.T
            for a, b in zip(*np.nonzero(np.triu(alike, start + 1) >= ALIKE), strict=True):
                join(members[start + int(a)], members[int(b)])
    where = defaultdict(list)
    for i, name in enumerate(names):
        where[name].append(i)
    for i, named in enumerate(bases):
        for j in (j for base in named or () for j in where.get(base, ())):
            same = counts[i] == counts[j] and i != j
            if same and float(rows[i].astype(np.float32) @ rows[j].astype(np.float32)) >= ALIKE_IF_NAMED:
                join(i, j)
    return [root(i) for i in range(len(names))]
