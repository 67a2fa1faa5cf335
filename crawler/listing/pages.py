"""Pages of repositories: of ``/api/models``, whose cursor is followed and kept by us, or of a snapshot in Parquet."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import duckdb
from huggingface_hub import HfFileSystem

from crawler.hub.client import Answer, HubClient
from crawler.hub.transport import Deadline, RetryError, UnansweredError
from crawler.listing.rows import PAGE, Query
from workspace import HubError, Status, WorkspaceError, bounded_json
from workspace.runs import now
from workspace.text import printable

logger = logging.getLogger(__name__)

MAX_PAGE = 128 * 1024**2  # bytes: a thousand repositories with many files each
PAGE_SECONDS = 1_800.0  # one page, with every try; waiting for our turn not counted
CIRCLE_TRIES = 3
SLOW_TRIES = 2  # of a page for which the server has too little time, before a smaller one is asked for
SMALLER = (250, 50)  # rows of such a one
EMPTY_TRIES = 3  # of a page that comes without a byte, before it is said that there is no listing
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*rel="?next"?')


@dataclass(frozen=True)
class Page:
    """One page of rows as the Hub or a snapshot gave them."""

    rows: list[Any]  # JSON values, or dicts of Python values from a snapshot
    next: str | None  # address of the next page; None after the last one
    read_at: datetime  # when it was read


class Listing:
    """The Hub's listing, whose pages have ``size`` rows at most: what an earlier crawl found the server has time for.

    Attributes:
        first: address of its first page.
        name: tells sources apart in the crawl's state.
        is_live: whether it is the Hub itself, now: only then does a repository that is not listed have gone.
        bearable: rows of a page that the next crawl should begin with: fewer than `PAGE` if this one had to learn it.
    """

    is_live = True

    def __init__(self, client: HubClient, first: str, size: int = PAGE) -> None:
        self._client, self.name, self.size, self.bearable = client, "hub", size, PAGE
        self.first = with_limit(first, min(limit_of(first), size))
        self._asked: set[str] = set()

    def page(self, url: str) -> Page:
        """Return the page at ``url``. Raises `HubError` when the listing cannot be had, or leads in a circle."""
        if not self._client.same_origin(url):
            raise HubError("the interrupted crawl names a page of another hub: crawl again with --restart")
        if url == self.first:
            self._asked.clear()
        self._asked.add(with_limit(url, 0))
        for attempt in range(1, CIRCLE_TRIES + 1):
            answer, rows = self._expanded(url)
            following = self._next(url, answer.headers.get("link", ""))
            if following is None or with_limit(following, 0) not in self._asked:
                return Page(rows, following, now())
            logger.warning("the listing's next page is one it gave before (try %d of %d)", attempt, CIRCLE_TRIES)
        raise HubError("the listing leads in a circle, so it cannot be read to its end; run the crawl again later")

    def _expanded(self, url: str) -> tuple[Answer, list[Any]]:
        """Ask for a page; where the server does not know one of the fields (400), for those it gives by itself."""
        try:
            return self._ask(url)
        except UnansweredError as error:
            plain = without_fields(url)
            if error.http != 400 or plain == url:
                raise _cannot_list(error) from error
            logger.warning("the listing refuses some fields that were asked for; it is asked for its own")
        try:
            return self._ask(plain)
        except UnansweredError as error:
            raise _cannot_list(error) from error

    def _ask(self, url: str) -> tuple[Answer, list[Any]]:
        """Ask for a page, for smaller ones when the server cannot answer for a large one in time.

        Where it has no time for the smallest either, it is not the size: the outage is waited out as any other.
        """
        most = min(limit_of(url), self.size)
        sizes = (most, *(size for size in SMALLER if size < most))
        for size in sizes:
            try:
                found = self._read(with_limit(url, size), SLOW_TRIES)
            except UnansweredError as error:
                large = error.status is Status.TOO_MANY_BYTES
                heavy = error.slow or large or error.http in (500, 502, 503, 504)
                if not heavy or (size == sizes[-1] and not error.slow):
                    raise
                why = "are too large to be read" if large else "do not come in time"
                logger.warning("the server's pages of %d rows %s", size, why)
            else:
                if size != most:
                    self.size = self.bearable = size
                return found
        return self._read(with_limit(url, most), None)

    def _read(self, url: str, slow_tries: int | None) -> tuple[Answer, list[Any]]:
        kept: list[Any] = []
        empty = 0

        def check(answer: Answer) -> None:
            nonlocal empty
            empty += not answer.body
            if empty >= EMPTY_TRIES:
                raise _no_listing("its pages are empty")
            try:
                kept[:] = read_rows(answer.body)
            except bounded_json.TooManyValuesError as error:
                raise UnansweredError(Status.TOO_MANY_BYTES, f"a page of {error}", answer.status) from error
            except ValueError as error:
                kind = printable(answer.headers.get("content-type", "no content type"))
                problem = UnansweredError(Status.SERVER_ERROR, f"{kind} came in place of rows", answer.status)
                raise RetryError(problem) from error

        answer = self._client.read(
            url, limit=MAX_PAGE, deadline=Deadline(PAGE_SECONDS), what="the listing", check=check, slow_tries=slow_tries
        )
        return answer, kept

    def _next(self, url: str, link: str) -> str | None:
        """Return the next page's address: its query on our own endpoint, whatever host a mirror hands through."""
        found = _NEXT.search(link)
        if found is None:
            return None
        here = urlsplit(url)
        try:
            target = urlsplit(urljoin(url, found[1]))
        except ValueError as error:
            raise HubError("the listing's next page has an address that is none; this hub cannot be trusted") from error
        if target.path not in (here.path, "/api/models"):
            raise HubError("the listing's next page is under another path; this hub cannot be trusted")
        return with_limit(urlunsplit(here._replace(query=target.query)), min(limit_of(url), self.size))


def _cannot_list(error: UnansweredError) -> HubError:
    if error.http in (404, 405, 410, 501):
        return _no_listing(f"HTTP {error.http}")
    reason = error.reason
    if error.status in (Status.GONE, Status.GATED):
        reason = f"the listing is refused (HTTP {error.http}); it may need a token"
    return HubError(f"cannot list models: {reason}; crawl again to go on from here")


def _no_listing(why: str) -> HubError:
    return HubError(f"this hub has no listing ({why}): crawl a snapshot of its models instead, with --from")


def read_rows(body: bytes) -> list[Any]:
    """Return the rows of a page; one that is not valid JSON by itself becomes its bytes, the others stay.

    Raises `ValueError` when the whole is no JSON array.
    """
    try:
        rows = bounded_json.loads(body)
    except bounded_json.TooManyValuesError:
        raise
    except (ValueError, RecursionError):
        rows = [_one(piece) for piece in _pieces(body)]
    if not isinstance(rows, list):
        raise ValueError("not an array")
    return rows


def with_limit(url: str, limit: int) -> str:
    """Return ``url`` with another ``limit`` parameter."""
    return _with(url, "limit", ("limit", str(limit)))


def without_fields(url: str) -> str:
    """Return ``url`` without the fields it names: with all that a listing gives by itself."""
    return _with(url, "expand", ("full", "true")) if "expand=" in urlsplit(url).query else url


def _with(url: str, less: str, more: tuple[str, str]) -> str:
    """Return ``url`` with one parameter in place of all of another name."""
    parts = urlsplit(url)
    query = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != less]
    return urlunsplit(parts._replace(query=urlencode([*query, more])))


def limit_of(url: str) -> int:
    """Return the rows that ``url`` asks for."""
    found = dict(parse_qsl(urlsplit(url).query)).get("limit", "")
    return int(found) if found.isdecimal() else PAGE


def _one(piece: bytes) -> Any:
    try:
        return bounded_json.loads(piece)
    except (ValueError, RecursionError):
        return piece.decode("utf-8", "backslashreplace")[:2000]


def _pieces(body: bytes) -> Iterator[bytes]:
    """Split a JSON array into its elements by brackets and quotes alone. Raises `ValueError` when it is none."""
    body = body.strip()
    if not (body.startswith(b"[") and body.endswith(b"]")):
        raise ValueError("not an array")
    depth, start = 0, 1
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', body, re.DOTALL):
        mark = found[0]
        if mark in (b"[", b"{"):
            depth += 1
        elif mark in (b"]", b"}"):
            depth -= 1
        elif mark != b"," or depth != 1:
            continue
        if (depth == 1 and mark == b",") or depth == 0:
            if piece := body[start : found.start()].strip():
                yield piece
            start = found.end()
    if depth != 0:
        raise ValueError("an array that does not end")


_NUMBER = r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|DECIMAL\(.*\)"
_KINDS = {
    "text": ("VARCHAR", '"{}"'),
    "texts": (r"VARCHAR\[\d*\]", '"{}"'),
    "times": (r"TIMESTAMP.*|DATE|VARCHAR", '"{}"'),
    "numbers": (_NUMBER, 'TRY_CAST("{}" AS BIGINT)'),
    "true or false": (rf"BOOLEAN|{_NUMBER}", 'TRY_CAST("{}" AS BOOLEAN)'),
    "text, or true or false": ("VARCHAR|BOOLEAN", '"{}"'),
    "objects": (r"STRUCT\(.*\)|MAP\(.*\)", '"{}"'),
    "a list of files": (r"VARCHAR\[\d*\]|STRUCT\(.*\)\[\d*\]", '"{}"'),
}
"""What a column may hold: DuckDB's names of the types it can be read from, and how it is read."""

COLUMNS = {
    **dict.fromkeys(("id", "sha", "author", "pipeline_tag", "library_name"), "text"),
    **dict.fromkeys(("createdAt", "lastModified"), "times"),
    "tags": "texts",
    **dict.fromkeys(("downloads", "likes"), "numbers"),
    **dict.fromkeys(("private", "disabled"), "true or false"),
    "gated": "text, or true or false",
    "safetensors": "objects",
    "siblings": "a list of files",
}
"""Columns read when the snapshot has them. Without ``sha`` or ``siblings`` a candidate costs one request to the API."""


class Snapshot:
    """Pages of a snapshot, in the order of its rows: a local Parquet file or pattern, or an ``hf://`` address.

    The filters that columns allow are left to DuckDB. Raises `WorkspaceError` when it cannot be read or has no ``id``.
    """

    is_live = False
    bearable = PAGE

    def __init__(self, where: str, query: Query, endpoint: str, token: str | None) -> None:
        self.first, self.name = "row:0", f"snapshot {where}"
        self._where = where
        self._connection = duckdb.connect()
        if where.startswith("hf://"):
            # fsspec in place of DuckDB's httpfs: it honours our endpoint and token, and nothing has to be installed.
            self._connection.register_filesystem(HfFileSystem(endpoint=endpoint, token=token or False))
        self._selected: list[str] = []
        columns, wanted = self._columns(), {"pipeline_tag": query.pipeline_tag, "author": query.author}
        kept = {name: value for name, value in wanted.items() if value and name in columns}
        self._filter = " AND ".join(['"id" IS NOT NULL', *(f'"{name}" = ?' for name in kept)])
        self._values = kept.values()
        self._reader: Any = None
        self._at = -1

    def page(self, url: str) -> Page:
        """Return up to a thousand rows from ``row:N`` on. Raises `HubError` when the snapshot breaks off."""
        if not re.fullmatch("row:[0-9]{1,15}", url):
            raise HubError("the interrupted crawl names no row of a snapshot: crawl again with --restart")
        start = int(url.removeprefix("row:"))
        try:
            if self._reader is None or start != self._at:
                self._reader, self._at = self._open(start), start
            rows = self._next_rows()
        except (duckdb.Error, OSError) as error:
            raise HubError(f"cannot read {self._where}: {error}; crawl again to go on from row {start:,}") from error
        self._at = start + len(rows)
        return Page(rows, f"row:{self._at}" if len(rows) == PAGE else None, now())

    def _columns(self) -> list[str]:
        try:
            described = self._connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [self._where]).fetchall()
        except (duckdb.Error, OSError) as error:
            raise WorkspaceError(f"cannot read the snapshot {self._where}: {error}") from error
        types = {str(row[0]): str(row[1]) for row in described}
        if "id" not in types:
            raise WorkspaceError(f"{self._where} has no column 'id'; it needs the API's column names")
        usable, unusable = [], []
        for name, kind in COLUMNS.items():
            pattern, expression = _KINDS[kind]
            found = types.get(name, '"NULL"')  # which is also the type of a column without a value
            if re.fullmatch(pattern, found, re.DOTALL):
                usable.append(name)
                seconds = "TIMESTAMP" in found or found == "DATE"  # Arrow's nanoseconds and days are no datetime
                cast = seconds and "TIME ZONE" not in found
                read = f'CAST("{name}" AS TIMESTAMP)' if cast else expression.format(name)
                self._selected.append(f'{read} AS "{name}"')
            elif found != '"NULL"':
                unusable.append(f"{name} ({printable(found, 60)} and not {kind})")
        if "id" not in usable:
            raise WorkspaceError(f"{self._where} cannot be used: its column {unusable[0]}")
        if unusable:
            logger.warning("columns of the snapshot that cannot be used: %s", ", ".join(unusable))
        return usable

    def _open(self, start: int) -> Any:
        text = f"SELECT {', '.join(self._selected)} FROM read_parquet(?) WHERE {self._filter} OFFSET {start}"
        found: Any = self._connection.sql(text, params=[self._where, *self._values])
        read = found.to_arrow_reader if hasattr(found, "to_arrow_reader") else found.fetch_arrow_reader  # DuckDB 1.x
        self._rest: list[Any] = []
        return iter(read(PAGE))

    def _next_rows(self) -> list[Any]:
        """Return exactly ``PAGE`` rows unless the end is reached: DuckDB's batches may be smaller."""
        rows = self._rest
        for batch in self._reader:
            rows += batch.to_pylist(maps_as_pydicts="lossy")
            if len(rows) >= PAGE:
                break
        self._rest = rows[PAGE:]
        return rows[:PAGE]


Source = Listing | Snapshot
