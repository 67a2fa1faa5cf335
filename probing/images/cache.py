"""Arrays kept as files in ``cache/inputs/``: made once under a lock, memory-mapped, the longest unused deleted first.

An entry is a folder with ``pixels`` and ``meta.json``, renamed into place when complete. All of it is safe to delete.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from workspace import runs
from workspace.files import TEMPORARY_PREFIX, canonical_json, read_json, short_hash, write_json
from workspace.locks import lock

_log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 64 * 1024**3
"""Arrays kept on disk, in bytes: about 100 geometries of 4,000 probes at 224 pixels. Oldest use goes."""

_LIBRARIES = ("pillow", "timm", "torchvision", "transformers")


def key(*parts: Any) -> str:
    """Return the name of the entry that ``parts`` and the versions of the libraries that decode and resize decide."""
    versions = {k: v for k, v in runs.versions().items() if k in _LIBRARIES}
    return short_hash(canonical_json([*parts, versions]))


def open_entry(folder: Path) -> tuple[npt.NDArray[Any] | None, dict[str, Any]]:
    """Return the array in ``folder``, None where it says that there is none to have, and what else was said of it.

    It is mapped to be read only: a private map would count as memory of the process.
    """
    meta = read_json(folder / "meta.json", {"dtype": str, "shape": list})
    if meta["dtype"] == "none":
        return None, meta
    os.utime(folder)  # the time of last use: what is evicted first
    if not all(meta["shape"]):
        return np.empty(meta["shape"], meta["dtype"]), meta
    return np.memmap(folder / "pixels", dtype=meta["dtype"], mode="r", shape=tuple(meta["shape"])), meta


@contextmanager
def making(folder: Path) -> Iterator[Path | None]:
    """Yield a temporary folder to make the entry in, under a lock; None when another process has made it meanwhile.

    It is renamed to ``folder`` at the end if a ``meta.json`` was written to it, else deleted.
    """
    with _lock(folder.parent, folder.name):
        if (folder / "meta.json").exists():
            yield None
            return
        temporary = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{os.getpid()}")
        for left in folder.parent.glob(f"{TEMPORARY_PREFIX}{folder.name}-*"):  # the lock is ours: its maker is dead
            shutil.rmtree(left, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if (temporary / "meta.json").exists():
                temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def clean_after(root: Path) -> int:
    """Delete what killed processes left half made in ``root``, such as ``cache/inputs/``; return how many bytes.

    What a living process is making is left to it: it holds the lock of its entry.
    """
    freed = 0
    for left in root.glob(f"{TEMPORARY_PREFIX}*-*") if root.is_dir() else ():
        name = left.name.removeprefix(TEMPORARY_PREFIX).rpartition("-")[0]
        with _lock(root, name, wait=False) as held:
            if held:
                freed += sum(path.stat().st_size for path in left.glob("*") if path.is_file())
                shutil.rmtree(left, ignore_errors=True)
    if freed:
        _log.info("deleted %d bytes of half made preprocessed probes", freed)
    return freed


def room_for(folder: Path, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a new array in ``folder``, its blocks allocated: a map over a full disk would fault, not raise `OSError`.

    Others are evicted for it first.
    """
    size = int(np.prod(shape)) * np.dtype(kind).itemsize
    evict(folder.parent, size)
    with (folder / "pixels").open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
    mode: Any = "r+" if hasattr(os, "posix_fallocate") else "w+"
    return np.memmap(folder / "pixels", dtype=kind, mode=mode, shape=shape)


def finish(folder: Path, kind: str | None, shape: tuple[int, ...], **more: Any) -> None:
    """Write the ``meta.json`` of the array in ``folder``; a ``kind`` of None: there is none to have."""
    if kind is None:
        (folder / "pixels").unlink(missing_ok=True)
    write_json(folder / "meta.json", {"dtype": kind or "none", "shape": list(shape), **more})


def evict(root: Path, wanted: int) -> None:
    """Delete the entries used longest ago until ``wanted`` bytes fit under the cap. Open maps stay readable."""
    clean_after(root)
    names = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    entries = [p for p in names if (p / "pixels").exists()]
    sizes = {p: (p / "pixels").stat().st_size for p in entries}
    for path in sorted(entries, key=lambda p: p.stat().st_mtime):
        if sum(sizes.values()) + wanted <= MAX_CACHE_BYTES:
            return
        _log.info("evicting preprocessed probes %s (%d bytes)", path.name, sizes.pop(path))
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(root: Path, name: str, wait: bool = True) -> Iterator[bool]:
    """Hold a lock that its owner's death releases: two ranks must not make the same pixels.

    Yield whether it is held: without ``wait`` it may be another's.
    """
    root.mkdir(parents=True, exist_ok=True)
    held = lock(root / f".lock-{name}", wait=wait)
    if held is None:
        yield False
        return
    with held:
        yield True
