"""Trying again: exactly as long as the Hub says, else ever longer, and no longer than it can help."""

from __future__ import annotations

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar

from crawler.failures import RetryError, UnansweredError
from crawler.ratelimit import Standing
from crawler.transport import BROKEN, Deadline
from workspace import Status
from workspace.runs import now

logger = logging.getLogger(__name__)
T = TypeVar("T")

BACKOFF = (1.0, 20.0)  # seconds: first wait and longest
LIMITED_BACKOFF = (5.0, 120.0)  # the same for a 429 that states no wait: seven of them outlast a window of 300 s
MAX_LIMITED = 8  # 429s of one request: with exact waits a second one is rare already
TRIES = 5  # of one request while others succeed: then it is this one and not the network
CORRUPT_TRIES = 3  # of an answer of the wrong hash: damage on the way does not repeat itself
LONGEST = 3_600.0  # seconds: a server that states a longer wait is asked again after this


class Retries:
    """Tries requests again. Shared by threads, because whether others succeed tells whose fault a failure is.

    Args:
        patience: seconds for which a request is tried while nothing else succeeds either: an outage is waited out.
    """

    def __init__(self, patience: float) -> None:
        self.patience = patience
        self.count = 0
        self._lock = threading.Lock()
        self._succeeded = 0.0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """End every wait, now and from now on: whoever waits for a request gives up."""
        self._stopped.set()

    def sleep(self, seconds: float) -> None:
        """Wait, or raise `UnansweredError` as soon as `stop` is called."""
        if self._stopped.wait(seconds):
            raise UnansweredError(Status.NETWORK_ERROR, "stopped while waiting for the Hub")

    def call(self, once: Callable[[], T], deadline: Deadline | None, what: str) -> T:
        """Call ``once`` until it answers, is refused for good, or it is no use. Raises `UnansweredError`."""
        deadline = deadline or Deadline(LONGEST)
        patience, before = Deadline(self.patience), time.monotonic()
        attempt = limited = alone = 0
        while True:
            try:
                found = once()
            except RetryError as error:
                problem, wait = error.problem, error.wait
            except (*BROKEN, zlib.error) as error:
                problem, wait = UnansweredError(Status.NETWORK_ERROR, f"{what}: {_describe(error)}"), None
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
                hopeless = (corrupt and attempt >= CORRUPT_TRIES) or alone >= TRIES
            if hopeless or min(deadline.left, patience.left) <= wait:
                raise problem
            with self._lock:
                self.count += 1
            logger.debug("%s: %s; trying again in %.1f s", what, problem.reason, wait)
            self.sleep(wait)


def stated_wait(headers: Mapping[str, str]) -> float | None:
    """Return the seconds to wait that an answer states, RateLimit before Retry-After (seconds or an HTTP date)."""
    standing = Standing.of(headers)
    jitter = random.uniform(0.0, 0.5)
    if standing is not None and standing.remaining == 0:
        return min(standing.reset_in + 1, LONGEST) + jitter  # the server may round down
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


def _describe(error: Exception) -> str:
    return f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
