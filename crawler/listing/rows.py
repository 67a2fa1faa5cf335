"""Rows of the Hub's listing: how they are asked for, and how one is read.

Reading is tolerant: what is odd becomes None, what cannot be used raises.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlencode

from workspace import Status
from workspace.files import canonical_json, short_hash
from workspace.reported import TASK, Reported, of_eval_results
from workspace.text import plain

_ID = re.compile(r"(?:[A-Za-z0-9][\w.-]{0,95}/)?[A-Za-z0-9_][\w.-]{0,95}", re.ASCII)
_SHA = re.compile(r"[0-9a-f]{40}")
_INT64 = 2**63
MAX_FILES = 20_000  # file names kept of one repository
MAX_TAGS = 2_000
MAX_TEXT = 1_000  # characters kept of any one text


class MalformedRowError(Exception):
    """A row of the listing that cannot be used; ``repo_id`` names it as well as can be."""

    status = Status.MALFORMED_ROW

    def __init__(self, repo_id: str, reason: str) -> None:
        super().__init__(reason)
        self.repo_id, self.reason = repo_id, reason


@dataclass(frozen=True)
class File:
    """One file of a commit. ``size`` in bytes; ``oid`` git blob sha1; ``sha256`` for LFS; None where not yet known."""

    path: str
    size: int | None = None
    oid: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Listed:
    """What the listing says of a repository.

    ``sha`` is empty and ``files`` None where the source did not name them: `complete` is then false.
    """

    id: str
    sha: str
    author: str | None = None
    created: datetime | None = None
    modified: datetime | None = None
    pipeline_tag: str | None = None
    library: str | None = None
    tags: tuple[str, ...] = ()
    downloads: int | None = None
    likes: int | None = None
    private: bool | None = None
    gated: str | None = None
    disabled: bool | None = None
    parameters: tuple[tuple[str, int], ...] | None = None
    total: int | None = None  # parameters in all, as the Hub counts them
    files: tuple[File, ...] | None = None
    reported: Reported | None = None  # accuracy, of an image classifier's ``evalResults``

    @property
    def complete(self) -> bool:
        """Whether the commit and its files are known."""
        return bool(self.sha) and self.files is not None

    @property
    def licenses(self) -> tuple[str, ...]:
        """All licences named by its tags, in their order."""
        return tuple(dict.fromkeys(tag.partition(":")[2] for tag in self.tags if tag.startswith("license:")))

    @property
    def base_models(self) -> tuple[str, ...]:
        """The models it says it was made from; the relation (``base_model:finetune:x``) is left out."""
        names = (tag.rpartition(":")[2] for tag in self.tags if tag.startswith("base_model:"))
        return tuple(dict.fromkeys(names))

    @property
    def paths(self) -> frozenset[str]:
        """Names of its files; empty when unknown."""
        return frozenset(file.path for file in self.files or ())


def parse(row: Any) -> Listed:
    """Read one row of ``/api/models`` or of a snapshot with the API's column names. Raises `MalformedRowError`."""
    if not isinstance(row, Mapping):
        raise MalformedRowError(_stand_in(row), f"is a {type(row).__name__}, not an object")
    repo_id = row.get("id", row.get("modelId"))
    if not is_repo_id(repo_id):
        raise MalformedRowError(_stand_in(row), "has no usable id")
    sha = row.get("sha") or ""
    if sha != "" and not is_sha(sha):
        raise MalformedRowError(repo_id, "names no commit, so nothing of it can be pinned")
    weights = row.get("safetensors")
    counts, total = _parameters(weights) if isinstance(weights, Mapping) else (None, None)
    gated, task = row.get("gated"), _text(row.get("pipeline_tag"))
    return Listed(
        id=repo_id,
        sha=sha,
        author=_text(row.get("author")) or (repo_id.split("/")[0] if "/" in repo_id else None),
        created=_time(row.get("createdAt")),
        modified=_time(row.get("lastModified")),
        pipeline_tag=task,
        library=_text(row.get("library_name")),
        tags=_texts(row.get("tags")),
        downloads=_count(row.get("downloads")),
        likes=_count(row.get("likes")),
        private=_flag(row.get("private")),
        gated="false" if gated in (False, None, "false", "False") else ("auto" if gated is True else _text(gated)),
        disabled=_flag(row.get("disabled")),
        parameters=counts,
        total=total,
        files=files_of(row.get("siblings"), repo_id),
        reported=of_eval_results(row.get("evalResults")) if task in (None, TASK) else None,
    )


def is_repo_id(value: object) -> bool:
    """Return whether ``value`` is an id the Hub could have given: ``owner/name``, or ``name`` for a few old ones."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None and ".." not in value and "--" not in value


def is_sha(value: object) -> bool:
    """Return whether ``value`` is the name of a commit."""
    return isinstance(value, str) and _SHA.fullmatch(value) is not None


def _text(value: object) -> str | None:
    return plain(value, MAX_TEXT)


def files_of(siblings: Any, repo_id: str) -> tuple[File, ...] | None:
    """Read the API's ``siblings``; None when it gives none. Raises `MalformedRowError`."""
    if siblings is None:
        return None
    if not isinstance(siblings, (list, tuple)):
        raise MalformedRowError(repo_id, "its file list is not a list")
    found = []
    for sibling in siblings[:MAX_FILES]:
        path = sibling.get("rfilename", sibling.get("path")) if isinstance(sibling, Mapping) else sibling
        if not isinstance(path, str):
            raise MalformedRowError(repo_id, "a file in its list has no name")
        # Surrogates survive as escapes and not as '?', so that two hostile names never become one.
        found.append(File(path[:4096].encode("utf-8", "backslashreplace").decode("utf-8")))
    return tuple(found)


def _texts(values: Any) -> tuple[str, ...]:
    if not isinstance(values, (list, tuple)):
        return ()
    kept = (_text(value) for value in values[:MAX_TAGS])
    return tuple(value for value in kept if value is not None)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # as tables have whole numbers beside missing ones
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -_INT64 <= value < _INT64:
        return None
    return value


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _time(value: Any) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        moment = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    except (OverflowError, ValueError):
        return None
    return moment if 1970 <= moment.year <= 9000 else None


def _parameters(weights: Mapping[str, Any]) -> tuple[tuple[tuple[str, int], ...] | None, int | None]:
    counts = weights.get("parameters")
    kept: tuple[tuple[str, int], ...] | None = None
    if isinstance(counts, Mapping):
        pairs = [(plain(name, 40) or "?", _count(value)) for name, value in list(counts.items())[:40]]
        kept = tuple((name, value) for name, value in pairs if value is not None)
    return kept, _count(weights.get("total"))


def _stand_in(row: Any) -> str:
    """A name for a row that gives none: the same row gets the same name, so that it is booked once."""
    try:
        seen = json.dumps(row, sort_keys=True, default=str).encode("utf-8", "backslashreplace")
    except (TypeError, ValueError, RecursionError):
        seen = repr(type(row)).encode()
    return f"?malformed-{hashlib.sha256(seen).hexdigest()[:16]}"


PAGE = 1_000  # rows, the most the Hub gives at once
EXPAND = (
    "author", "createdAt", "disabled", "downloads", "evalResults", "gated", "lastModified", "library_name", "likes",
    "pipeline_tag", "private", "safetensors", "sha", "siblings", "tags",
)  # fmt: skip
"""Columns asked of the listing: what decides most repositories, and nothing that makes the query heavy (``config``)."""


@dataclass(frozen=True)
class Query:
    """The repositories of a crawl: all conditions hold at once, an empty one does not count."""

    pipeline_tag: str | None = None
    author: str | None = None
    library: str | None = None
    search: str | None = None
    tags: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """16 hex digits that name this query in the state of a crawl."""
        return short_hash(canonical_json(asdict(self)))

    def url(self, endpoint: str, page: int = PAGE) -> str:
        """Return the address of the first page.

        Sorted by creation, the one order in which nothing moves while it is read: the cursor is a keyset on it, so a
        page asked for tomorrow goes on exactly where today's ended.
        """
        pairs = [("pipeline_tag", self.pipeline_tag), ("author", self.author), ("search", self.search)]
        asked = [(name, value) for name, value in pairs if value]
        asked += [("filter", value) for value in (self.library, *self.tags) if value]
        asked += [("sort", "createdAt"), ("limit", str(page)), *(("expand", name) for name in EXPAND)]
        return f"{endpoint.rstrip('/')}/api/models?{urlencode(asked)}"

    def matches(self, listed: Listed) -> bool:
        """Return whether a row answers the query: for sources that do not filter themselves."""
        return self.covers(listed.id, listed.author, listed.pipeline_tag, listed.library, listed.tags)

    def covers(
        self, repo_id: str, author: str | None, pipeline_tag: str | None, library: str | None, tags: Iterable[str]
    ) -> bool:
        """Return whether a repository with these columns is one that the query lists."""
        held = {*tags, library}
        return (
            (not self.pipeline_tag or pipeline_tag == self.pipeline_tag)
            and (not self.author or author == self.author)
            and (not self.search or self.search.casefold() in repo_id.casefold())
            and all(tag in held for tag in (self.library, *self.tags) if tag)
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the conditions for a manifest."""
        return asdict(self)
