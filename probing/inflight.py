"""Marks of the models being run, so that a model that takes its process down is known after the process is gone.

A mark is a small file, ``attempts/.inflight-<model>.json``, written before a model is loaded and removed when its row
is committed. What a mark that outlived its process can tell is little: anybody may have killed the process. So:

* A model runs in a child process, and its parent sees that child die. Twice is ``crashed``: nobody else was hurt.
* When the parent dies too (``kill -9``, a power cut, a cgroup's out-of-memory killer), the model in flight gets one
  death in its mark and is simply tried again. From `LAST_AFTER` deaths on it is tried after all others, so that it
  cannot keep them from being run; at `GIVE_UP_AFTER` consecutive deaths it is booked as ``crashed``.
* A mark goes when its model ends, or, of a process killed just then, in the next run: deaths count only if no attempt
  in between came to an end.
"""

from __future__ import annotations

import logging
import math
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from workspace import Workspace, WorkspaceError
from workspace.files import TEMPORARY_PREFIX, read_json, write_json

_log = logging.getLogger(__name__)

PREFIX = ".inflight-"

LAST_AFTER = 2
"""Deaths of the whole run with a model in flight after which the model is tried last."""

BEAT_SECONDS = 60.0
"""How often the marks of models in flight are touched."""

STALE_SECONDS = 600.0
"""Age, by the disk's clock, from which on a mark that another host made counts as one of the dead."""

GIVE_UP_AFTER = 5
"""Deaths of the whole run with a model in flight after which it is booked as crashed; three kills by a user are not."""


def path_of(workspace: Workspace, stem: str) -> Path:
    """Return the mark's path of the model with this file stem."""
    return workspace.attempts_dir / f"{PREFIX}{stem}.json"


def put(workspace: Workspace, stem: str, repo_id: str, sha: str, deaths: int) -> Path:
    """Mark a model as in flight in this process; unlink the path when its row is committed."""
    path = path_of(workspace, stem)
    owner = {"pid": os.getpid(), "host": socket.gethostname(), "born": _born(os.getpid())}
    write_json(path, {"repo_id": repo_id, "sha": sha, "deaths": deaths, **owner})
    return path


def touch(workspace: Workspace, stems: Iterable[str]) -> None:
    """Say that the models with these file stems are still being run."""
    for stem in stems:
        with suppress(OSError):
            os.utime(path_of(workspace, stem))


def recover(workspace: Workspace, *, others: bool = False) -> tuple[dict[tuple[str, str], int], set[tuple[str, str]]]:
    """Return the deaths of every model whose mark outlived its process, and the models other processes run now.

    Counts the death in the mark itself, and deletes what dead processes left half written. Call it from one process
    before any starts to run models. With ``others``, other hosts may be at work: what they run now is busy, and nothing
    is deleted. Without, a mark of another host is one of the dead: this machine has got another name since.
    """
    now = _now(workspace) if others else math.inf
    deaths: dict[tuple[str, str], int] = {}
    busy: set[tuple[str, str]] = set()
    for path, mark in _marks(workspace):
        if mark is None:
            if path.is_file() and workspace.owns(path.parent):
                path.unlink(missing_ok=True)
            continue
        key, count = (mark["repo_id"], mark["sha"]), mark["deaths"]
        if mark.get("pid") is not None and _alive(mark, path, now):
            busy.add(key)
            continue
        if mark.get("pid") is not None:
            count += 1
            write_json(path, {"repo_id": key[0], "sha": key[1], "deaths": count})
        deaths[key] = count
    if not busy and not others:
        sweep(workspace)
    return deaths, busy


def any_running(workspace: Workspace) -> bool:
    """Return whether any process runs a model of this workspace now, this one and other hosts' included."""
    now = _now(workspace)
    return any(
        mark is not None and mark.get("pid") is not None and (mark["pid"] == os.getpid() or _alive(mark, path, now))
        for path, mark in _marks(workspace)
    )


def _marks(workspace: Workspace) -> Iterator[tuple[Path, dict[str, Any] | None]]:
    """Yield every mark; None for one that is gone meanwhile, or damaged: no sign of life."""
    for path in sorted(workspace.attempts_dir.glob(f"{PREFIX}*.json")):
        try:
            yield path, read_json(path, {"repo_id": str, "sha": str, "deaths": int})
        except WorkspaceError as error:
            _log.warning("ignoring a mark: %s", error)
            yield path, None


def sweep(workspace: Workspace, pid: int | None = None) -> None:
    """Delete the temporary files that processes left which are dead, all of them or one; pixels can be gigabytes."""
    mine = re.compile(rf"-{pid}(-|$)")
    for folder in (workspace.attempts_dir, workspace.root / "responses", workspace.cache_dir / "inputs"):
        for path in list(folder.rglob(f"{TEMPORARY_PREFIX}*")) if folder.is_dir() and workspace.owns(folder) else []:
            if pid is not None and not mine.search(path.name):
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _now(workspace: Workspace) -> float:
    """Return the time by the clock of the disk, which may be another machine's."""
    path = workspace.attempts_dir / ".clock"
    try:
        path.touch()
        return path.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        path.unlink(missing_ok=True)


def _alive(mark: dict[str, Any], path: Path, now: float) -> bool:
    """Return whether the process that wrote ``mark`` still runs; on another host: whether it was touched lately."""
    pid = mark.get("pid")
    if not isinstance(pid, int) or not 0 < pid < 2**31:
        return False
    if mark.get("host") != socket.gethostname():
        with suppress(OSError):
            return now - path.stat().st_mtime < STALE_SECONDS
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid != os.getpid() and _born(pid) == mark.get("born")


def _born(pid: int) -> str:
    """Return when ``pid`` was started, in ticks since boot: a number is used again, with another birth."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]  # a zombie runs nothing
    except (OSError, IndexError):
        return ""
