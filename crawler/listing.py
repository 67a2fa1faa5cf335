"""Pages of ``/api/models``, in order, each with the address of the next: the cursor is followed and kept by us."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

from crawler.client import HubClient
from crawler.failures import UnansweredError
from crawler.source import Page
from crawler.transport import Deadline
from workspace import HubError
from workspace.runs import now

logger = logging.getLogger(__name__)

MAX_PAGE = 256 * 1024**2  # bytes: a thousand repositories with many files each
PAGE_SECONDS = 1_800.0  # one page, with every try; waiting for our turn not counted
UNREADABLE_TRIES = 3  # for an answer that is not a page of rows, HTML say
_NEXT = re.compile(r'<([^>]*)>\s*;[^,]*rel="?next"?')


class Listing:
    """The Hub's listing. ``first`` is the address of the first page."""

    def __init__(self, client: HubClient, first: str) -> None:
        self._client, self.first, self.name = client, first, "hub"

    def page(self, url: str) -> Page:
        """Return the page at ``url``. Raises `HubError` when the listing cannot be had."""
        deadline = Deadline(PAGE_SECONDS)
        for attempt in range(1, UNREADABLE_TRIES + 1):
            try:
                answer = self._client.read(url, limit=MAX_PAGE, deadline=deadline, what="the listing")
            except UnansweredError as error:
                raise HubError(f"cannot list models: {error.reason}; run the crawl again to go on from here") from error
            try:
                rows = read_rows(answer.body)
            except ValueError as error:
                kind = answer.headers.get("content-type", "no content type")
                logger.warning("the listing answered with %s that is no list of rows (try %d)", kind, attempt)
                if attempt == UNREADABLE_TRIES:
                    raise HubError(
                        f"cannot list models: {urlsplit(url).netloc} answers with {kind}, not with rows; "
                        "check the endpoint, then run the crawl again"
                    ) from error
                continue
            return Page(rows, self._next(url, answer.headers.get("link", "")), now())
        raise AssertionError("unreachable")

    def _next(self, url: str, link: str) -> str | None:
        found = _NEXT.search(link)
        if found is None:
            return None
        target: str = urljoin(url, found[1])
        if not self._client.same_origin(target) or urlsplit(target).path != urlsplit(url).path:
            raise HubError("the listing's next page is on another host or path; this hub cannot be trusted")
        return target


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
