"""Locks that end with the process that holds them; those of readers work in a folder that may only be read.

``flock`` and not filelock: a reader's lock is shared, and filelock's shared locks need a folder that can be written to.
On Windows nothing is locked, so one process must write at a time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import IO

from workspace.errors import WorkspaceError
from workspace.files import require_file, using

_FLOCK = find_spec("fcntl") is not None


class Lock:
    """A lock that is held until it is closed. Where nothing can be locked it holds nothing."""

    def __init__(self, file: IO[bytes] | None) -> None:
        self._file = file

    def __enter__(self) -> Lock:  # noqa: PYI034 - Self needs Python 3.11
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        if self._file is not None:
            self._file.close()


def lock(path: Path, *, shared: bool = False, wait: bool = False) -> Lock | None:
    """Lock ``path``, a file that is made when its folder is there; None when another holds it and ``wait`` is False.

    A shared lock in a folder that cannot be written to is taken on the file that lies there, or on nothing: then
    nobody could delete what it protects either. Raises `DiskError` when an exclusive one cannot be made, and
    `WorkspaceError` for what is no regular file.
    """
    while True:
        file = _opened(path, shared)
        if file is None or not _FLOCK:
            return Lock(file)
        import fcntl

        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
            if _is_there(path, file):
                return Lock(file)
        except BlockingIOError:
            file.close()
            return None
        except BaseException:
            file.close()
            raise
        file.close()  # deleted while we waited, with what it protected: lock the new one


@contextmanager
def alone(path: Path, busy: str) -> Iterator[None]:
    """Hold ``path`` alone, making its folder; raises `WorkspaceError` with the sentence ``busy`` when another does."""
    with using(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
    held = lock(path)
    if held is None:
        raise WorkspaceError(busy)
    with held:
        yield


def _opened(path: Path, shared: bool) -> IO[bytes] | None:
    if not path.is_file() and (path.is_symlink() or path.exists()):  # opening a pipe would wait for ever
        require_file(path)
    try:
        with using(path, "write"):
            return path.open("ab")
    except OSError:
        if not shared:
            raise
        return path.open("rb") if path.is_file() else None


def _is_there(path: Path, file: IO[bytes]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False
