"""What a server was asked, for tests and benchmarks: every request, and counts by bucket and status."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Asked:
    """One request and how it was answered."""

    number: int  # from 1, in order of arrival
    time: float  # seconds, time.monotonic
    bucket: str  # api, resolvers, pages, or cdn for the second port
    method: str
    target: str  # path and query as sent
    status: int
    headers: dict[str, str]  # lower-case names

    @property
    def has_token(self) -> bool:
        """Return whether the request carried credentials."""
        return "authorization" in self.headers or "cookie" in self.headers


class RequestLog:
    """Thread-safe record of requests; counts are complete, the records kept are the latest ``keep``."""

    def __init__(self, keep: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Asked] = deque(maxlen=keep)
        self._counts: Counter[tuple[str, int]] = Counter()
        self._number = 0

    def add(self, *, time: float, bucket: str, method: str, target: str, status: int, headers: dict[str, str]) -> None:
        """Record one request."""
        with self._lock:
            self._number += 1
            self._kept.append(Asked(self._number, time, bucket, method, target, status, headers))
            self._counts[bucket, status] += 1

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._counts.clear()
            self._number = 0

    def count(self, bucket: str | None = None, status: int | None = None) -> int:
        """Return how many requests there were, in all or of one bucket and status."""
        with self._lock:
            return sum(n for (b, s), n in self._counts.items() if bucket in (None, b) and status in (None, s))

    def matching(self, part: str) -> list[Asked]:
        """Return the kept requests whose target contains ``part``."""
        return [asked for asked in self if part in asked.target]

    def __iter__(self) -> Iterator[Asked]:
        with self._lock:
            return iter(list(self._kept))

    def __len__(self) -> int:
        return self._number
