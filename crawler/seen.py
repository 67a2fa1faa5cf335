"""The ids a crawl has met: what makes every repository be booked once, and tells afterwards which ones are gone."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


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
        os.truncate(path, committed * 8)
        self._keys: set[int] = set(np.fromfile(path, np.int64).tolist())

    def __contains__(self, key: int) -> bool:
        return key in self._keys

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, key: int) -> None:
        """Add an id; it is on disk after the next `commit`."""
        self._keys.add(key)
        self._new.append(key)

    def restore(self, keys: Iterable[int]) -> None:
        """Add ids whose rows an interrupted page had already written."""
        for key in keys:
            if key not in self._keys:
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
        """Return all ids, unsorted."""
        return np.fromiter(self._keys, np.int64, len(self._keys))

    def remove(self) -> None:
        """Delete the copy: the crawl is finished."""
        self._path.unlink(missing_ok=True)
