"""Rows from a Parquet snapshot of the Hub with the API's column names, through DuckDB: no listing requests at all."""

from __future__ import annotations

import logging
import re
from typing import Any

import duckdb
from huggingface_hub import HfFileSystem

from crawler.listing.pages import Page
from crawler.listing.query import PAGE, Query
from workspace import HubError, WorkspaceError
from workspace.runs import now
from workspace.text import printable

logger = logging.getLogger(__name__)

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
    """Pages of a snapshot, in the order of its rows.

    Args:
        where: a local Parquet file or pattern, or an ``hf://`` address.
        query: what is wanted; the filters that columns allow are left to DuckDB.
        endpoint: of the Hub, for ``hf://``.
        token: for the Hub, for ``hf://``.

    Raises:
        WorkspaceError: it cannot be read, or has no ``id``.
    """

    is_live = False
    size = bearable = PAGE

    def __init__(self, where: str, query: Query, endpoint: str, token: str | None) -> None:
        self.first, self.name = "row:0", f"snapshot {where}"
        self._where = where
        self._connection = duckdb.connect()
        if where.startswith("hf://"):
            # fsspec in place of DuckDB's httpfs: it honours our endpoint and token, and nothing has to be installed.
            self._connection.register_filesystem(HfFileSystem(endpoint=endpoint, token=token or False))
        self._selected: list[str] = []
        self._filter, self._values = _conditions(query, self._columns())
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
            rows = [_complete(row) for row in self._next_rows()]
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
                self._selected.append(f'CAST("{name}" AS TIMESTAMP) AS "{name}"' if cast else _as(expression, name))
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


def _as(expression: str, name: str) -> str:
    return f'{expression.format(name)} AS "{name}"'


def _complete(row: dict[str, Any]) -> dict[str, Any]:
    """A snapshot without commits is no malformed one: the empty commit says that the API has to be asked."""
    return {**row, "sha": row.get("sha") or ""}


def _conditions(query: Query, columns: list[str]) -> tuple[str, list[str]]:
    wanted = {"pipeline_tag": query.pipeline_tag, "author": query.author}
    kept = {name: value for name, value in wanted.items() if value and name in columns}
    text = " AND ".join(['"id" IS NOT NULL', *(f'"{name}" = ?' for name in kept)])
    return text, list(kept.values())
