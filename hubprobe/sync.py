"""A workspace and its remote: ``hubprobe sync``, and what each verb pulls before and pushes after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from workspace import Config, Workspace, WorkspaceError, records
from workspace.config import WorkspaceConfig
from workspace.errors import DamagedFileError
from workspace.layout import MARKER

if TYPE_CHECKING:
    from workspace.remote import Remote

_log = logging.getLogger(__name__)

_ALL = ("catalog", "probes", "models", "descriptors", "index", "runs")
PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "crawl": (("catalog",), ("catalog",)),
    "build": (("probes",), ("probes",)),
    "probe": (("catalog", "probes", "commits"), ("models", "runs")),
    "complete": (("catalog", "probes", "models", "descriptors"), ("descriptors", "runs")),
    "index": (("catalog", "probes", "attempts", "descriptors", "index"), ("index",)),
    "run": (("catalog", "probes"), ()),  # what its steps do, they do by themselves
    "status": (("catalog", "probes", "commits"), ()),
    "open": (("probes", "index"), ()),
    "evaluate": (("probes", "index"), ()),
    "release": (_ALL, ()),
    "sync": (_ALL, _ALL),
}
"""What a verb pulls before it runs, and pushes after, as parts of `Remote.pull`. ``open`` is to ask the index."""

READS = (("catalog", "probes", "attempts", "index", "runs"), ())
"""The same of every verb that is not named: it reads tables."""


@dataclass(frozen=True)
class SyncSummary:
    """What a sync did, or with ``dry_run`` would do."""

    remote: str  # address
    pulled: int  # objects
    pushed: int  # objects
    refused: int  # objects that are not what they should be, and were left where they are
    duplicates: int  # attempts that two hosts committed; the earlier counts
    committed: int  # attempts in the remote, at the probe set in use
    bytes_pulled: int
    bytes_pushed: int
    requests: int  # asked of the store


def sync(
    workspace: Workspace | str | Path, *, remote: str | None = None, dry_run: bool = False, progress: bool = True
) -> SyncSummary:
    """Pull what is new in a workspace's remote, and push what was committed here.

    Args:
        workspace: the workspace, or its path; made with the remote's settings when there is none and ``remote`` is
            given.
        remote: address, which a workspace that is made keeps; that of the workspace when None.
        dry_run: count, copy nothing.
        progress: show progress bars on stderr.

    Raises `WorkspaceError` when there is no remote, `RemoteError` when it cannot be used.
    """
    if not isinstance(workspace, Workspace):
        workspace = _opened(Path(workspace), remote)
    if not workspace.remote:
        raise WorkspaceError(
            f'{workspace.root} has no remote: give --remote, or write [workspace] remote = "s3://bucket/name" into its '
            f"{MARKER}"
        )
    there = opened(workspace, progress=progress)
    pulls, pushes = PARTS["sync"]
    pulled = there.pull(*pulls[:2], dry_run=dry_run)
    there.news(late=None)
    pulled += there.pull(*pulls[2:], dry_run=dry_run)
    pushed = there.push(*pushes, dry_run=dry_run)
    if not dry_run:
        pushed += there.keep_settings()
    counts = there.counts
    return SyncSummary(
        workspace.remote,
        pulled=pulled if dry_run else counts["pulled"],
        pushed=pushed if dry_run else counts["pushed"],
        refused=counts["refused"],
        duplicates=counts["duplicates"],
        committed=len(there.commits),
        bytes_pulled=counts["bytes_pulled"],
        bytes_pushed=counts["bytes_pushed"],
        requests=there.requests,
    )


def _opened(folder: Path, remote: str | None) -> Workspace:
    """Open a workspace; make it when there is none, with the settings that its remote keeps."""
    from workspace.remote import settings_at

    if remote is not None and not (folder / MARKER).exists():
        Workspace.create(folder, replace(settings_at(remote) or Config(), workspace=WorkspaceConfig(remote=remote)))
    return Workspace(Workspace.open(folder).root, remote=remote)


def opened(workspace: Workspace, *, progress: bool = False) -> Remote:
    """Return a workspace's remote, whose tables are looked through as a stranger's before anything else reads them."""
    from workspace.remote import Remote

    return Remote(workspace, check=_checked, progress=progress)


@contextmanager
def synced(workspace: Workspace, verb: str, *, progress: bool = False, alone: bool = True) -> Iterator[Remote | None]:
    """Pull what ``verb`` reads before the block, and push what it wrote after; yield the remote, or None.

    With ``alone`` False another process of this host does both, and what is yielded pushes single models. A verb that
    only reads goes on with what is here when the remote cannot be reached, or what it holds cannot be used.
    """
    if not workspace.remote:
        yield None
        return
    there = opened(workspace, progress=progress)
    pulls, pushes = PARTS.get(verb, READS)
    if not alone:
        yield there
        return
    try:
        there.pull(*pulls)
    except WorkspaceError as error:
        if pushes:
            raise
        _log.warning("%s; answered from what is here", error)
    yield there
    if pushes:
        there.push(*pushes)
        if verb != "probe":  # there are many that probe, after one that crawled
            there.keep_settings()
        _log.info("%s: %s, %d requests", workspace.remote, dict(there.counts), there.requests)


def fresh(path: str | Path | Workspace, verb: str) -> Workspace:
    """Return the workspace at ``path``, after what ``verb``, which writes nothing, reads of its remote was pulled.

    Who opens a workspace to read does it here, so that each verb, on the command line and in Python, pulls by itself.
    """
    workspace = path if isinstance(path, Workspace) else Workspace.open(path)
    with synced(workspace, verb):
        return workspace


def _checked(kind: str, path: Path) -> None:
    """Look through a table that came from a remote, as through one of a release: no bombs, no values out of bounds.

    Raises `DamagedFileError`, so that this object is refused and the others are not.
    """
    from hubprobe.release.checks import RULES, TableFile, check_rows

    schema = {"catalog": records.CATALOG, "attempts": records.ATTEMPTS, "responses": records.RESPONSES}.get(kind)
    try:
        for first, rows in TableFile(path, path.name, schema).groups() if schema is not None else ():
            if kind in RULES:
                check_rows(path.name, first, kind, rows)
    except DamagedFileError:
        raise
    except WorkspaceError as error:
        raise DamagedFileError(Path(path.name), error, "nothing was kept of it") from error


def checked_index(path: Path) -> None:
    """Look through a table of an index that came from a remote: no bombs."""
    import pyarrow.parquet as pq

    from hubprobe.release.checks import TableFile

    if path.name.endswith(".parquet"):
        for _ in TableFile(path, path.name, pq.read_schema(path), versioned=False).groups():
            pass
