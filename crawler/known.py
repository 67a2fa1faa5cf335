"""What the catalog already holds, in two sorted arrays: flat memory for a million repositories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crawler.catalog import hash63, listing_fingerprint
from workspace import Outcome, Status, Workspace
from workspace.files import table_files

_COLUMNS = (
    "id", "sha", "gated", "disabled", "private", "pipeline_tag", "library_name", "tags", "eligibility", "crawled_at",
)  # fmt: skip
AGAIN = 0
"""Fingerprint of a row to decide again whatever the listing says: its last decision was a failure that may pass."""
MALFORMED = 1
"""Fingerprint of a row that could not be read."""
DEPARTED = 2
"""Fingerprint of a repository that was gone or renamed: if it is listed again, it is back."""


class Known:
    """The newest state of every repository of earlier crawls, by hash of its id (63 bits; 16 bytes a repository).

    Args:
        keys: hashes of ids, ascending.
        fingerprints: `listing_fingerprint` of each, 0 where it has to be decided again.
    """

    def __init__(self, keys: np.ndarray, fingerprints: np.ndarray) -> None:
        self._keys, self._fingerprints = keys, fingerprints

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def load(cls, workspace: Workspace, *, before: str | None = None) -> Known:
        """Read the catalog, batch by batch; files of the crawl named ``before`` and later ones are left out."""
        keys, prints, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for path in table_files(workspace.catalog_dir):
            if before is not None and path.name.startswith(f"{before}-"):
                continue
            for batch in _batches(path):
                key, fingerprint, time = _digest(batch)
                keys.append(key)
                prints.append(fingerprint)
                times.append(time)
        key, fingerprint, time = np.concatenate(keys), np.concatenate(prints), np.concatenate(times)
        order = np.lexsort((time, key))
        key, fingerprint = key[order], fingerprint[order]
        last = np.append(key[1:] != key[:-1], True) if len(key) else np.empty(0, bool)
        return cls(key[last], fingerprint[last])

    def fingerprint(self, key: int) -> int | None:
        """Return the fingerprint booked for a repository; None when it is new."""
        at = int(np.searchsorted(self._keys, key))
        return int(self._fingerprints[at]) if at < len(self._keys) and self._keys[at] == key else None

    def missing(self, seen: np.ndarray) -> np.ndarray:
        """Return the keys that are not in ``seen`` and were still there when last booked."""
        return np.setdiff1d(self._keys[self._fingerprints != DEPARTED], seen)


def _batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=2048, columns=list(_COLUMNS))


def _digest(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows = batch.to_pylist()
    keys = np.fromiter((hash63(row["id"]) for row in rows), np.int64, len(rows))
    prints = np.fromiter((_state(row) for row in rows), np.int64, len(rows))
    times = batch.column("crawled_at").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return keys, prints, times


def _state(row: dict[str, object]) -> int:
    status = Status(row["eligibility"])
    if status is Status.MALFORMED_ROW:
        return MALFORMED
    if status in (Status.GONE, Status.RENAMED):
        return DEPARTED
    if status is not Status.ELIGIBLE and status.outcome is Outcome.FAILED:
        return AGAIN
    return listing_fingerprint(row)
