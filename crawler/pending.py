"""Decided rows on their way into the catalog: in memory, with a log from which a killed crawl takes them back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from workspace.files import TEMPORARY_PREFIX
from workspace.records import CATALOG

logger = logging.getLogger(__name__)

Row = dict[str, Any]


class Pending:
    """Rows that are not in a catalog file yet.

    Args:
        folder: the catalog's; the log is named like an unfinished file, which readers ignore.
        crawl: the crawl whose rows these are.
    """

    def __init__(self, folder: Path, crawl: str) -> None:
        self._path = folder / f"{TEMPORARY_PREFIX}pending-{crawl}"
        self.rows: list[Row] = []
        self._logged = 0
        self._writer: Any = None
        self._file: Any = None

    def recover(self, written: set[str]) -> list[Row]:
        """Return the rows of a killed crawl's log, without those whose id is in a catalog file already."""
        found: dict[str, Row] = {}
        if self._path.exists():
            try:
                with pa.OSFile(str(self._path), "rb") as file, pa.ipc.open_stream(file) as reader:
                    for batch in reader:
                        found |= {row["id"]: row for row in batch.to_pylist() if row["id"] not in written}
            except (pa.ArrowInvalid, OSError, EOFError):
                logger.debug("the log ends where the crawl was killed; %d rows are whole", len(found))
            self._path.unlink()
        return list(found.values())

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row; it is on disk after the next `log` or `take`."""
        self.rows.append(dict(row))

    def log(self) -> None:
        """Write the rows added since the last call to the log."""
        if self._logged == len(self.rows):
            return
        if self._writer is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pa.OSFile(str(self._path), "wb")
            self._writer = pa.ipc.new_stream(self._file, CATALOG)
        self._writer.write_table(pa.Table.from_pylist(self.rows[self._logged :], schema=CATALOG))
        self._file.flush()
        self._logged = len(self.rows)

    def clear(self) -> None:
        """Forget the rows and their log: they are in a catalog file."""
        self.rows.clear()
        self._logged = 0
        if self._writer is not None:
            self._file.close()
            self._writer = self._file = None
        self._path.unlink(missing_ok=True)
