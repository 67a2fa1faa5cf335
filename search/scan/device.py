"""The scan on a GPU through torch: codes live on the device, bounds and guarantee are those of the CPU's scan."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from search.scan.scan import Candidates, CpuScanner, relative_error
from search.scan.scoring import Comparison
from search.store.tiles import ERROR, HALF, HIGH, LOW, STEP, ZERO, Tile
from workspace import QueryError

_ROWS = 1 << 20
"""Logits scanned at a time: 256 MB of float32 for 64 probes."""


class TorchScanner(CpuScanner):
    """Scans on ``device``, with the guarantee of the CPU's. Raises `QueryError` when the codes do not fit there."""

    def __init__(self, tiles: Sequence[Tile], starts: NDArray[np.int64], device: str) -> None:
        self._starts, self._tiles = starts, tiles
        self._device = torch.device(device)
        try:
            self._codes = [torch.from_numpy(np.array(tile.codes)).to(self._device) for tile in tiles]
        except (torch.OutOfMemoryError, RuntimeError) as error:
            size = sum(tile.codes.nbytes for tile in tiles)
            raise QueryError(f"{size} bytes of codes do not fit on {device}: open the index on 'cpu'") from error

    def scan(
        self,
        comparisons: Sequence[Comparison],
        masks: Sequence[NDArray[np.bool_] | None],
        keep: int,
        ceilings: Sequence[float],
    ) -> list[Candidates]:
        """See `search.scan.scan.CpuScanner.scan`."""
        return [
            self._one(comparison, mask, keep, ceiling)
            for comparison, mask, ceiling in zip(comparisons, masks, ceilings, strict=True)
        ]

    def _one(self, comparison: Comparison, mask: NDArray[np.bool_] | None, keep: int, ceiling: float) -> Candidates:
        bounds = torch.cat([self._bounds(number, comparison) for number in range(len(self._tiles))])
        allowed = bounds <= ceiling
        if mask is not None:
            allowed &= torch.from_numpy(mask).to(self._device)
        rows = torch.nonzero(allowed).flatten()
        chosen = bounds[rows]
        floor = ceiling
        if keep and rows.numel() > keep:
            lowest = torch.topk(chosen, keep + 1, largest=False, sorted=True)
            floor = float(lowest.values[keep])
            rows, chosen = rows[lowest.indices[:keep]], lowest.values[:keep]
        found, values = rows.cpu().numpy().astype(np.int64), chosen.cpu().numpy().astype(np.float64)
        order = np.argsort(values, kind="stable")
        return Candidates(found[order], values[order], floor)

    def _bounds(self, number: int, comparison: Comparison) -> torch.Tensor:
        """Return the lower bound on the distance of every logit of a tile, float64 ``[rows]`` on the device."""
        codes, tile = self._codes[number], self._tiles[number]
        columns = torch.from_numpy(comparison.columns.astype(np.int64)).to(self._device)
        steps = torch.from_numpy(((comparison.targets - np.float32(LOW)) / np.float32(STEP)).astype(np.float32))
        weights = torch.from_numpy((comparison.weights * np.float32(STEP * STEP)).astype(np.float32))
        steps, weights = steps.to(self._device), weights.to(self._device)
        total = torch.zeros(tile.rows, dtype=torch.float32, device=self._device)
        for start in range(0, tile.rows, _ROWS):
            part = codes[:, start : start + _ROWS]
            for first in range(0, columns.numel(), 64):
                some = slice(first, first + 64)
                values = part[columns[some]].to(torch.float32)
                difference = (values - ZERO).clamp_min(0) if comparison.positive else steps[some, None] - values
                total[start : start + _ROWS] += (weights[some, None] * difference.square()).sum(0)
        slack = relative_error(comparison.columns.size)
        owed = _owed(comparison, tile, -2 * slack if comparison.positive else 2 * slack)
        total += torch.from_numpy(owed).to(self._device)
        wide = float(np.sqrt(comparison.weights.astype(np.float64).sum()))
        if comparison.positive:
            root = (total.to(torch.float64) / (1 - slack)).clamp_min(0).sqrt() + ERROR * wide
        else:
            root = (total.to(torch.float64) * (1 - slack)).clamp_min(0).sqrt() - ERROR * wide
        bound = root.clamp_min(0).square()
        if comparison.scale.size:
            here = slice(int(self._starts[number]), int(self._starts[number + 1]))
            bound = bound * torch.from_numpy(comparison.scale[here]).to(bound) + torch.from_numpy(
                comparison.shift[here]
            ).to(bound)
        return bound


def _owed(comparison: Comparison, tile: Tile, slack: float) -> NDArray[np.float32]:
    """Return what entries without a code owe, float32 ``[rows]``; see `kernels.overflow_corrections`."""
    out = np.zeros(tile.rows, np.float64)
    offsets, rows, values = tile.overflow
    for column, target, weight in zip(comparison.columns, comparison.targets, comparison.weights, strict=True):
        here = slice(int(offsets[column]), int(offsets[column + 1]))
        value = HALF[values[here]].astype(np.float64)
        clipped = np.where(value < LOW, LOW, HIGH)
        if comparison.positive:
            true, false = np.maximum(value, 0) ** 2, np.maximum(clipped, 0) ** 2
        else:
            true, false = (target - value) ** 2, (target - clipped) ** 2
        np.add.at(out, rows[here], weight * (true - false - slack * (true + false)))
    return out.astype(np.float32)
