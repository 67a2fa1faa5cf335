"""One token bucket per rate-limit bucket of the Hub, shared by all threads and driven by what the server says.

The Hub counts requests in fixed windows and says in every answer where we stand (its documentation, "Rate limits")::

    RateLimit: "api";r=498;t=120
    RateLimit-Policy: "fixed window";"api";q=500;w=300

so the tiers (anonymous, free, PRO) differ here only by those numbers. Spending is spread evenly over the window, with a
burst of a tenth of the quota so that a small crawl does not wait.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_STATE = re.compile(r'"(?P<name>[\w-]+)"\s*;\s*r=(?P<r>\d+)\s*;\s*t=(?P<t>\d+)')
_POLICY = re.compile(r'"(?P<name>[\w-]+)"\s*;\s*q=(?P<q>\d+)\s*;\s*w=(?P<w>\d+)')
_BURST = 0.1  # share of the quota that may be spent ahead of an even pace
_JITTER = 0.1  # share of a wait added at random, so that threads and processes do not wake together
_ROUNDING = 1.0  # seconds: whether the server rounds its ``t`` up or down is not stated


@dataclass(frozen=True)
class Standing:
    """What one answer says of its bucket: requests left, seconds to the window's end, and the policy if stated."""

    name: str
    remaining: int
    reset_in: int
    quota: int | None
    window: int | None

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Standing | None:
        """Read the headers (lower-case names); None when there are none or they do not parse."""
        state = _STATE.search(headers.get("ratelimit", ""))
        if state is None:
            return None
        policy = _POLICY.search(headers.get("ratelimit-policy", ""))
        quota, window = (int(policy["q"]), int(policy["w"])) if policy else (None, None)
        return cls(state["name"], int(state["r"]), int(state["t"]), quota, window)


class Bucket:
    """Requests that may still be sent in the present window. Thread-safe.

    Until the server has said something nothing is held back; a server that never does is not paced.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tokens = 0
        self._quota = 0
        self._window = 0.0
        self._reset: float | None = None  # on the clock; the latest moment at which the window can end
        self._guessed = False  # whether _reset is our guess of a window that no answer has told of yet
        self._in_flight = 0
        self._next = 0.0
        self.waited = 0.0  # seconds, all threads together

    def reserve(self) -> float:
        """Take one request out of the bucket and return how many seconds to wait before sending it."""
        with self._lock:
            now = self._clock()
            self._in_flight += 1
            at = max(now, self._next)
            if self._reset is not None and self._quota:
                at = self._slot(at)
            wait = max(at - now, 0.0)
            self.waited += wait
            return wait * (1 + random.random() * _JITTER)

    def _slot(self, at: float) -> float:
        """Return when the next request may go, not before ``at``, and set the one after it."""
        assert self._reset is not None
        if at >= self._reset or self._tokens <= 0:
            # Past the end the next window's requests are ours, to be corrected by its first answer.
            at = max(at, self._reset)
            self._tokens = self._quota
            self._reset, self._guessed = at + self._window, True
        left = self._reset - at
        self._tokens -= 1
        behind = self._quota * left / self._window - self._tokens
        self._next = at + left / (self._tokens + 1) if behind > self._quota * _BURST else at
        return at

    def hold(self, seconds: float) -> None:
        """Send nothing for ``seconds``: the server refused a request."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)

    def seconds_for(self, requests: int) -> float:
        """Return how long ``requests`` take at the policy last stated; 0 when none was."""
        with self._lock:
            return requests / self._quota * self._window if self._quota else 0.0

    def answered(self, standing: Standing | None) -> None:
        """Book an answer: requests in flight count against what the server says is left."""
        with self._lock:
            self._in_flight = max(self._in_flight - 1, 0)
            if standing is None:
                return
            now = self._clock()
            end = now + standing.reset_in + _ROUNDING
            self._quota = standing.quota or max(self._quota, standing.remaining + 1)
            self._window = float(standing.window or self._window or max(standing.reset_in, 1))
            left = max(standing.remaining - self._in_flight, 0)
            if self._reset is None or end > self._reset + self._window / 2:
                self._reset, self._tokens, self._guessed = end, left, False  # a window we did not know of
            elif end > self._reset - self._window / 2:
                self._reset = end if self._guessed else min(self._reset, end)
                self._guessed = False
                self._tokens = min(self._tokens, left)
            # else: an answer of the window before, overtaken by others


class RateLimits:
    """The buckets by name; URLs are counted where the Hub's documentation says."""

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {"api": Bucket(), "resolvers": Bucket()}

    def bucket(self, path: str) -> Bucket:
        """Return the bucket that a request for ``path`` on the endpoint's origin falls into."""
        return self.buckets[bucket_name(path)]


def bucket_name(path: str) -> str:
    """Return 'resolvers' for file downloads and their redirect target, else 'api'."""
    return "resolvers" if "/resolve/" in path or path.startswith("/api/resolve-cache/") else "api"
