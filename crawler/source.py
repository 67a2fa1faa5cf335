"""Where rows come from: the Hub's listing or a snapshot of it, page by page, each with where to go on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol


@dataclass(frozen=True)
class Page:
    """One page of rows as the Hub or a snapshot gave them. ``next`` is None after the last one."""

    rows: list[Any]
    next: str | None
    read_at: datetime


class Source(Protocol):
    """A listing. ``first`` is the address of its first page, ``name`` tells sources apart in the journal."""

    first: str
    name: str

    def page(self, url: str) -> Page:
        """Return the page at ``url``. Raises `HubError` when it cannot be had."""
        ...
