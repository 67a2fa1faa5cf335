"""Which repositories a crawl is about, and how the API is asked for them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlencode

from crawler.listing.rows import Listed
from workspace.files import canonical_json, short_hash

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
