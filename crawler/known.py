"""What the catalog already holds, in sorted arrays: flat memory for a million repositories."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pyarrow as pa

from crawler.catalog import hash63, listing_fingerprint
from workspace import Outcome, Status, Workspace
from workspace.files import batches, table_files

_COLUMNS = (
    "id", "sha", "gated", "disabled", "private", "pipeline_tag", "library_name", "tags", "eligibility", "crawled_at",
)  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_STATUSES = tuple(Status)
_CODES = {status.value: code for code, status in enumerate(_STATUSES)}
_DEPARTED = tuple(_CODES[status.value] for status in (Status.GONE, Status.RENAMED))


@dataclass(frozen=True)
class State:
    """The newest row of a repository, as far as the next crawl needs it."""

    fingerprint: int
    status: Status

    @property
    def is_final(self) -> bool:
        """Whether the same listing leads to the same decision: not so after a failure that may pass, or if it left."""
        if self.status in (Status.GONE, Status.RENAMED):
            return False
        return self.status is Status.ELIGIBLE or self.status.outcome is not Outcome.FAILED


class Known:
    """The newest state of every repository of earlier crawls, by hash of its id (63 bits; 17 bytes a repository).

    Args:
        keys: hashes of ids, ascending.
        fingerprints: `listing_fingerprint` of each.
        codes: status of each.
        latest: when the newest row was read; the epoch when there is none.
    """

    def __init__(
        self, keys: np.ndarray, fingerprints: np.ndarray, codes: np.ndarray, latest: datetime = _EPOCH
    ) -> None:
        self._keys, self._fingerprints, self._codes, self.latest = keys, fingerprints, codes, latest

    def __len__(self) -> int:
        return len(self._keys)

    @classmethod
    def load(cls, workspace: Workspace, *, before: str | None = None) -> Known:
        """Read the catalog, batch by batch; files of the crawl named ``before`` are left out."""
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.int64))]
        for path in table_files(workspace.catalog_dir):
            if before is None or not path.name.startswith(before):
                parts += [_digest(batch) for batch in batches(path, 2048, list(_COLUMNS))]
        keys, prints, codes, times = (np.concatenate([part[i] for part in parts]) for i in range(4))
        order = np.lexsort((times, keys))
        keys = keys[order]
        newest = order[np.append(keys[1:] != keys[:-1], True)] if len(keys) else order
        latest = _EPOCH + timedelta(microseconds=int(times.max(initial=0)))
        kept = keys[np.append(keys[1:] != keys[:-1], True)] if len(keys) else keys
        return cls(kept, prints[newest], codes[newest], latest)

    def state(self, key: int) -> State | None:
        """Return what is booked for a repository; None when it is new."""
        at = int(np.searchsorted(self._keys, key))
        if at >= len(self._keys) or self._keys[at] != key:
            return None
        return State(int(self._fingerprints[at]), _STATUSES[self._codes[at]])

    def missing(self, seen: np.ndarray) -> set[int]:
        """Return the keys that are not in ``seen`` and were still there when last booked."""
        there = self._keys[~np.isin(self._codes, _DEPARTED)]
        return set(np.setdiff1d(there, seen).tolist())


def newest_rows(workspace: Workspace, keys: set[int]) -> Iterator[dict[str, Any]]:
    """Yield the newest catalog row of each repository in ``keys``, whole; memory grows with ``keys`` only."""
    found: dict[int, dict[str, Any]] = {}
    for path in table_files(workspace.catalog_dir):
        for batch in batches(path, 512):
            names = [hash63(name) for name in batch.column("id").to_pylist()]
            wanted = [i for i, key in enumerate(names) if key in keys]
            for i, row in zip(wanted, batch.take(pa.array(wanted, pa.int64())).to_pylist(), strict=True):
                before = found.get(names[i])
                if before is None or row["crawled_at"] >= before["crawled_at"]:
                    found[names[i]] = row
    yield from found.values()


def _digest(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows = batch.to_pylist()
    keys = np.fromiter((hash63(row["id"]) for row in rows), np.int64, len(rows))
    prints = np.fromiter((listing_fingerprint(row) for row in rows), np.int64, len(rows))
    codes = np.fromiter((_CODES[row["eligibility"]] for row in rows), np.int8, len(rows))
    times = batch.column("crawled_at").cast(pa.int64()).to_numpy(zero_copy_only=False)
    return keys, prints, codes, times
