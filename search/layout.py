"""Where the index keeps things, which version is current, and who may delete an old one.

::

    index/current.json                    {"version": ...}: renamed into place last, so a kill leaves the old index
    index/writer.lock                     held while building: one writer
    index/encoders/<key>.safetensors      the probes' embeddings under one encoder commit
    index/versions/<version>/
        manifest.json                     format, counts, sources, tiles with their checksums, encoder, library versions
        lance/                            LanceDB: models, logits, vectors
        tiles/                            descriptors: row-major fp16 and probe-major u8
        reader.lock                       shared by every reader; a version in use is not deleted
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.files import read_json, write_json

_LOCKS = find_spec("fcntl") is not None  # not on Windows: there nothing is locked, so one must build at a time

FORMAT = "4"
"""Of the index's files; an index of another format is refused, and rebuilt by ``hubprobe index``."""


def versions_dir(workspace: Workspace) -> Path:
    """Folder that holds one folder per version."""
    return workspace.index_dir / "versions"


def current(workspace: Workspace) -> Path | None:
    """Return the folder of the version in use, or None when there is no index."""
    path = workspace.index_dir / "current.json"
    if not path.exists():
        return None
    return versions_dir(workspace) / Path(str(read_json(path)["version"])).name


def manifest(folder: Path) -> dict[str, Any]:
    """Return a version's manifest; raises `WorkspaceError` when it is missing or of another format."""
    path = folder / "manifest.json"
    if not path.is_file():
        raise WorkspaceError(f"the index at {folder} is incomplete: run 'hubprobe index --rebuild'")
    content: dict[str, Any] = read_json(path)
    if content.get("format") != FORMAT:
        raise WorkspaceError(
            f"the index at {folder} has format {content.get('format')!r}, this hubprobe reads {FORMAT!r}: "
            "run 'hubprobe index --rebuild'"
        )
    return content


def open_current(workspace: Workspace) -> tuple[Path, dict[str, Any], IO[bytes] | None]:
    """Return folder, manifest and held lock of the version in use; raises `MissingStepError` when there is none.

    A build may swap and delete between reading the pointer and taking the lock: then the new pointer is read.
    """
    for _ in range(10):
        folder = current(workspace)
        if folder is None:
            raise MissingStepError("index", "index")
        try:
            lock = _lock(folder / "reader.lock", shared=True) if folder.is_dir() else None
            return folder, manifest(folder), lock
        except (WorkspaceError, OSError):
            if current(workspace) == folder:
                raise
    raise WorkspaceError("the index is being rebuilt again and again: wait for the builds to end")


@contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Hold the writer's lock; raises `WorkspaceError` at once when another process builds this index."""
    workspace.index_dir.mkdir(parents=True, exist_ok=True)
    try:
        lock = _lock(workspace.index_dir / "writer.lock", shared=False)
    except BlockingIOError as error:
        raise WorkspaceError("another process is building this index: wait for it to end") from error
    try:
        yield
    finally:
        if lock is not None:
            lock.close()


def publish(workspace: Workspace, version: str) -> None:
    """Make ``version`` the one that readers open from now on, then delete versions that nobody reads."""
    write_json(workspace.index_dir / "current.json", {"version": version})
    remove_unused(workspace)


def remove_unused(workspace: Workspace) -> None:
    """Delete versions that are neither current nor open in any process; the writer's lock is held."""
    keep = current(workspace)
    folders = [p for p in versions_dir(workspace).glob("*") if p.is_dir() and p != keep]
    for folder in folders:
        try:
            lock = _lock(folder / "reader.lock", shared=False)
        except BlockingIOError:
            continue
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            lock.close()


def folder_bytes(folder: Path) -> int:
    """Return the size of all files under ``folder``."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


def clone(source: Path, target: Path) -> None:
    """Copy a folder by hard links where the file system has them: its files are never changed in place."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
            continue
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, copy)
        except OSError:
            shutil.copy2(path, copy)


def _lock(path: Path, *, shared: bool) -> IO[bytes] | None:
    if not _LOCKS:  # pragma: no cover - Windows
        return None
    import fcntl

    file = path.open("ab")
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        if shared:
            raise OSError(f"{path} is being deleted") from None
        raise
    return file
