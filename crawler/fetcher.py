"""Brings the files of eligible models to disk: the crawler's side of `workspace.seams.Fetch`.

A folder a model, bounded: the least recently used goes first, never one that is in use. A folder in use is locked,
shared, so the processes of a run and a run beside it respect each other, and a killed process leaves no lock behind.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any

from crawler.decide.inspection import PROCESSORS
from crawler.decide.repository import MAX_ANSWER, ask_paths, has_hash, whereabouts
from crawler.decide.rules import CONFIG, is_safe_path
from crawler.hub.client import Answer, HubClient
from crawler.hub.transport import Deadline, RetryError, UnansweredError, exchange
from crawler.listing.rows import File, is_repo_id
from workspace import ModelError, Status, Workspace, model_file_name
from workspace.endpoint import token_for
from workspace.locks import Lock, lock
from workspace.safetensors_header import INDEX, LEAST_BYTES, WEIGHTS, shards
from workspace.seams import Fetched

logger = logging.getLogger(__name__)


_DONE = ".complete"


class Store:
    """Folders of fetched models under ``root``, which together take at most ``max_bytes``; None for no bound."""

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

    def lock(self, name: str, *, shared: bool, wait: bool = True) -> Lock | None:
        """Lock a model; None when another holds it and ``wait`` is False."""
        self.root.mkdir(parents=True, exist_ok=True)
        return lock(self.root / f"{name}.lock", shared=shared, wait=wait)

    @contextmanager
    def locked(self, name: str) -> Iterator[bool]:
        """Hold a model alone, to fetch it; False when others hold it: who uses it may do so forever."""
        with self.lock(name, shared=False, wait=False) or nullcontext() as held:
            yield held is not None

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
        with self.locked(name) as alone:
            if alone:
                self.discard(name)
                (self.root / f"{name}.lock").unlink(missing_ok=True)
        return alone

    def discard(self, name: str) -> None:
        """Delete the files of a model whose lock the caller holds alone."""
        # The mark goes first: a kill in between leaves a folder that is fetched again, never half a model.
        (self.root / f"{name}{_DONE}").unlink(missing_ok=True)
        shutil.rmtree(self.root / name, ignore_errors=True)

    def _folders(self) -> list[Path]:
        return [path for path in self.root.iterdir() if path.is_dir()] if self.root.is_dir() else []

    def _last_use(self, folder: Path) -> float:
        mark = self.root / f"{folder.name}{_DONE}"
        with suppress(FileNotFoundError):
            return (mark if mark.exists() else folder).stat().st_mtime
        return 0.0


def _size(folder: Path) -> int:
    total = 0
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(FileNotFoundError):  # it went away meanwhile
            total += path.stat().st_size
    return total


MODEL_SECONDS = 3_600.0  # one model's files, waiting for our turn not counted
_GLANCE = 0.01  # seconds until a lock that others hold is looked at again
RESUMED = frozenset({Status.NETWORK_ERROR, Status.SERVER_ERROR, Status.RATE_LIMITED})
"""Ends after which the parts that have arrived stay for the next attempt; after any other nothing stays."""
ROOM_SECONDS = 600.0  # how long to wait for room on a disk full of models in use


class Fetcher:
    """Fetches models pinned to their listed commit, verified, into the workspace's cache. Safe to share by threads.

    Args:
        workspace: its configuration names the endpoint; files go to its ``cache/models``.
        token: for the Hub; None takes the machine's own, False sends none.
        keep: whether files stay for the next run after they are released.
        max_disk_bytes: what the cache may take; None for no bound.
    """

    def __init__(
        self,
        workspace: Workspace,
        token: str | bool | None = None,
        *,
        keep: bool = True,
        max_disk_bytes: int | None = None,
    ) -> None:
        self._client = HubClient(workspace.config.endpoint, token_for(workspace.config.endpoint, token))
        self._store = Store(workspace.cache_dir / "models", max_disk_bytes)
        self._keep = keep

    def __repr__(self) -> str:
        return f"Fetcher({self._client.endpoint!r})"

    def close(self) -> None:
        """Close the connections; files handed out stay until they are released."""
        self._client.close()

    def __call__(self, row: Mapping[str, Any]) -> Fetched:
        """Fetch the files of a catalog row, as `workspace.seams.Fetch` says.

        Raises `ModelError`: gated, disabled, gone, renamed, file_missing, corrupt_file, rate_limited, network_error,
        server_error, disk_full, unsafe_path, truncated_weights, too_many_bytes.
        """
        started = time.monotonic()
        repo_id, sha = str(row["id"]), str(row["sha"])
        name = model_file_name(repo_id, sha)
        deadline = Deadline(MODEL_SECONDS)
        try:
            handle = self._hold(row, name, deadline)
        except ModelError as error:
            raise ModelError(error.status, error.reason, repo_id=repo_id, sha=sha) from error
        except UnansweredError as error:  # a repository that is not there under its name may have another one
            found = whereabouts(self._client, repo_id, deadline) if error.status is Status.GONE else None
            cause = found or error
            raise ModelError(cause.status, cause.reason, repo_id=repo_id, sha=sha) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            status = Status.DISK_FULL if full else Status.INTERNAL_ERROR
            raise ModelError(status, f"cannot write its files: {error.strerror}", repo_id=repo_id, sha=sha) from error
        self._store.touch(name)
        folder = self._store.folder(name)
        size = sum(path.stat().st_size for path in folder.iterdir())
        return Fetched(folder, size, time.monotonic() - started, _Release(self._store, name, handle, keep=self._keep))

    def _hold(self, row: Mapping[str, Any], name: str, deadline: Deadline) -> Lock:
        """Return a shared lock on the whole model, fetching it first where it is not there."""
        while True:
            handle = self._store.lock(name, shared=True)
            assert handle is not None
            if self._store.is_complete(name):
                return handle
            handle.close()
            with self._store.locked(name) as alone:
                if not alone:  # others fetch it, or have just fetched it and keep it as long as they like
                    time.sleep(_GLANCE)
                elif not self._store.is_complete(name):
                    try:
                        self._bring(row, name, deadline)
                    except (UnansweredError, ModelError, OSError) as error:
                        if getattr(error, "status", None) not in RESUMED:
                            self._store.discard(name)
                        raise
                    finally:
                        self._store.settle(name)

    def _bring(self, row: Mapping[str, Any], name: str, deadline: Deadline) -> None:
        """Fetch every file; they get their names when all of them are here and verified, not one before."""
        repo_id, sha = str(row["id"]), str(row["sha"])
        if not is_repo_id(repo_id) or not sha.isalnum() or not _commit(row, WEIGHTS).isalnum():
            raise ModelError(Status.MALFORMED_ROW)
        files = self._wanted(row, deadline)
        folder = self._store.folder(name)
        self._room(name, sum(file.size or 0 for file in files))
        for path in _made(folder).iterdir():  # of an earlier attempt
            if path.name not in {f"{file.path}{PART}" for file in files}:
                path.unlink()
        for file in files:
            self._download(repo_id, _commit(row, file.path), file, folder, deadline)
        for file in files:
            (folder / f"{file.path}{PART}").replace(folder / file.path)
        self._store.complete(name)

    def _download(self, repo_id: str, sha: str, file: File, folder: Path, deadline: Deadline) -> Path:
        part = folder / f"{file.path}{PART}"
        download(self._client, self._client.resolve_url(repo_id, sha, file.path), file, part, deadline)
        return part

    def _room(self, name: str, needed: int) -> None:
        allowed = self._store.max_bytes
        if allowed is not None and needed > allowed:
            raise ModelError(Status.DISK_FULL, f"it needs {needed:,} bytes, --max-disk allows {allowed:,}")
        end = time.monotonic() + ROOM_SECONDS
        while not self._store.make_room(name, needed):
            if time.monotonic() > end:
                raise ModelError(Status.DISK_FULL, "models in use take all the space that --max-disk allows")
            time.sleep(0.1)

    def _wanted(self, row: Mapping[str, Any], deadline: Deadline) -> list[File]:
        """Return the files a probe needs, each with size and hash, asking the Hub for those the row lacks."""
        stated = {str(f["path"]): File(f["path"], f["size"], f["oid"], f["sha256"]) for f in row["files"] or ()}
        weights = [WEIGHTS] if WEIGHTS in stated else [INDEX]
        others = [CONFIG, *(path for path in PROCESSORS if path in stated)]
        wanted = [*others, *weights]
        for part in (others, weights) if row.get("weights_sha") else (wanted,):
            stated |= self._complete(row, [stated.get(path, File(path)) for path in part], deadline)
        if weights == [INDEX]:
            names = self._shards(row, stated[INDEX], deadline)
            stated |= self._complete(row, [stated.get(path, File(path)) for path in names], deadline)
            wanted += names
            weights = names
        for path in wanted:
            if path not in weights and (stated[path].size or 0) > MAX_ANSWER:
                raise ModelError(Status.TOO_MANY_BYTES, f"{path} has {stated[path].size:,} bytes")
        for path in weights:
            size = stated[path].size or 0
            if size < LEAST_BYTES:
                raise ModelError(Status.TRUNCATED_WEIGHTS, f"{path} has {size} bytes, too few for a header")
        return [stated[path] for path in wanted]

    def _complete(self, row: Mapping[str, Any], files: list[File], deadline: Deadline) -> dict[str, File]:
        lacking = [f.path for f in files if f.size is None or not (f.sha256 or f.oid)]
        known = {f.path: f for f in files}
        if lacking:
            commit = _commit(row, lacking[0])  # those of the weights' commit are asked for by themselves
            known |= ask_paths(self._client, str(row["id"]), commit, lacking, deadline)
        for file in known.values():
            if file.size is None or not (file.sha256 or file.oid):
                raise ModelError(Status.FILE_MISSING, f"{file.path} is not in the commit")
            if not is_safe_path(file.path) or "/" in file.path:
                raise ModelError(Status.UNSAFE_PATH)
        return known

    def _shards(self, row: Mapping[str, Any], index: File, deadline: Deadline) -> list[str]:
        if (index.size or 0) > MAX_ANSWER:
            raise ModelError(Status.TOO_MANY_BYTES, f"{INDEX} has {index.size:,} bytes")
        repo_id, sha = str(row["id"]), str(row["sha"])
        folder = _made(self._store.folder(model_file_name(repo_id, sha)))
        return shards(self._download(repo_id, _commit(row, INDEX), index, folder, deadline).read_bytes())


def _commit(row: Mapping[str, Any], path: str) -> str:
    """Return the commit that a file is taken from: of a conversion bot's pull request the weights, and nothing else."""
    pinned = row.get("weights_sha")
    return str(pinned) if pinned and (path == INDEX or path.endswith(".safetensors")) else str(row["sha"])


def _made(folder: Path) -> Path:
    """Make the folder of a model and return it, with plain files of its own in it alone.

    The workspace may be a stranger's: a link under the name of a file that will come would be written through.
    """
    if folder.is_symlink():
        folder.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.is_symlink() or not path.is_file() or path.stat().st_nlink > 1:
            path.unlink()
    return folder


class _Release:
    """Gives a model's files back, once; further calls do nothing."""

    def __init__(self, store: Store, name: str, handle: Lock, *, keep: bool) -> None:
        self._store, self._name, self._handle, self._keep = store, name, [handle], keep

    def __call__(self) -> None:
        try:
            handle = self._handle.pop()  # one thread gets it
        except IndexError:
            return
        handle.close()
        if not self._keep:
            self._store.remove(self._name)


# ── one file: pinned, resumed where it broke off, not handed on before its hash is right ──────────────────────────────
WHOLE_TRIES = 2  # a file of the wrong hash is fetched once more: the first may have been damaged on its way
PIECE_SECONDS = 3_600.0  # one answer's body; a silent connection is cut long before


PART = ".part"
"""What a file's name ends in until every file of its model is here and verified."""


def download(client: HubClient, url: str, file: File, part: Path, deadline: Deadline) -> None:
    """Bring ``file`` to ``part`` (whose folder exists): size and hash are those its repository states.

    What has arrived already is continued, by this process or the next one.
    Raises `ModelError` (corrupt_file, disk_full) and `UnansweredError`.
    """
    try:
        for _ in range(WHOLE_TRIES):
            _complete(client, url, file, part, deadline)
            with part.open("rb") as content:
                if has_hash(file, part.stat().st_size, iter(partial(content.read, 1 << 20), b"")):
                    return
            part.unlink()
            logger.warning("%s: the bytes that came do not have the stated hash", file.path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(Status.DISK_FULL, f"no space for {file.path} ({file.size or 0:,} bytes)") from error
        raise
    raise ModelError(
        Status.CORRUPT_FILE, f"{file.path} came {WHOLE_TRIES} times with another content than its repository states"
    )


def _complete(client: HubClient, url: str, file: File, part: Path, deadline: Deadline) -> None:
    def once() -> None:
        have = part.stat().st_size if part.exists() else 0
        if file.size is not None and have > file.size:
            part.unlink()
            have = 0
        if have and have == file.size:
            return
        headers = {"range": f"bytes={have}-"} if have else {}
        seconds = max(min(PIECE_SECONDS, deadline.left), 0.01)
        with exchange(seconds), client.open(url, headers=headers, deadline=deadline) as (answer, chunks):
            _append(part, have, answer, chunks, file)

    client.retries.call(once, deadline, file.path)


def _append(part: Path, have: int, answer: Answer, chunks: Iterator[bytes], file: File) -> None:
    start = answer.span[0] if answer.span else 0  # a server that ignores the range sends everything again
    if start > have:
        problem = UnansweredError(Status.SERVER_ERROR, f"{file.path}: the Hub sent another part than was asked for")
        raise RetryError(problem)
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        out.truncate()
        for chunk in chunks:
            start += len(chunk)
            if file.size is not None and start > file.size:
                raise ModelError(Status.CORRUPT_FILE, f"{file.path} is longer than its repository states")
            out.write(chunk)
    if file.size is not None and start < file.size:
        # The connection was closed in order, so only the length tells: worth another try.
        problem = UnansweredError(Status.CORRUPT_FILE, f"{file.path} ends after {start:,} of {file.size:,} bytes")
        raise RetryError(problem)
