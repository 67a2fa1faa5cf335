"""One crawl of a workspace at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workspace.files import TEMPORARY_PREFIX
from workspace.locks import alone


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold ``folder`` for one crawl; on success, delete what killed ones left unfinished in it.

    Raises `WorkspaceError` when another process crawls. The lock ends with the process, however that ends.
    """
    busy = f"another crawl of {folder.parent} is running: wait for it, or stop it"
    with alone(folder / ".lock", busy):
        yield
        for pattern in (f"{TEMPORARY_PREFIX}*", ".seen-*"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
