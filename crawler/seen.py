"""The ids a crawl has met: what makes every repository be booked once, and tells afterwards which ones are gone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

RECENT = 20_000
"""Ids kept as Python integers, 100 bytes each; the others are in a sorted array, 8 bytes each."""


class Seen:
    """A set of id hashes with a copy on disk, 8 bytes an id, that grows with every committed page.

    Args:
        path: the copy.
        committed: ids on disk that the journal vouches for; what a killed process wrote after them is cut off.
    """

    def __init__(self, path: Path, committed: int) -> None:
        self._path = path
        self._new: list[int] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.truncate(path, min(committed * 8, path.stat().st_size))
        self._settled = np.unique(np.fromfile(path, np.int64))
        self._recent: set[int] = set()

    def __contains__(self, key: int) -> bool:
        if key in self._recent:
            return True
        at = int(np.searchsorted(self._settled, key))
        return at < len(self._settled) and bool(self._settled[at] == key)

    def __len__(self) -> int:
        return len(self._settled) + len(self._recent)

    def add(self, key: int) -> None:
        """Add an id that is not in it; it is on disk after the next `commit`."""
        self._recent.add(key)
        self._new.append(key)
        if len(self._recent) >= RECENT:
            self._settled, self._recent = self.array(), set()

    def restore(self, keys: Iterable[int]) -> None:
        """Add ids whose rows an interrupted page had already written."""
        for key in keys:
            if key not in self:
                self.add(key)

    def commit(self) -> int:
        """Write what was added and return how many ids the file now holds."""
        with self._path.open("ab") as file:
            np.array(self._new, np.int64).tofile(file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        self._new.clear()
        return size // 8

    def array(self) -> np.ndarray:
        """Return all ids, ascending."""
        return np.union1d(self._settled, np.fromiter(self._recent, np.int64, len(self._recent)))

    def remove(self) -> None:
        """Delete the copy: the crawl is finished."""
        self._path.unlink(missing_ok=True)
