"""Brings the files of eligible models to disk: the crawler's side of `workspace.seams.Fetch`."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from crawler.client import HubClient
from crawler.credentials import resolve_token
from crawler.downloads import download
from crawler.failures import UnansweredError
from crawler.inspection import PROCESSORS
from crawler.prefetch import Prefetch
from crawler.repository import Whereabouts, ask_paths, entries, shards, whereabouts
from crawler.rows import File, is_repo_id
from crawler.rules import CONFIG, INDEX, WEIGHTS, is_safe_path
from crawler.store import Store
from crawler.transport import Deadline
from workspace import ModelError, Status, Workspace, model_file_name
from workspace.seams import Fetched

logger = logging.getLogger(__name__)

MODEL_SECONDS = 3_600.0  # one model's files, waiting for our turn not counted
_GLANCE = 0.01  # seconds until a lock that others hold is looked at again
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
        self._client = HubClient(workspace.config.endpoint, resolve_token(token))
        self._store = Store(workspace.cache_dir / "models", max_disk_bytes)
        self._keep = keep
        self._ahead = Prefetch(os.close)

    def __repr__(self) -> str:
        return f"Fetcher({self._client.endpoint!r})"

    def close(self) -> None:
        """Stop fetching ahead and close the connections; files handed out stay until they are released."""
        self._ahead.close()
        self._client.close()

    def __call__(self, row: Mapping[str, Any]) -> Fetched:
        """Fetch the files of a catalog row, as `workspace.seams.Fetch` says.

        Raises `ModelError`: gated, disabled, gone, renamed, file_missing, corrupt_file, rate_limited, network_error,
        server_error, disk_full, unsafe_path.
        """
        started = time.monotonic()
        repo_id, sha = str(row["id"]), str(row["sha"])
        name = model_file_name(repo_id, sha)
        deadline = Deadline(MODEL_SECONDS)
        try:
            handle = self._ahead.take(name)
            if handle is None:
                handle = self._hold(row, name, deadline)
        except ModelError as error:
            raise ModelError(error.status, error.reason, repo_id=repo_id, sha=sha) from error
        except UnansweredError as error:
            status, reason = self._cause(repo_id, error, deadline)
            raise ModelError(status, reason, repo_id=repo_id, sha=sha) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            status = Status.DISK_FULL if full else Status.INTERNAL_ERROR
            raise ModelError(status, f"cannot write its files: {error.strerror}", repo_id=repo_id, sha=sha) from error
        self._store.touch(name)
        folder = self._store.folder(name)
        size = sum(path.stat().st_size for path in folder.iterdir())
        return Fetched(folder, size, time.monotonic() - started, _Release(self._store, name, handle, keep=self._keep))

    def prefetch(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Fetch these catalog rows in the background, in this order, and keep them until they are asked for.

        Call it again as the order becomes known: a new plan replaces the old one. A model that finds no room beside
        those in use waits for its demand; what goes wrong is raised then.
        """
        self._ahead.plan([(model_file_name(str(row["id"]), str(row["sha"])), self._bringer(row)) for row in rows])

    def _bringer(self, row: Mapping[str, Any]) -> Callable[[], int | None]:
        name = model_file_name(str(row["id"]), str(row["sha"]))

        def bring() -> int | None:
            try:
                return self._hold(row, name, Deadline(MODEL_SECONDS), patient=False)
            except _NoRoomError:
                return None

        return bring

    def _hold(self, row: Mapping[str, Any], name: str, deadline: Deadline, *, patient: bool = True) -> int:
        """Return a shared lock on the whole model, fetching it first where it is not there."""
        while True:
            handle = self._store.lock(name, shared=True)
            assert handle is not None
            if self._store.is_complete(name):
                return handle
            os.close(handle)
            with self._store.locked(name) as alone:
                if (
                    not alone
                ):  # others look whether it is there, or have just fetched it and keep it as long as they like
                    time.sleep(_GLANCE)
                elif not self._store.is_complete(name):
                    try:
                        self._bring(row, name, deadline, patient=patient)
                    finally:
                        self._store.settle(name)

    def _cause(self, repo_id: str, error: UnansweredError, deadline: Deadline) -> tuple[Status, str]:
        """A repository that is not there under its name may have another one."""
        if error.status is not Status.GONE:
            return error.status, error.reason
        found = whereabouts(self._client, repo_id, deadline)
        return (found.status, found.reason) if found is not None else (error.status, error.reason)

    def _bring(self, row: Mapping[str, Any], name: str, deadline: Deadline, *, patient: bool) -> None:
        repo_id, sha = str(row["id"]), str(row["sha"])
        if not is_repo_id(repo_id) or not sha.isalnum():
            raise ModelError(Status.MALFORMED_ROW)
        files = self._wanted(row, deadline)
        folder = self._store.folder(name)
        self._room(name, sum(file.size or 0 for file in files), patient=patient)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            target = folder / file.path
            if not target.exists():
                download(self._client, self._client.resolve_url(repo_id, sha, file.path), file, target, deadline)
        if {path.name for path in folder.iterdir()} - {file.path for file in files}:
            _clear(folder, {file.path for file in files})
        self._store.complete(name)

    def _room(self, name: str, needed: int, *, patient: bool) -> None:
        allowed = self._store.max_bytes
        if allowed is not None and needed > allowed:
            raise ModelError(Status.DISK_FULL, f"it needs {needed:,} bytes, --max-disk allows {allowed:,}")
        end = time.monotonic() + ROOM_SECONDS
        while not self._store.make_room(name, needed):
            if not patient:
                raise _NoRoomError
            if time.monotonic() > end:
                raise ModelError(Status.DISK_FULL, "models in use take all the space that --max-disk allows")
            self._ahead.make_way()
            time.sleep(0.1)

    def _wanted(self, row: Mapping[str, Any], deadline: Deadline) -> list[File]:
        """Return the files a probe needs, each with size and hash, asking the Hub for those the row lacks."""
        stated = {str(f["path"]): File(f["path"], f["size"], f["oid"], f["sha256"]) for f in row["files"] or ()}
        weights = [WEIGHTS] if WEIGHTS in stated else [INDEX]
        wanted = [CONFIG, *(path for path in PROCESSORS if path in stated), *weights]
        stated |= self._complete(row, [stated.get(path, File(path)) for path in wanted], deadline)
        if weights == [INDEX]:
            names = self._shards(row, stated[INDEX], deadline)
            stated |= self._complete(row, [stated.get(path, File(path)) for path in names], deadline)
            wanted += names
        return [stated[path] for path in wanted]

    def _complete(self, row: Mapping[str, Any], files: list[File], deadline: Deadline) -> dict[str, File]:
        lacking = [f.path for f in files if f.size is None or not (f.sha256 or f.oid)]
        known = {f.path: f for f in files}
        if lacking:
            answer = ask_paths(self._client, str(row["id"]), str(row["sha"]), lacking, deadline)
            if answer.location is not None:
                found = Whereabouts.of_redirect(self._client, str(row["id"]), answer.location)
                raise ModelError(found.status, found.reason)
            known |= {entry.path: entry for entry in entries(answer.body)}
        for file in known.values():
            if file.size is None or not (file.sha256 or file.oid):
                raise ModelError(Status.FILE_MISSING, f"{file.path} is not in the commit")
            if not is_safe_path(file.path) or "/" in file.path:
                raise ModelError(Status.UNSAFE_PATH)
        return known

    def _shards(self, row: Mapping[str, Any], index: File, deadline: Deadline) -> list[str]:
        name = model_file_name(str(row["id"]), str(row["sha"]))
        target = self._store.folder(name) / INDEX
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            url = self._client.resolve_url(str(row["id"]), str(row["sha"]), INDEX)
            download(self._client, url, replace(index), target, deadline)
        return shards(target.read_bytes())


class _NoRoomError(Exception):
    """There is no room for a model that nobody has asked for yet."""


class _Release:
    """Gives a model's files back, once; further calls do nothing."""

    def __init__(self, store: Store, name: str, handle: int, *, keep: bool) -> None:
        self._store, self._name, self._handle, self._keep = store, name, handle, keep
        self._lock = threading.Lock()
        self._done = False

    def __call__(self) -> None:
        with self._lock:
            if self._done:
                return
            self._done = True
        os.close(self._handle)
        if not self._keep:
            self._store.remove(self._name)


def _clear(folder: Path, keep: set[str]) -> None:
    for path in folder.iterdir():
        if path.name not in keep and path.is_file():
            path.unlink()
