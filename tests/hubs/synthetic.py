"""A hub of any number of repositories, generated from their index when asked for and never stored.

Rows come newest first, three to a second of creation, so that ties of the sort key are met on every page. What a
repository is (`Kind`) is drawn from the index in about the proportions of the real Hub; the proportions are guesses,
no trustworthy count of its image classifiers was to be had. A catalog may be changed while it is listed: repositories
are added at the front, deleted, renamed and updated, as they are on a hub that is in use.

``python -m tests.hubs.synthetic --repos 200000`` serves one, with the limits of a plan of the Hub if asked to.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click

from hubprobe.demo import tiny
from hubprobe.demo.listing import Cursor, FolderCatalog, ModelsQuery, RefusedError, Row, iso, not_found, project
from hubprobe.demo.repository import Repo, RepoFile
from hubprobe.demo.server import HubServer
from tests.hubs.limits import GENEROUS, Quotas, RateLimiter
from tests.hubs.synthetic_kinds import KINDS, Kind, kind_of, mixed
from workspace.status import Status

_NEWEST = 1_785_000_000  # seconds: creation of repository 0
_PER_SECOND = 3  # repositories that share a creation time
_OFFSET = 1 << 40  # repositories added later have negative indices; ids carry index + offset
_OWNERS = 5_000


@dataclass
class _Change:
    """What has happened to one repository since the hub began."""

    deleted: bool = False
    name: str = ""  # its new id
    version: int = 0  # commits since


class SyntheticCatalog(FolderCatalog):
    """A catalog of ``n`` repositories.

    Args:
        n: how many there are at the start.
        seed: another seed, another hub.
        after_page: called with the catalog and the number of list pages served so far, after each: the place to
            change the hub in the middle of a crawl.
    """

    def __init__(
        self, n: int = 200_000, seed: int = 0, after_page: Callable[[SyntheticCatalog, int], None] | None = None
    ) -> None:
        super().__init__()
        self.n, self.seed, self.after_page = n, seed, after_page
        self.added = 0
        self.pages = 0
        self._changes: dict[int, _Change] = {}
        self._renamed: dict[str, int] = {}  # new id -> index
        self._lock = threading.RLock()

    # ── what there is ────────────────────────────────────────────────────────────────────────────────────────────

    def __len__(self) -> int:
        deleted = sum(change.deleted for change in self._changes.values())
        return self.n + self.added - deleted

    def indices(self) -> list[int]:
        """Return the repositories that exist now, in the order of the listing."""
        return [i for i in range(-self.added, self.n) if not self._change(i).deleted]

    def repo_id(self, index: int) -> str:
        """Return the present id of a repository."""
        return self._change(index).name or self._first_id(index)

    def kind(self, index: int) -> Kind:
        """Return what kind of repository it is."""
        return kind_of(self._draw(index))

    def expected(self, index: int) -> Status:
        """Return the status a crawl must give it (`Status.ELIGIBLE` for the healthy), if nothing happens to it."""
        return self.kind(index).status

    # ── what happens to it ───────────────────────────────────────────────────────────────────────────────────────

    def add(self, count: int = 1) -> list[int]:
        """Add repositories, newer than all others; returns their indices."""
        with self._lock:
            self.added += count
            return list(range(-self.added, count - self.added))

    def delete(self, index: int) -> None:
        """Delete a repository: it is no longer listed, and nothing of it is served."""
        self._changed(index).deleted = True

    def rename(self, index: int, repo_id: str) -> None:
        """Give a repository a new id; the old one redirects."""
        with self._lock:
            self._renamed[repo_id] = index
            self._changed(index).name = repo_id

    def update(self, index: int) -> None:
        """Push a commit to a repository."""
        self._changed(index).version += 1

    # ── Catalog ──────────────────────────────────────────────────────────────────────────────────────────────────

    def page(self, query: ModelsQuery, limit: int, after: Cursor | None) -> tuple[list[Row], Cursor | None]:
        """Return a page, as `FolderCatalog.page` says; only ``sort=createdAt``."""
        if query.sort != "createdAt":
            raise RefusedError(400, "", "the synthetic hub sorts by createdAt alone")
        start = -self.added if after is None else _index_of(after.row_id) + 1
        rows: list[Row] = []
        end: Cursor | None = None
        last = None
        for index in range(start, self.n):
            if (change := self._changes.get(index)) is not None and change.deleted:
                continue
            full = self._row(index)
            if not query.matches(full):
                continue
            if len(rows) == limit:
                end = last
                break
            rows.append(project(full, query.fields))
            if len(rows) == limit:
                last = Cursor("createdAt", full["createdAt"], full["_id"])
        with self._lock:
            self.pages += 1
            pages = self.pages
        if self.after_page is not None:
            self.after_page(self, pages)
        return rows, end

    def find(self, repo_id: str) -> Repo:
        """Return a repository, generated; raises as `FolderCatalog.find` says."""
        index = self._find(repo_id)
        change = self._change(index)
        kind = self.kind(index)
        if change.deleted or kind.name == "gone":
            raise not_found()
        files = dict(kind.files(self._draw(index)))
        files["README.md"] = RepoFile.of("README.md", tiny.card(self._first_id(index), f"Commit {change.version}."))
        renamed = change.name if change.name and repo_id != change.name else None
        repo = Repo(repo_id, files, dict(kind.facts), renamed_to=renamed)
        repo.sha = self._sha(index)
        return repo

    def record(self, repo: Repo) -> Row:
        """Return every field the API can give for it."""
        return self._row(self._find(repo.id))

    # ── generation ───────────────────────────────────────────────────────────────────────────────────────────────

    def _row(self, index: int) -> Row:
        draw = self._draw(index)
        kind = kind_of(draw)
        created = _created(index)
        repo_id = self.repo_id(index)
        downloads = 1 << (draw >> 44 & 15)
        row: Row = {
            "_id": f"{created & 0xFFFFFFFF:08x}{index + _OFFSET:016x}",
            "id": repo_id,
            "modelId": repo_id,
            "author": repo_id.partition("/")[0],
            "sha": self._sha(index),
            "createdAt": iso(created),
            "lastModified": iso(created + 86_400 * (1 + self._change(index).version)),
            "private": False,
            "gated": False,
            "disabled": False,
            "downloads": downloads,
            "likes": downloads >> 5,
            "pipeline_tag": "image-classification",
        }
        row.update(kind.columns(draw))
        row.update(kind.facts)
        return row

    def _draw(self, index: int) -> int:
        return mixed(self.seed << 42 ^ index + _OFFSET)

    def _sha(self, index: int) -> str:
        state = f"{self.seed} {index} {self._change(index).version}"
        return hashlib.sha1(state.encode(), usedforsecurity=False).hexdigest()

    def _first_id(self, index: int) -> str:
        draw = self._draw(index)
        return f"owner-{(draw >> 10) % _OWNERS:04d}/{kind_of(draw).name}-{index + _OFFSET:x}"

    def _find(self, repo_id: str) -> int:
        if repo_id in self._renamed:
            return self._renamed[repo_id]
        try:
            index = int(repo_id.rsplit("-", 1)[1], 16) - _OFFSET
        except (IndexError, ValueError):
            raise not_found() from None
        if not -self.added <= index < self.n or self._first_id(index) != repo_id:
            raise not_found()
        return index

    def _change(self, index: int) -> _Change:
        return self._changes.get(index, _NOTHING)

    def _changed(self, index: int) -> _Change:
        with self._lock:
            return self._changes.setdefault(index, _Change())


_NOTHING = _Change()


def _created(index: int) -> int:
    return _NEWEST - index // _PER_SECOND


def _index_of(row_id: str) -> int:
    try:
        return int(row_id[8:], 16) - _OFFSET
    except ValueError as error:
        raise RefusedError(400, "", "Invalid cursor") from error


ANONYMOUS = Quotas(api=500, resolvers=3_000, pages=100)
"""The Hub's documented limits per address without a token (5 minutes); the next two are per user."""
FREE = Quotas(api=1_000, resolvers=5_000, pages=200)
PRO = Quotas(api=2_500, resolvers=12_000, pages=400)
_PLANS: dict[str, Quotas] = {"anonymous": ANONYMOUS, "free": FREE, "pro": PRO, "none": GENEROUS}


@click.command()
@click.option("--repos", default=200_000, show_default=True, help="How many repositories there are.")
@click.option("--seed", default=0, show_default=True, help="Another seed, another hub.")
@click.option("--port", default=8601, show_default=True, help="Port of the endpoint; 0 takes a free one.")
@click.option("--plan", type=click.Choice(list(_PLANS)), default="none", show_default=True, help="Rate limits.")
@click.option("--window", default=300, show_default=True, help="Seconds of a rate-limit window; quotas stay.")
@click.option("--latency", default=0.0, show_default=True, help="Seconds every answer takes at least.")
def main(repos: int, seed: int, port: int, plan: str, window: int, latency: float) -> None:
    """Serve a synthetic hub until interrupted; its address goes to stdout."""
    chosen = _PLANS[plan]
    limits = Quotas(chosen.api, chosen.resolvers, chosen.pages, window)
    with HubServer(SyntheticCatalog(repos, seed), port=port, limiter=RateLimiter(limits), latency=latency) as server:
        click.echo(server.url)
        counts = ", ".join(f"{kind.name} {kind.share / 10:g} %" for kind in KINDS)
        click.echo(f"{repos} repositories: {counts}", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            tally: dict[str, Any] = {bucket: server.requests.count(bucket) for bucket in ("api", "resolvers", "cdn")}
            click.echo(f"requests answered: {tally}", err=True)


if __name__ == "__main__":
    sys.exit(main())
