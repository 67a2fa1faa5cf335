"""Listing repositories: what may be asked, the stateless cursor, and a catalog of repositories that all exist."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hubprobe.demo.repository import Repo
from hubprobe.demo.rows import Row, project, record

SORTS = ("createdAt", "lastModified", "downloads", "likes", "trendingScore")


class RefusedError(Exception):
    """A request that is answered with an error.

    Args:
        status: the HTTP status.
        code: the ``X-Error-Code`` from which clients choose their exception; none when empty.
        message: the ``X-Error-Message``.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def not_found() -> RefusedError:
    """Return what the Hub says of a repository that is missing or private.

    The Hub gives no error code here; its clients know the case by ``https://`` in the address, which a loopback hub
    does not have, so this one names the code and clients raise what they would raise for the real one.
    """
    return RefusedError(401, "RepoNotFound", "Invalid username or password.")


@dataclass(frozen=True)
class Cursor:
    """The last row of a page by its sort value and ``_id``: the next page is what sorts after it.

    Nothing is kept on the server, so a cursor outlives both sides. Written like the Hub's, a Mongo filter in base64.
    """

    sort: str
    value: str | int
    row_id: str

    def encode(self) -> str:
        """Return the opaque text that clients send back."""
        after = [{self.sort: self.value, "_id": {"$gt": self.row_id}}, {self.sort: {"$lt": self.value}}]
        return base64.urlsafe_b64encode(json.dumps({"$or": after}, separators=(",", ":")).encode()).decode()

    @classmethod
    def decode(cls, text: str, sort: str) -> Cursor:
        """Read what `encode` wrote; raises `RefusedError` for anything else."""
        try:
            tied = json.loads(base64.urlsafe_b64decode(text))["$or"][0]
            return cls(sort, tied[sort], tied["_id"]["$gt"])
        except (binascii.Error, ValueError, KeyError, IndexError, TypeError) as error:
            raise RefusedError(400, "", "Invalid cursor") from error


@dataclass(frozen=True)
class Query:
    """What ``/api/models`` was asked."""

    fields: tuple[str, ...]
    filters: tuple[str, ...] = ()
    pipeline_tag: str = ""
    author: str = ""
    search: str = ""
    gated: bool | None = None
    parameters: tuple[float, float] | None = None
    sort: str = "createdAt"

    def matches(self, row: Row) -> bool:
        """Return whether a full record is one of those asked for."""
        return (
            (not self.pipeline_tag or row.get("pipeline_tag") == self.pipeline_tag)
            and (not self.author or row.get("author") == self.author)
            and (not self.search or self.search.lower() in row["id"].lower())
            and (self.gated is None or bool(row.get("gated")) is self.gated)
            and all(tag in row["tags"] for tag in self.filters)
            and (self.parameters is None or self._sized(row))
        )

    def _sized(self, row: Row) -> bool:
        assert self.parameters is not None
        total = (row.get("safetensors") or {}).get("total")
        return total is not None and self.parameters[0] <= total <= self.parameters[1]


def parse_parameters(text: str) -> tuple[float, float] | None:
    """Read ``min:6B,max:128B``; None when empty."""
    if not text:
        return None
    bounds = {"min": 0.0, "max": float("inf")}
    for part in text.split(","):
        found = re.fullmatch(r"(min|max):(\d+(?:\.\d+)?)([KMBT]?)", part)
        if not found:
            raise RefusedError(400, "", f"Invalid num_parameters: {part}")
        bounds[found[1]] = float(found[2]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[found[3]]
    return bounds["min"], bounds["max"]


@runtime_checkable
class Catalog(Protocol):
    """The repositories of a hub."""

    def page(self, query: Query, limit: int, after: Cursor | None) -> tuple[list[Row], Cursor | None]:
        """Return up to ``limit`` rows that sort after ``after``, newest or largest first, and where they end.

        The second value is None when nothing follows.
        """
        ...

    def find(self, repo_id: str) -> Repo:
        """Return a repository by id; raises `RefusedError` when there is none. A renamed one says so itself."""
        ...

    def record(self, repo: Repo) -> Row:
        """Return every field the API can give for it."""
        ...


class FolderCatalog:
    """Repositories known one by one: from folders in the Hub's own layout, or made in memory.

    Args:
        repos: the repositories; a later one replaces an earlier one of the same id.
    """

    def __init__(self, repos: Iterable[Repo] = ()) -> None:
        self._repos: dict[str, Repo] = {repo.id: repo for repo in repos}
        self._records: dict[str, Row] = {}
        self._orders: dict[str, list[tuple[Any, str, str]]] = {}  # sort -> (value, _id, id), first row first

    def __iter__(self) -> Iterator[Repo]:
        return iter(self._repos.values())

    def __len__(self) -> int:
        return len(self._repos)

    def add(self, repo: Repo) -> None:
        """Add or replace a repository; may be called while the hub is served."""
        self._repos[repo.id] = repo
        self._records.pop(repo.id, None)
        self._orders = {}

    def remove(self, repo_id: str) -> None:
        """Delete a repository; may be called while the hub is served."""
        del self._repos[repo_id]
        self._orders = {}

    def page(self, query: Query, limit: int, after: Cursor | None) -> tuple[list[Row], Cursor | None]:
        """Return a page, as `Catalog.page` says."""
        order = self._order(query.sort)
        rows: list[Row] = []
        last: Cursor | None = None
        for value, row_id, repo_id in order:
            if after is not None and not (value < after.value or (value == after.value and row_id > after.row_id)):
                continue
            repo = self._repos.get(repo_id)
            if repo is None:
                continue
            full = self.record(repo)
            if not query.matches(full):
                continue
            if len(rows) == limit:
                return rows, last
            rows.append(project(full, query.fields))
            last = Cursor(query.sort, value, row_id)
        return rows, None

    def find(self, repo_id: str) -> Repo:
        """Return a repository, as `Catalog.find` says."""
        repo = self._repos.get(repo_id)
        if repo is None or repo.gone:
            raise not_found()
        return repo

    def record(self, repo: Repo) -> Row:
        """Return the record of ``repo``, made once."""
        if repo.id not in self._records:
            self._records[repo.id] = record(repo)
        return self._records[repo.id]

    def _order(self, sort: str) -> list[tuple[Any, str, str]]:
        order = self._orders.get(sort)
        if order is None:
            keys = [(self.record(repo), repo.id) for repo in list(self._repos.values())]
            order = sorted((row[sort], row["_id"], repo_id) for row, repo_id in keys)
            order.sort(key=lambda key: key[0], reverse=True)  # stable: ties stay in order of _id
            self._orders[sort] = order
        return order


def read_folder(root: Path) -> list[Repo]:
    """Return the repositories in ``root/models/<owner>/<name>/``; ``root/hub.json`` may state facts by id."""
    facts: Mapping[str, dict[str, Any]] = {}
    stated = root / "hub.json"
    if stated.exists():
        facts = json.loads(stated.read_text(encoding="utf-8"))
    repos = []
    for folder in sorted((root / "models").glob("*/*")):
        if folder.is_dir() and not folder.name.startswith("."):
            repo_id = f"{folder.parent.name}/{folder.name}"
            repos.append(Repo.from_folder(repo_id, folder, facts.get(repo_id)))
    return repos
