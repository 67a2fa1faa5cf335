"""Copies of listing pages that are asked for but not yet committed: a killed crawl need not ask again."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path

from crawler.listing import read_rows
from crawler.source import Page, Source
from workspace.files import TEMPORARY_PREFIX, replacing, short_hash

logger = logging.getLogger(__name__)


class Spool:
    """A source whose pages are kept on disk until `done`.

    Args:
        source: where pages come from.
        folder: where the copies go; they are named like unfinished files, which readers ignore.
    """

    def __init__(self, source: Source, folder: Path) -> None:
        self._source, self._folder = source, folder
        self.first, self.name, self.is_live = source.first, source.name, source.is_live

    def page(self, url: str) -> Page:
        """Return the page at ``url`` from its copy, or from the source. Raises `HubError`."""
        path = self._path(url)
        if path.exists():
            try:
                return _read(path)
            except (ValueError, KeyError, TypeError, OSError):
                logger.warning("the copy of a listing page cannot be read; asking for the page again")
                path.unlink(missing_ok=True)
        page = self._source.page(url)
        if page.raw is not None:
            with replacing(path) as temporary, temporary.open("wb") as file:
                meta = {"next": page.next, "read_at": page.read_at.isoformat()}
                file.write(json.dumps(meta).encode() + b"\n" + page.raw)
        return page

    def done(self, url: str) -> None:
        """Delete the copy of a page: its rows are in the catalog."""
        self._path(url).unlink(missing_ok=True)

    def _path(self, url: str) -> Path:
        return self._folder / f"{TEMPORARY_PREFIX}page-{short_hash(url)}"


def _read(path: Path) -> Page:
    meta, _, raw = path.read_bytes().partition(b"\n")
    stated = json.loads(meta)
    return Page(read_rows(raw), stated["next"], datetime.fromisoformat(stated["read_at"]))
