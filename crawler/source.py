"""Where rows come from: the Hub's listing or a snapshot of it, page by page, each with where to go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Page:
    """One page of rows as the Hub or a snapshot gave them.

    Attributes:
        rows: JSON values, or dicts of Python values from a snapshot.
        next: address of the next page; None after the last one.
        read_at: when it was read.
        raw: the page as it came, when it is worth a copy on disk.
    """

    rows: list[Any]
    next: str | None
    read_at: datetime
    raw: bytes | None = None


class Source(Protocol):
    """A listing.

    Attributes:
        first: address of its first page.
        name: tells sources apart in the journal.
        is_live: whether it is the Hub itself, now: only then does a repository that is not listed have gone.
    """

    first: str
    name: str
    is_live: bool

    def page(self, url: str) -> Page:
        """Return the page at ``url``. Raises `HubError` when it cannot be had."""
        ...
