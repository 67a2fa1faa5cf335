"""The pace: one token bucket per rate-limit bucket of the Hub, and when a request is worth another try.

The Hub counts requests in fixed windows and says in every answer where we stand (its documentation, "Rate limits")::

    RateLimit: "api";r=498;t=120
    RateLimit-Policy: "fixed window";"api";q=500;w=300

so the tiers (anonymous, free, PRO) differ here only by those numbers. Spending is spread evenly over the window, with a
burst of a tenth of the quota so that a small crawl does not wait.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

from huggingface_hub.utils import RateLimitInfo, httpx, parse_ratelimit_headers  # type: ignore[attr-defined]

from crawler.hub.transport import BROKEN, Deadline, RetryError, UnansweredError
from workspace import Status
from workspace.runs import now

logger = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF = (1.0, 20.0)  # seconds: first wait and longest
LIMITED_BACKOFF = (5.0, 120.0)  # the same for a 429 that states no wait: seven of them outlast a window of 300 s
MAX_LIMITED = 8  # 429s of one request: with exact waits a second one is rare already
TRIES = 5  # of one request while others succeed: then it is this one and not the network
TOLD_TRIES = 3  # of a request that nothing answers before a user is told that we wait
CORRUPT_TRIES = 3  # of an answer of the wrong hash: damage on the way does not repeat itself
LONGEST = 3_600.0  # seconds: a server that states a longer wait is asked again after this
_BURST = 0.1  # share of the quota that may be spent ahead of an even pace
_JITTER = 0.1  # share of a wait added at random, so that threads and processes do not wake together
_ROUNDING = 1.0  # seconds: whether the server rounds its ``t`` up or down is not stated
_MOST_BUCKETS = 16  # names a Hub may give
_LARGEST = 10**9  # a number in a header beyond this is nonsense


def standing(headers: Mapping[str, str]) -> RateLimitInfo | None:
    """Return what an answer says of its bucket; None when it says nothing, or nothing that can be."""
    try:
        told = parse_ratelimit_headers(headers)
    except ValueError:  # a number of thousands of digits
        return None
    if told is None or max(told.remaining, told.reset_in_seconds, told.limit or 0, told.window_seconds or 0) > _LARGEST:
        return None
    return told


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

    def reserve(self) -> float:
        """Take one request out of the bucket and return how many seconds to wait before sending it."""
        with self._lock:
            now = self._clock()
            self._in_flight += 1
            at = max(now, self._next)
            if self._reset is not None and self._quota:
                at = self._slot(at)
            wait = max(at - now, 0.0)
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

    def answered(self, told: RateLimitInfo | None) -> None:
        """Book an answer: requests in flight count against what the server says is left."""
        with self._lock:
            self._in_flight = max(self._in_flight - 1, 0)
            if told is None:
                return
            now = self._clock()
            end = now + told.reset_in_seconds + _ROUNDING
            self._quota = told.limit or max(self._quota, told.remaining + 1)
            self._window = float(told.window_seconds or self._window or max(told.reset_in_seconds, 1))
            left = max(told.remaining - self._in_flight, 0)
            if self._reset is None or end > self._reset + self._window / 2:
                self._reset, self._tokens, self._guessed = end, left, False  # a window we did not know of
            elif end > self._reset - self._window / 2:
                self._reset = end if self._guessed else min(self._reset, end)
                self._guessed = False
                self._tokens = min(self._tokens, left)
            # else: an answer of the window before, overtaken by others


class RateLimits:
    """The buckets by the names the Hub gives them.

    A request's bucket is first guessed from its address, as the Hub's documentation counts; once an answer has named
    another one, requests of that kind are counted there.
    """

    def __init__(self) -> None:
        self.buckets: dict[str, Bucket] = {"api": Bucket(), "resolvers": Bucket()}
        self._names: dict[str, str] = {}

    def bucket(self, path: str) -> Bucket:
        """Return the bucket that a request for ``path`` on the endpoint's origin falls into."""
        kind = bucket_name(path)
        return self.buckets[self._names.get(kind, kind)]

    def answered(self, path: str, bucket: Bucket, told: RateLimitInfo | None) -> Bucket:
        """Book an answer to a request that was counted in ``bucket``; return the bucket that the Hub counted it in."""
        named = bucket
        if told is not None and (told.resource_type in self.buckets or len(self.buckets) < _MOST_BUCKETS):
            named = self.buckets.setdefault(told.resource_type, Bucket())
            self._names[bucket_name(path)] = told.resource_type
        if named is not bucket:
            bucket.answered(None)
        named.answered(told)
        return named


def bucket_name(path: str) -> str:
    """Return 'resolvers' for file downloads and their redirect target, else 'api'."""
    return "resolvers" if "/resolve/" in path or "/api/resolve-cache/" in path else "api"


class Retries:
    """Tries requests again. Shared by threads, because whether others succeed tells whose fault a failure is.

    While nothing else succeeds either, a request is tried for ``patience`` seconds: an outage is waited out.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.count = 0
        self._lock = threading.Lock()
        self._succeeded = 0.0
        self._told = -patience
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every wait, now and from now on: whoever waits for a request gives up."""
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, or raise `UnansweredError` as soon as `stop` is called."""
        if self._stopped.wait(seconds):
            raise UnansweredError(Status.NETWORK_ERROR, "stopped while waiting for the Hub")

    def call(self, once: Callable[[], T], deadline: Deadline | None, what: str, slow_tries: int | None = None) -> T:
        """Call ``once`` until it answers, is refused for good, or it is no use. Raises `UnansweredError`.

        ``slow_tries`` ends it after so many answers for which the server had too little time.
        """
        deadline = deadline or Deadline(LONGEST)
        patience, before = Deadline(self.patience), time.monotonic()
        attempt = limited = alone = slowly = 0
        while True:
            try:
                found = once()
            except RetryError as error:
                problem, wait = error.problem, error.wait
            except BROKEN as error:
                slow = isinstance(error, httpx.ReadTimeout)
                why = f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
                problem = UnansweredError(Status.NETWORK_ERROR, f"{what}: {why}", slow=slow)
                wait = None
            else:
                self._succeeded = time.monotonic()
                return found
            if problem.http == 429:
                limited += 1
                wait = _backoff(limited, LIMITED_BACKOFF) if wait is None else wait
                deadline.extend(wait)
                patience.extend(wait)
                hopeless = limited >= MAX_LIMITED
            else:
                attempt += 1
                wait = _backoff(attempt, BACKOFF) if wait is None else wait
                # In an outage nothing succeeds between two failures; only failures that others do not share count.
                alone += self._succeeded > before
                before = time.monotonic()
                corrupt = problem.status is Status.CORRUPT_FILE
                slowly += problem.slow
                hopeless = (corrupt and attempt >= CORRUPT_TRIES) or alone >= TRIES or slowly == slow_tries
            if hopeless or min(deadline.left, patience.left) <= wait:
                raise problem
            with self._lock:
                self.count += 1
                tell = attempt == TOLD_TRIES and not alone and before - self._told > self.patience
                self._told = before if tell else self._told
            if tell:  # once an outage, whoever of the threads meets it first
                logger.warning(
                    "%s; trying again for %.0f seconds more", problem.reason, min(deadline.left, patience.left)
                )
            logger.debug("%s: %s; trying again in %.1f s", what, problem.reason, wait)
            self.sleep(wait)


def stated_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that an answer states, RateLimit before Retry-After (seconds or an HTTP date)."""
    told = standing(headers)
    jitter = random.uniform(0.0, 0.5)
    if told is not None and told.remaining == 0:
        return min(told.reset_in_seconds + 1, LONGEST) + jitter  # the server may round down
    after = headers.get("retry-after", "")
    if after.isdecimal():
        return min(float(after), LONGEST) + jitter
    try:
        return min(max((parsedate_to_datetime(after) - now()).total_seconds(), 0.0), LONGEST) + jitter
    except (TypeError, ValueError):
        return None


def _backoff(attempt: int, bounds: tuple[float, float]) -> float:
    first, longest = bounds
    return random.uniform(0.5, 1.0) * min(first * 2.0 ** (attempt - 1), longest)
