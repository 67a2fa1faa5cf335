"""The Hub's own client library: what it raises, and when it is worth asking it again.

The crawler speaks to the Hub by itself (`crawler.hub`); encoders and data sets go through huggingface_hub, which does
not try again where a Hub is busy for a moment: `model_info` raises at the first 429.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

logger = logging.getLogger(__name__)
T = TypeVar("T")

PASSING = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses of a Hub that may answer when it is asked again."""

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before it is asked again, where it does not say how long to wait."""

LONGEST = 310.0
"""Seconds waited at most: a window of the Hub's rate limits is five minutes."""


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an error comes of, however deep a library wrapped it; None where there was none."""
    answer = _answer(error)
    return None if answer is None else int(answer.status_code)


def patiently(call: Callable[[], T], *, sleep: Callable[[float], None] = time.sleep) -> T:
    """Return what ``call`` does; where it fails at a Hub that is only busy, wait as it asks and call once more."""
    for pause in PAUSES:
        try:
            return call()
        except Exception as error:
            if status_of(error) not in PASSING:
                raise
            wait = _stated(_answer(error))
            wait = min(pause if wait is None else wait, LONGEST)
            logger.info("the Hub answers %s: asked again in %.0f s", status_of(error), wait)
        sleep(wait)
    return call()


def _answer(error: BaseException | None) -> Any:
    seen = 0
    while error is not None and seen < 10:
        answer = getattr(error, "response", None)
        if isinstance(getattr(answer, "status_code", None), int):
            return answer
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def _stated(answer: Any) -> float | None:
    from huggingface_hub import utils

    client: Any = utils
    told = client.parse_ratelimit_headers(answer.headers)
    if told is not None and told.remaining == 0:
        return float(told.reset_in_seconds)
    after = str(answer.headers.get("retry-after", ""))
    return float(after) if after.isdecimal() and len(after) < 6 else None
