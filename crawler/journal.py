"""The crawl's journal: where the listing goes on. One small JSON file, replaced whole after every committed page.

The catalog's files are the truth about which rows are done; the journal only says which page comes next. So a kill
between the two costs reading one page again, from its copy on disk, and deciding nothing twice.
"""

from __future__ import annotations

from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints, ValidationError
from pydantic.dataclasses import dataclass

from crawler.listing.query import PAGE
from workspace import WorkspaceError
from workspace.files import read_json, write_json

Count = Annotated[int, Field(ge=0, le=2**40)]


@dataclass(config=ConfigDict(strict=True))
class Journal:
    """Progress of the latest crawl.

    Attributes:
        crawl: its name; its catalog files start with it.
        query: key of what it lists, with limit and source: another one starts a new crawl.
        policy: hash of what decides eligibility in this crawl.
        decided_under: the policy that every row of the catalog was decided under, before this crawl; when it is another
            one, unchanged rows are decided again.
        next: address of the next page to commit; None when every page is committed.
        pages, listed: pages and rows committed.
        page_size: rows of a page that the server had the time for: the next crawl begins with it.
        seen: ids written to the crawl's file of seen ids.
        finished: whether it came to its end; the next crawl is then a new one.
    """

    crawl: Annotated[str, StringConstraints(pattern="^[0-9A-Za-z]{1,40}$")]  # files are named by it
    query: str
    policy: str
    next: str | None
    started: str
    decided_under: str = ""
    pages: Count = 0
    listed: Count = 0
    page_size: Annotated[int, Field(ge=1, le=PAGE)] = PAGE
    seen: Count = 0
    finished: bool = False
    requests: dict[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> Journal | None:
        """Read the journal; None when there is none. Raises `WorkspaceError` when it is damaged."""
        if not path.exists():
            return None
        raw = read_json(path)
        try:
            return cls(**{f.name: raw[f.name] for f in fields(cls) if f.name in raw})
        except ValidationError as error:
            raise WorkspaceError(f"{path} is no journal of a crawl; delete it and crawl again") from error

    def save(self, path: Path) -> None:
        """Write the journal, atomically."""
        write_json(path, asdict(self))
