"""Tiles of which only a part is here: which columns of the codes and which rows of the values, kept beside them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from search.store.tiles import TileInfo

if TYPE_CHECKING:
    from numpy.typing import NDArray

_GAP = 16_384
"""Bytes that are read along rather than in two requests."""


class Source(Protocol):
    """Brings what is missing."""

    def bring(self, spans: Sequence[tuple[Path, int, int]]) -> None:
        """Write the bytes from the one number to before the other to their places in files."""

    def whole(self, part: str) -> None:
        """Copy the files of a folder of the version."""


class Partial:
    """The tiles in ``folder``, whose files are in full length and filled as they are needed."""

    def __init__(self, folder: Path, infos: Sequence[TileInfo], n_probes: int, source: Source) -> None:
        self.source, self._n = source, n_probes
        self._files = [(folder / f"{info.name}.u8", folder / f"{info.name}.f16") for info in infos]
        self._rows = [info.rows for info in infos]
        self._codes = [_marks(codes, n_probes) for codes, _ in self._files]
        self._values = [_marks(values, info.rows) for (_, values), info in zip(self._files, infos, strict=True)]
        self._lock = threading.Lock()

    def columns(self, columns: NDArray[np.int32]) -> None:
        """Have the codes of ``columns`` here, of all logits."""
        wanted = np.unique(columns)
        self._have([(codes, here, wanted, rows) for (codes, _), here, rows in zip(
            self._files, self._codes, self._rows, strict=True)])  # fmt: skip

    def rows(self, chosen: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """Have the exact values of rows here: numbers of tiles, and rows within each."""
        self._have([(self._files[i][1], self._values[i], np.unique(rows), 2 * self._n) for i, rows in chosen])

    def _have(self, asked: Sequence[tuple[Path, NDArray[np.uint8], NDArray[np.integer], int]]) -> None:
        with self._lock:
            missing = [(path, here, wanted[here[wanted] == 0], size) for path, here, wanted, size in asked]
            spans = [(path, *span) for path, _, some, size in missing for span in _spans(some, size)]
            if spans:
                self.source.bring(spans)
                for _, here, some, _ in missing:
                    here[some] = 1  # after the bytes: a kill in between costs reading them again


def _marks(path: Path, count: int) -> NDArray[np.uint8]:
    """Return a byte for each part of a file, 1 where it is here; kept on the disk."""
    kept = path.with_name(f"{path.name}.here")
    if not kept.exists() or kept.stat().st_size != count:
        kept.write_bytes(bytes(count))
    return np.memmap(kept, np.uint8, "r+", shape=(count,))


def _spans(parts: NDArray[np.integer], size: int) -> list[tuple[int, int]]:
    """Return the bytes of ascending ``parts`` of ``size`` bytes each; neighbours, and near ones, as one."""
    found: list[tuple[int, int]] = []
    for part in parts.tolist():
        start, stop = part * size, (part + 1) * size
        if found and start - found[-1][1] <= _GAP and stop - found[-1][0] <= 1 << 20:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found
