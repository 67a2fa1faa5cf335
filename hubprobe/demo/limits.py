"""The Hub's rate limits: fixed windows per bucket and caller, announced in the headers of every answer."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Requests allowed per window, by bucket. ``window`` is in seconds of the limiter's clock."""

    api: int
    resolvers: int
    pages: int
    window: int = 300


ANONYMOUS = Limits(api=500, resolvers=3_000, pages=100)
"""The Hub's documented limits per address without a token (5 minutes); the next two are per user."""
FREE = Limits(api=1_000, resolvers=5_000, pages=200)
PRO = Limits(api=2_500, resolvers=12_000, pages=400)
GENEROUS = Limits(api=1_000_000, resolvers=1_000_000, pages=1_000_000)
"""The demo's: nobody should wait for a hub on their own machine."""


@dataclass(frozen=True)
class Standing:
    """Where a caller stands in a window after one request."""

    bucket: str
    allowed: bool
    remaining: int
    reset_in: int  # seconds until the window ends, rounded up
    quota: int
    window: int  # seconds

    @property
    def headers(self) -> list[tuple[str, str]]:
        """Return the headers every answer of the Hub carries."""
        return [
            ("RateLimit", f'"{self.bucket}";r={self.remaining};t={self.reset_in}'),
            ("RateLimit-Policy", f'"fixed window";"{self.bucket}";q={self.quota};w={self.window}'),
        ]


class RateLimiter:
    """Counts requests in fixed windows. A caller's window opens with its first request after the last one ended.

    Args:
        limits: for callers without a token, counted together by address.
        by_token: for callers with one of these tokens; any other token gets ``limits``, counted by token.
        clock: seconds; a test passes its own, or one that runs faster than the wall's.
    """

    def __init__(
        self,
        limits: Limits = GENEROUS,
        by_token: Mapping[str, Limits] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._by_token, self._clock = limits, dict(by_token or {}), clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}  # (bucket, caller) -> end, requests so far
        self._lock = threading.Lock()

    def take(self, bucket: str, address: str, token: str = "") -> Standing:
        """Count one request and say whether it is within the limit. A refused request does not count."""
        limits = self._by_token.get(token, self._limits)
        quota: int = getattr(limits, bucket)
        key = (bucket, token or address)
        with self._lock:
            now = self._clock()
            end, used = self._windows.get(key, (0.0, 0))
            if now >= end:
                end, used = now + limits.window, 0
            allowed = used < quota
            used += allowed
            self._windows[key] = (end, used)
        return Standing(bucket, allowed, quota - used, max(math.ceil(end - now), 0), quota, limits.window)
