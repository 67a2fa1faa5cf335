"""Rate limits for the demo hub, as the real one has them: fixed windows, by bucket and caller."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hubprobe.demo.server import Standing


@dataclass(frozen=True)
class Quotas:
    """Requests allowed per window, by bucket. ``window`` is in seconds of the limiter's clock."""

    api: int
    resolvers: int
    pages: int
    window: int = 300


GENEROUS = Quotas(api=1_000_000, resolvers=1_000_000, pages=1_000_000)
"""More than anybody asks for."""


class RateLimiter:
    """Counts requests in fixed windows. A caller's window opens with its first request after the last one ended.

    Callers without a token are counted together by address, others by token: by the quotas of ``by_token``, else the
    same. ``clock`` is in seconds; a test passes its own, or one that runs faster than the wall's.
    """

    def __init__(
        self,
        limits: Quotas = GENEROUS,
        by_token: Mapping[str, Quotas] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits, self._by_token, self._clock = limits, dict(by_token or {}), clock
        self._windows: dict[tuple[str, str], tuple[float, int]] = {}  # (bucket, caller) -> end, requests so far
        self._lock = threading.Lock()

    def __call__(self, bucket: str, address: str, token: str = "") -> Standing:
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
