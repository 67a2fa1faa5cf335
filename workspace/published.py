"""An index in a remote, read where it lies: what is small is copied once, of what is large what queries need.

The copy is a workspace in the user's cache (``XDG_CACHE_HOME``). Large files are there in full length but empty, and
what was read of them is written to its place: so they are mapped into memory like any, and nothing is read twice.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path

from workspace.config import Config
from workspace.errors import MissingStepError, RemoteError
from workspace.files import read_json, replacing, sha256_of, short_hash, using, write_json
from workspace.layout import MARKER, Workspace
from workspace.locks import lock
from workspace.remote import settings_at
from workspace.shared_files import MOST, listed
from workspace.stores import IMPATIENT, Store, open_store

Span = tuple[Path, int, int]
"""A file, and the bytes of it from the one number to before the other."""

_LATER = ("/tiles/", "/lance/", "/whitened/")
"""Parts of an index that are not copied when it is opened."""

_TOGETHER = 192
"""Requests at once: a question needs hundreds, and each waits for the network alone."""
_FILES = "published.json"


def is_address(path: object) -> bool:
    """Return whether ``path`` is the address of a remote and no folder."""
    return isinstance(path, str) and "://" in path


class Published:
    """The index at ``url``.

    Args:
        url: of a remote or a release: ``s3://``, ``gs://``, ``az://``, ``hf://datasets/ORG/NAME``, ``https://``.
        check: raises `WorkspaceError` for a copied file, here a stranger's, that may not be read.

    Attributes:
        workspace: the copy.
        bytes_read: bytes asked of large files so far.
    """

    def __init__(self, url: str, *, check: Callable[[Path], None] | None = None) -> None:
        self.url, self.bytes_read = url.rstrip("/"), 0
        self._check = check
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubprobe"
        self.folder = base / "published" / short_hash(self.url)
        with using(self.folder, "write"):
            self.folder.mkdir(parents=True, exist_ok=True)
        with lock(self.folder / ".lock", wait=True) or nullcontext():
            if not (self.folder / MARKER).exists():
                with replacing(self.folder / MARKER) as temporary:
                    temporary.write_text((settings_at(self.url) or Config()).to_toml(), encoding="utf-8")
            self.workspace = Workspace(self.folder, remote="")
            self._blobs = self._opened()

    @cached_property
    def store(self) -> Store:
        """Where it lies."""
        return open_store(self.url, IMPATIENT)

    def _opened(self) -> dict[str, tuple[str, int]]:
        """Copy what is small, make room for what is large; return the object of every file, and its size."""
        found = self.store.tagged("index/current.json")
        if found is None:
            raise MissingStepError(f"index at {self.url}", "release --with-index, or sync,")
        files = listed("index", found[0])
        kept = self.folder / _FILES
        if kept.exists() and read_json(kept) == {name: list(entry) for name, entry in files.items()}:
            return files
        todo = []
        for name, (digest, size) in sorted(files.items(), key=lambda entry: entry[0] == "index/current.json"):
            path = self.folder / name
            self.workspace.require_own(path.parent)
            if any(part in name for part in _LATER):
                with using(path, "write"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    for made in (path, *path.parent.glob(f"{path.name}.*")):  # also what says which parts are here
                        made.unlink(missing_ok=True)
                    with path.open("wb") as file:
                        file.truncate(size)  # takes no room yet
                if name.endswith(".over"):
                    todo.append((name, digest, size))
            else:
                todo.append((name, digest, size))
        self._copy(todo)
        write_json(kept, {name: list(entry) for name, entry in files.items()})
        versions = {name.split("/")[2] for name in files if name.startswith("index/versions/")}
        for old in (self.folder / "index" / "versions").iterdir():
            if old.name not in versions:
                shutil.rmtree(old, ignore_errors=True)
        return files

    def whole(self, part: str) -> None:
        """Copy the files of a part, such as ``lance``, that are not here yet."""
        done = self.folder / f".{part}-{short_hash(str(sorted(self._blobs)))}"
        if not done.exists():
            self._copy([(n, d, s) for n, (d, s) in self._blobs.items() if f"/{part}/" in n])
            done.touch()

    def _copy(self, files: Sequence[tuple[str, str, int]]) -> None:
        def copy(entry: tuple[str, str, int]) -> None:
            name, digest, size = entry
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".tmp-{path.name}")
            with using(path, "write"):
                try:
                    self.store.fetch(_blob(name, digest), temporary, min(size, MOST))
                    if sha256_of(temporary) != digest:
                        raise RemoteError(f"{self.url}: {name} is not what its list says; nothing was kept of it")
                    if self._check is not None:
                        self._check(temporary)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)

        with ThreadPoolExecutor(16) as pool:
            for first in (files[:-1], files[-1:]):  # current.json last
                list(pool.map(copy, first))

    def bring(self, spans: Sequence[Span]) -> None:
        """Read parts of large files and write them to their places. Raises `RemoteError` when they are not there."""

        def bring(span: Span) -> int:
            path, start, stop = span
            name = path.relative_to(self.folder).as_posix()
            content = self.store.read(_blob(name, self._blobs[name][0]), start, stop)
            if len(content) != stop - start:
                raise RemoteError(f"{self.url}: {name} ends before its list says")
            with using(path, "write"), path.open("r+b") as file:
                file.seek(start)
                file.write(content)
            return len(content)

        self.bytes_read += sum(self._pool.map(bring, spans))

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(_TOGETHER)


def _blob(name: str, digest: str) -> str:
    return f"index/{digest[:32]}{Path(name).suffix}"
