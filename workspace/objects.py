"""Objects of a remote on their way: bounded, compared with their names, looked through, counted."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workspace import commits
from workspace.errors import DamagedFileError, WorkspaceError
from workspace.files import replacing, sha256_of, using
from workspace.layout import Workspace
from workspace.stores import Store
from workspace.text import printable

_log = logging.getLogger(__name__)

LIMITS = {"catalog": 4 << 30, "runs": 64 << 20, "attempts": 64 << 20, "responses": 8 << 30}
"""Bytes of one object that is read, by folder."""

DIGITS = 32
"""Of a sha256 in a name."""

_THREADS = 16

Check = Callable[[str, Path], None]
"""Raises `WorkspaceError` when a table of this kind, a stranger's, may not be read."""


class Objects:
    """What goes between a workspace and the store of its remote.

    Attributes:
        folder: what is kept here of this remote; it may be deleted.
        counts: objects pulled, pushed and refused so far, and bytes each way.
    """

    def __init__(self, workspace: Workspace, store: Store, check: Check | None, progress: bool) -> None:
        self.workspace, self.store = workspace, store
        self.folder = commits.folder(workspace.cache_dir, workspace.remote)
        self.counts: Counter[str] = Counter()
        self._check, self._progress = check, progress

    def write(self, files: Mapping[str, Path | bytes]) -> None:
        """Write objects, in this order."""
        self.store.write(files)
        self.counts["pushed"] += len(files)
        self.counts["bytes_pushed"] += sum(len(c) if isinstance(c, bytes) else c.stat().st_size for c in files.values())

    def fetch(self, name: str, path: Path, digest: str, most: int, kind: str) -> None:
        """Bring an object to ``path``; raises `DamagedFileError` when it is not what its name says."""
        self.require_own(path)
        with replacing(path) as temporary:
            with using(path, "write"):
                self.store.fetch(name, temporary, most)
            self.accept(kind, temporary, name, digest)
        self.counts["pulled"] += 1

    def accept(self, kind: str, path: Path, name: str, digest: str) -> None:
        """Count the bytes of what came; raises `DamagedFileError` when they are not those that ``name`` says."""
        if not sha256_of(path).startswith(digest):
            raise DamagedFileError(Path(name), "its content is not what its name says", "nothing was kept of it")
        if self._check is not None:
            self._check(kind, path)
        self.counts["bytes_pulled"] += path.stat().st_size

    def refuse(self, name: str, why: object) -> None:
        """Count and tell an object that is left where it is."""
        self.counts["refused"] += 1
        _log.warning("refused from the remote: %s: %s", printable(name, 200), printable(why, 300))

    def require_own(self, path: Path) -> None:
        """Raise `WorkspaceError` when ``path`` leads out of the workspace."""
        self.workspace.require_own(path.parent)
        if path.is_symlink():
            raise WorkspaceError(f"{path} is a link: nothing is written there; delete it")

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder that is deleted afterwards, in the workspace: that has the room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            yield Path(folder)

    def parallel(self, do: Callable[[Any], Any], items: Collection[Any], what: str) -> Iterator[Any]:
        """Yield what ``do`` returns of each item, in their order, under a bar."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from self.bar(pool.map(do, items), what, len(items))

    def bar(self, items: Any, what: str, total: int | None = None) -> Any:
        """Return ``items`` under a bar."""
        from tqdm import tqdm

        return tqdm(items, desc=what, unit="file", total=total, disable=None if self._progress else True)
