"""Where the index keeps things, which version is current, and who may delete an old one.

::

    index/current.json                    version and sha256 of its manifest: renamed into place last, so a kill leaves
                                          the old index
    index/writer.lock                     held while building: one writer
    index/encoders/<key>.safetensors      the probes' embeddings under one encoder commit
    index/versions/<version>/
        manifest.json                     format, counts, sources, tiles with their checksums, encoder, library versions
        models.parquet  logits/           what is known of every model and logit
        lance/                            LanceDB: words of names, cards and labels; reduced vectors
        tiles/                            descriptors: row-major fp16 and probe-major u8
        reader.lock                       shared by every reader; a version in use is not deleted
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from search.store.tiles import TileInfo
from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.files import damaged, read_json, sha256_of, write_json
from workspace.locks import Lock, alone, lock

_VERSION = re.compile("[0-9A-Za-z][0-9A-Za-z_-]{0,99}")
_SHAPE: dict[str, type | tuple[type, ...]] = {
    "version": str, "probe_set": str, "n_probes": int, "models": int, "logits": int, "tiles": list, "files": list,
    "sources": list, "recall": dict, "versions": dict, "vector_index": str, "encoder": (dict, type(None)),
    "image_encoder": (dict, type(None)),
}  # fmt: skip

FORMAT = "5"
"""Of the index's files; an index of another format is refused, and rebuilt by ``hubprobe index``."""


def versions_dir(workspace: Workspace) -> Path:
    """Folder that holds one folder per version."""
    return workspace.index_dir / "versions"


def current(workspace: Workspace) -> Path | None:
    """Return the folder of the version in use, or None when there is no index."""
    return found[0] if (found := _pointer(workspace)) else None


def _pointer(workspace: Workspace) -> tuple[Path, str | None] | None:
    """Return the folder in use and the sha256 of its manifest, which older versions do not state."""
    path = workspace.index_dir / "current.json"
    if not path.exists():
        return None
    content = read_json(path, {"version": str})
    if not _VERSION.fullmatch(content["version"]):  # it becomes part of a path
        raise damaged(path, "it names no version of an index")
    return versions_dir(workspace) / content["version"], content.get("manifest")


def manifest(folder: Path, sha256: str | None = None) -> dict[str, Any]:
    """Return a version's manifest; raises `WorkspaceError` when it is missing, damaged or of another format.

    ``sha256`` is what `publish` stated of it; not compared when None.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        raise WorkspaceError(f"the index at {folder} is incomplete: run 'hubprobe index --rebuild'")
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise WorkspaceError(
            f"the index at {folder} has format {content.get('format')!r}, this hubprobe reads {FORMAT!r}: "
            "run 'hubprobe index --rebuild'"
        )
    if sha256 is not None and sha256_of(path) != sha256:
        raise damaged(path, "its checksum is another")
    return read_json(path, _SHAPE)


def require_files(folder: Path, content: dict[str, Any]) -> None:
    """Raise `WorkspaceError` when a file of a version but its tiles is missing or not as long as its manifest says.

    Cheap, so that opening can afford it; every byte is compared by `search.info.verify`.
    """
    try:
        lengths = [(str(name), int(length)) for name, length, _ in content["files"]]
    except (TypeError, ValueError) as error:
        raise damaged(folder / "manifest.json", f"its list of files cannot be read: {error}") from error
    for name, length in lengths:
        path = folder / name
        if not path.is_file() or path.stat().st_size != length:
            raise damaged(path, f"it is missing, or not of the {length} bytes that its manifest says")


def tiles_of(folder: Path, content: dict[str, Any]) -> list[TileInfo]:
    """Return the tiles of a version; raises `WorkspaceError` when its manifest does not say what a tile has."""
    try:
        return [TileInfo.from_json(entry) for entry in content["tiles"]]
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder / "manifest.json", f"its tiles cannot be read: {error}") from error


def open_current(workspace: Workspace) -> tuple[Path, dict[str, Any], Lock | None]:
    """Return folder, manifest and held lock of the version in use; raises `MissingStepError` when there is none.

    A build may swap and delete between reading the pointer and taking the lock: then the new pointer is read.
    """
    for _ in range(10):
        found = _pointer(workspace)
        if found is None:
            raise MissingStepError("index", "index")
        folder, sha256 = found
        try:
            held = lock(folder / "reader.lock", shared=True) if folder.is_dir() else None
            if held is None:
                raise WorkspaceError(f"{folder} is being deleted: run 'hubprobe index --rebuild'")
            content = manifest(folder, sha256)
            require_files(folder, content)
            return folder, content, held
        except (WorkspaceError, OSError):
            if current(workspace) == folder:
                raise
    raise WorkspaceError("the index is being rebuilt again and again: wait for the builds to end")


def writing(workspace: Workspace) -> AbstractContextManager[None]:
    """Hold the writer's lock; raises `WorkspaceError` at once when another process builds this index."""
    return alone(workspace.index_dir / "writer.lock", "another process is building this index: wait for it to end")


def publish(workspace: Workspace, version: str) -> None:
    """Make ``version`` the one that readers open from now on, then delete versions that nobody reads."""
    stated = sha256_of(versions_dir(workspace) / version / "manifest.json")
    write_json(workspace.index_dir / "current.json", {"version": version, "manifest": stated})
    remove_unused(workspace)


def remove_unused(workspace: Workspace) -> None:
    """Delete versions that are neither current nor open in any process; the writer's lock is held."""
    if not workspace.owns(versions_dir(workspace)):
        return  # a link that leads elsewhere: nothing is deleted there
    try:
        keep = current(workspace)
    except WorkspaceError:  # a damaged pointer: one of them was in use, and the next build writes it anew
        return
    folders = [p for p in versions_dir(workspace).glob("*") if p.is_dir() and p != keep]
    for folder in folders:
        held = lock(folder / "reader.lock")
        if held is not None:
            with held:
                shutil.rmtree(folder, ignore_errors=True)


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
