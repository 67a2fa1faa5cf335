"""One crawl of a workspace at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workspace import WorkspaceError
from workspace.files import TEMPORARY_PREFIX


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one crawl; on success, delete what killed ones left unfinished in it.

    Raises `WorkspaceError` when another process crawls. The lock ends with the process, however that ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise WorkspaceError(f"another crawl of {folder.parent} is running: wait for it, or stop it") from error
    try:
        yield
        for pattern in (f"{TEMPORARY_PREFIX}*", ".seen-*"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
