"""Pages of ``/api/models``, in order, each with the address of the next: the cursor is followed and kept by us."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from crawler.answers import Answer
from crawler.client import HubClient
from crawler.failures import RetryError, UnansweredError
from crawler.query import PAGE
from crawler.source import Page
from crawler.transport import Deadline
from workspace import HubError, Status
from workspace.runs import now
from workspace.text import printable

logger = logging.getLogger(__name__)

MAX_PAGE = 256 * 1024**2  # bytes: a thousand repositories with many files each
PAGE_SECONDS = 1_800.0  # one page, with every try; waiting for our turn not counted
CIRCLE_TRIES = 3
SMALLER = (250, 50)  # rows, for a server that times out on a full page
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*rel="?next"?')


class Listing:
    """The Hub's listing. ``first`` is the address of the first page."""

    is_live = True

    def __init__(self, client: HubClient, first: str) -> None:
        self._client, self.first, self.name = client, first, "hub"
        self._asked: set[str] = set()

    def page(self, url: str) -> Page:
        """Return the page at ``url``. Raises `HubError` when the listing cannot be had, or leads in a circle."""
        if url == self.first:
            self._asked.clear()
        self._asked.add(url)
        for attempt in range(1, CIRCLE_TRIES + 1):
            answer, rows = self._ask(url)
            following = self._next(url, answer.headers.get("link", ""))
            if following is None or following not in self._asked:
                return Page(rows, following, now(), answer.body)
            logger.warning("the listing's next page is one it gave before (try %d of %d)", attempt, CIRCLE_TRIES)
        raise HubError("the listing leads in a circle, so it cannot be read to its end; run the crawl again later")

    def _ask(self, url: str) -> tuple[Answer, list[Any]]:
        """Ask for a page, for smaller ones when the server cannot answer for a large one in time."""
        kept: list[Any] = []

        def check(answer: Answer) -> None:
            try:
                kept[:] = read_rows(answer.body)
            except ValueError as error:
                kind = printable(answer.headers.get("content-type", "no content type"))
                problem = UnansweredError(Status.SERVER_ERROR, f"{kind} came in place of rows", answer.status)
                raise RetryError(problem) from error

        limit = _limit_of(url)
        sizes = [size for size in SMALLER if size < limit]
        for size in (limit, *sizes):
            asked = url if size == limit else with_limit(url, size)
            try:
                return self._client.read(
                    asked, limit=MAX_PAGE, deadline=Deadline(PAGE_SECONDS), what="the listing", check=check
                ), kept
            except UnansweredError as error:
                heavy = error.status is Status.SERVER_ERROR and error.http in (500, 502, 503, 504)
                if not heavy or size == (limit, *sizes)[-1]:
                    raise HubError(f"cannot list models: {error.reason}; crawl again to go on from here") from error
                logger.warning("pages of %d rows are too much for the server; trying fewer", size)
        raise AssertionError("unreachable")

    def _next(self, url: str, link: str) -> str | None:
        found = _NEXT.search(link)
        if found is None:
            return None
        target: str = urljoin(url, found[1])
        if not self._client.same_origin(target) or urlsplit(target).path != urlsplit(url).path:
            raise HubError("the listing's next page is on another host or path; this hub cannot be trusted")
        return with_limit(target, _limit_of(url)) if _limit_of(target) != _limit_of(url) else target


def read_rows(body: bytes) -> list[Any]:
    """Return the rows of a page; one that is not valid JSON by itself becomes its bytes, the others stay.

    Raises `ValueError` when the whole is no JSON array.
    """
    try:
        rows = json.loads(body, parse_int=_bounded)
    except (ValueError, RecursionError):
        rows = [_one(piece) for piece in _pieces(body)]
    if not isinstance(rows, list):
        raise ValueError("not an array")
    return rows


def with_limit(url: str, limit: int) -> str:
    """Return ``url`` with another ``limit`` parameter."""
    parts = urlsplit(url)
    query = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name != "limit"]
    return urlunsplit(parts._replace(query=urlencode([*query, ("limit", str(limit))])))


def _limit_of(url: str) -> int:
    found = dict(parse_qsl(urlsplit(url).query)).get("limit", "")
    return int(found) if found.isdecimal() else PAGE


def _one(piece: bytes) -> Any:
    try:
        return json.loads(piece, parse_int=_bounded)
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


def _bounded(digits: str) -> int | None:
    """A number that no column holds is as good as none; reading a million digits would take minutes."""
    return int(digits) if len(digits) <= 19 else None
