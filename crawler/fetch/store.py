"""Fetched models on disk, one folder each: bounded, least recently used first to go, never one that is in use.

A folder in use is locked (``flock``, shared), so the processes of a run and a run beside it respect each other, and a
killed process leaves no lock behind.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)

_DONE = ".complete"


class Store:
    """Folders of fetched models under ``root``.

    Args:
        root: the folder; made when needed.
        max_bytes: what all models together may take; None for no bound.
    """

    def __init__(self, root: Path, max_bytes: int | None) -> None:
        self.root, self.max_bytes = root, max_bytes
        self._lock = threading.Lock()
        self._kept: dict[str, int] = {}

    def folder(self, name: str) -> Path:
        """Return where the model ``name`` lies or will lie."""
        return self.root / name

    def is_complete(self, name: str) -> bool:
        """Return whether every file of the model is there and verified."""
        # people delete the big folders of a cache, and not the little files beside them
        return (self.root / f"{name}{_DONE}").exists() and (self.root / name).is_dir()

    def complete(self, name: str) -> None:
        """Mark the model as whole."""
        (self.root / f"{name}{_DONE}").touch()

    def touch(self, name: str) -> None:
        """Note that the model is used now."""
        os.utime(self.root / f"{name}{_DONE}")

    def lock(self, name: str, *, shared: bool, wait: bool = True) -> int | None:
        """Lock a model and return the lock's file descriptor; None when another holds it and ``wait`` is False."""
        self.root.mkdir(parents=True, exist_ok=True)
        path = self.root / f"{name}.lock"
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
                if path.stat().st_ino == os.fstat(descriptor).st_ino:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                return None
            except FileNotFoundError:
                logger.debug("the lock of %s went with its model; taking a new one", name)
            os.close(descriptor)

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold a model alone, to fetch it; False when others hold it: who uses it may do so forever."""
        descriptor = self.lock(name, shared=False, wait=False)
        try:
            yield descriptor is not None
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def used(self) -> int:
        """Return the bytes that all models take, unfinished ones included."""
        return sum(_size(path) for path in self._folders())

    def make_room(self, name: str, needed: int) -> bool:
        """Delete models nobody uses, longest unused first, until ``needed`` bytes for ``name`` fit; return if they do.

        The room is then kept for it until `settle`, so that fetches beside each other do not count on the same bytes.
        """
        if self.max_bytes is None:
            return True
        with self._lock:
            folders = {folder.name: _size(folder) for folder in self._folders()}
            taken = {other: max(folders.get(other, 0), size) for other, size in self._kept.items()}
            used = sum((folders | taken).values()) - (folders | taken).get(name, 0)
            for folder in sorted(self._folders(), key=self._last_use):
                if used + needed <= self.max_bytes:
                    break
                if folder.name != name and folder.name not in self._kept and self.remove(folder.name):
                    used -= folders.get(folder.name, 0)
            if used + needed > self.max_bytes:
                return False
            self._kept[name] = needed
            return True

    def settle(self, name: str) -> None:
        """Stop keeping room for a model: it is on disk, or will not come."""
        with self._lock:
            self._kept.pop(name, None)

    def remove(self, name: str) -> bool:
        """Delete a model unless somebody uses it; return whether it is gone."""
        descriptor = self.lock(name, shared=False, wait=False)
        if descriptor is None:
            return False
        try:
            self.discard(name)
            (self.root / f"{name}.lock").unlink(missing_ok=True)
        finally:
            os.close(descriptor)
        return True

    def discard(self, name: str) -> None:
        """Delete the files of a model whose lock the caller holds alone."""
        # The mark goes first: a kill in between leaves a folder that is fetched again, never half a model.
        (self.root / f"{name}{_DONE}").unlink(missing_ok=True)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def _last_use(self, folder: Path) -> float:
        mark = self.root / f"{folder.name}{_DONE}"
        try:
            return (mark if mark.exists() else folder).stat().st_mtime
        except FileNotFoundError:
            return 0.0


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            logger.debug("%s went away while it was measured", path.name)
    return total
