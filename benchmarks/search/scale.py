"""How the cost of a scan grows: galleries of codes alone, for one set of queries, so that ten million fit the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.data import World
from benchmarks.search.timing import bandwidth_gb_s, milliseconds
from search.scan.scan import CpuScanner
from search.scan.scoring import Descriptor, probelog
from search.store.tiles import encode

COLUMNS = 128
TILE = 65_536
SIZES = (100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000)


@dataclass
class CodesOnly:
    """What the scanner needs of a tile."""

    rows: int
    codes: Any
    overflow: Any


def measure(folder: Path, k: int, largest: int, seed: int) -> dict[str, Any]:
    """Return p50 of scan and selection by gallery size, with the floor: bytes read over the bandwidth measured now."""
    path = _write(folder, largest, seed)
    none = (np.zeros(COLUMNS + 1, np.int64), np.empty(0, np.uint32), np.empty(0, np.uint16))
    codes = np.asarray(np.memmap(path, np.uint8, "r").reshape(-1, COLUMNS, TILE))
    world = World.make(COLUMNS, seed)
    compiled = [probelog(Descriptor(q), k) for q in world.queries(30)]
    bandwidth = bandwidth_gb_s()
    figures: dict[str, Any] = {"bandwidth_gb_s": bandwidth}
    for size in (s for s in SIZES if s <= largest):
        tiles = [CodesOnly(min(TILE, size - i * TILE), codes[i], none) for i in range(-(-size // TILE))]
        starts = np.concatenate([[0], np.cumsum([t.rows for t in tiles])]).astype(np.int64)
        scanner = CpuScanner(tiles, starts)  # type: ignore[arg-type]
        scanner.scan(compiled[:1], [None], 256, [np.inf])
        times = milliseconds(lambda c, s=scanner: s.scan([c], [None], 256, [np.inf]), compiled)
        floor = size * k / bandwidth / 1e6
        figures[f"{size}"] = {**times, "floor_ms": round(floor, 3), "times_floor": round(times["p50_ms"] / floor, 2)}
    return figures


def _write(folder: Path, rows: int, seed: int) -> Path:
    """Write tiles of codes: one real tile, then copies of it with noise of three codes, rows rotated."""
    path = folder / f"codes-{rows}-{seed}.u8"
    tiles = -(-rows // TILE)
    if path.exists() and path.stat().st_size == tiles * COLUMNS * TILE:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    world = World.make(COLUMNS, seed)
    parts = [world.models(i * 80, 80) for i in range(-(-TILE // 4000))]
    real = encode(np.concatenate(parts)[:TILE])[0]
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        for i in range(tiles):
            noise = rng.integers(-3, 4, TILE, dtype=np.int16)
            moved = np.roll(real, 1_009 * i, axis=1).astype(np.int16) + noise
            np.clip(moved, 0, 255).astype(np.uint8).tofile(file)
    return path
