"""What a disk refuses, and whether a path is what it should be: sentences that name the file and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workspace.errors import DiskError, WorkspaceError

_FULL = "free space there, or move the workspace to a larger disk, and run the verb again"
_REMEDIES = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("your disk quota is used up", _FULL),
    errno.EFBIG: ("files may not grow so large here", "raise the limit (ulimit -f) and run the verb again"),
    errno.EROFS: ("the file system is read-only", "copy the workspace to one that can be written to"),
    errno.EACCES: ("permission denied", "give yourself the right to it, or copy the workspace"),
    errno.EPERM: ("the operation is not permitted", "give yourself the right to it, or copy the workspace"),
    errno.EIO: ("the disk reports an error", "check the disk, and copy the workspace while it can be read"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n) and run the verb again"),
    errno.ENFILE: ("too many files are open on this machine", "close some and run the verb again"),
    errno.ENOMEM: ("there is not enough memory", "free some and run the verb again"),
    errno.ESTALE: ("the network file system lost it", "mount it again and run the verb again"),
}
"""Refusals of the system that say nothing about what a file holds, and what to do about each."""

_WORDS = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "disk i/o error": errno.EIO,
}
"""How libraries that keep no error number say that they could not write."""


def refusal(error: BaseException) -> tuple[int, str | None] | None:
    """Return error number and file when ``error``, or what caused it, is a refusal of the system; None when it is not.

    Libraries written in Rust, and SQLite, keep the number only in their message.
    """
    at: BaseException | None = error
    for _ in range(20):  # causes may go round in circles
        if at is None:
            break
        number = at.errno if isinstance(at, OSError) else None
        if number is None and isinstance(at, PermissionError):
            number = errno.EACCES
        if number is None:
            text = str(at).lower()
            number = next((code for words, code in _WORDS.items() if words in text), None)
        if number in _REMEDIES:
            named = at.filename if isinstance(at, OSError) else None
            return number, named if isinstance(named, str) else None
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return None


def disk_error(path: Path, error: BaseException, doing: str) -> DiskError | None:
    """Return the error to raise when the system refused ``doing`` (``"read"``, ``"write"``) to ``path``, else None."""
    found = refusal(error)
    if found is None:
        return None
    number, named = found
    if named is not None and not Path(named).is_relative_to(path.parent):
        doing, path = "use", Path(named)  # what was refused is another file, such as one that is copied
    said, remedy = _REMEDIES[number]
    return DiskError(f"cannot {doing} {path}: {said}; {remedy}", number)


@contextmanager
def using(path: Path, doing: str) -> Iterator[None]:
    """Raise what the system refuses inside as a `DiskError` about ``doing`` (read, write) ``path``."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (refused := disk_error(path, error, doing)) is not None:
            raise refused from error
        raise


def require_file(path: Path) -> None:
    """Raise `WorkspaceError` when ``path`` is anything but a regular file: a pipe, a device, a folder, a dead link."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing" if not path.is_symlink() and not path.exists() else "no file"
        raise WorkspaceError(f"{path} is {what} where a regular file should be: move it away and run its verb again")
