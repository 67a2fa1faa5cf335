"""Attempts that lie in a workspace's remote: what their names say, and which of them are known here.

The name of an attempt is the commit. It says which model ended, how, on how many probes, and which responses it has, so
that a host learns from a list alone what the others have done::

    attempts/<probe_set>/<time>-<model>-<attempt>-<status>-<probes>-<responses>-<bytes>.<sha256>

The object is the row's Parquet file, of so many bytes and that hash, and where the attempt has responses their Parquet
file after it, of the hash ``<responses>``: one request commits a model, one brings it, and the row alone is a range. Of
two commits of one attempt the earlier counts; hashes are the first 32 hex digits of the sha256 of the content.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from workspace.files import replacing, require_file, short_hash
from workspace.records import ATTEMPTS
from workspace.status import Status

Place = tuple[str, int]
"""A model's file stem, and the number of an attempt at it."""

TIME = "%Y%m%dT%H%M%SZ"
FILE = "commits.txt"
MAX_BYTES = 512 * 1024**2

_NAME = re.compile(
    "attempts/(?P<probe_set>[0-9a-f]{16})/(?P<at>[0-9]{8}T[0-9]{6}Z)-(?P<stem>[0-9a-f]{16})-(?P<number>[0-9]{3,6})-"
    "(?P<status>[a-z_]{2,40})-(?P<probes>[0-9]{1,9})-(?P<responses>[0-9a-f]{32}|none)-(?P<row_bytes>[0-9]{1,8})"
    r"\.(?P<digest>[0-9a-f]{32})"
)
_STATUSES = frozenset(s.value for s in Status) - {Status.ELIGIBLE.value}


class Commit(NamedTuple):
    """One attempt in the remote. ``responses`` is empty where it has none; ``probes`` counts those run or refused.

    ``row_bytes`` is how long the row's file is, with which the object begins.
    """

    probe_set: str
    at: str
    stem: str
    number: int
    status: str
    probes: int
    responses: str
    row_bytes: int
    digest: str

    @property
    def name(self) -> str:
        """Name of its object."""
        return (
            f"attempts/{self.probe_set}/{self.at}-{self.stem}-{self.number:03d}-{self.status}-{self.probes}-"
            f"{self.responses or 'none'}-{self.row_bytes}.{self.digest}"
        )

    @property
    def time(self) -> datetime:
        """When it was committed, by the clock of the host that did."""
        return _time(self.at)

    @property
    def place(self) -> Place:
        """The attempt it is of."""
        return self.stem, self.number


def parse(name: str) -> Commit | None:
    """Return what the name of an object says; None when it is that of no attempt."""
    found = _NAME.fullmatch(name)
    if found is None or found["status"] not in _STATUSES or found["responses"] == "none" != found["status"] == "ok":
        return None
    try:
        _time(found["at"])
    except ValueError:
        return None
    responses = found["responses"].replace("none", "")
    of_it = int(found["number"]), found["status"], int(found["probes"]), responses, int(found["row_bytes"])
    return Commit(found["probe_set"], found["at"], found["stem"], *of_it, found["digest"])


def add(known: dict[Place, Commit], commit: Commit) -> bool:
    """Add a commit to those known, the earlier of two of one attempt; return whether the attempt was known."""
    other = known.get(commit.place)
    if other is None or (commit.at, commit.digest) < (other.at, other.digest):
        known[commit.place] = commit
    return other is not None and other != commit


def folder(cache: Path, remote: str) -> Path:
    """Return the folder of what is known of a remote, which may be deleted: then it is listed again."""
    return cache / "remote" / short_hash(remote)


def load(folder: Path) -> dict[Place, Commit]:
    """Return the commits known here."""
    path, known = folder / FILE, dict[Place, Commit]()
    if path.exists():
        require_file(path)
        for line in path.read_text(encoding="utf-8").splitlines() if path.stat().st_size < MAX_BYTES else ():
            if (commit := parse(line)) is not None:
                add(known, commit)
    return known


def save(folder: Path, known: Mapping[Place, Commit]) -> None:
    """Keep the commits known here, by one name a line."""
    with replacing(folder / FILE) as temporary:
        temporary.write_text("".join(f"{name}\n" for name in sorted(c.name for c in known.values())), encoding="utf-8")


def as_attempts(known: Iterable[Commit], models: Mapping[str, tuple[str, str]]) -> pa.Table:
    """Return rows of `records.ATTEMPTS` with what names say; ``models`` has the key of every file stem."""
    rows = [
        {
            "repo_id": models[c.stem][0],
            "sha": models[c.stem][1],
            "attempt": c.number,
            "outcome": Status(c.status).outcome.value,
            "status": c.status,
            "reason": "",
            "started_at": c.time,
            "probe_set": c.probe_set,
            "probes_run": c.probes,
        }
        for c in known
        if c.stem in models
    ]
    return pa.Table.from_pylist([{name: row.get(name) for name in ATTEMPTS.names} for row in rows], schema=ATTEMPTS)


def _time(at: str) -> datetime:
    return datetime.strptime(at, TIME).replace(tzinfo=timezone.utc)
