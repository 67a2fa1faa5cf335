"""HTTP to the Hub: paced by its rate limits, bounded in time and bytes, redirects followed by hand.

Redirects are followed here and not by the HTTP library so that the token goes to the endpoint's own origin and nowhere
else, that every hop is counted in its bucket, and that the hash and size named on the first hop are kept.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from crawler.answers import Answer, bounded, decoded
from crawler.failures import RETRIED, RetryError, UnansweredError, refusal
from crawler.identity import user_agent
from crawler.ratelimit import Bucket, RateLimits, Standing, bucket_name
from crawler.retries import Retries, stated_wait
from crawler.transport import Deadline, exchange, new_pool, pause
from workspace import Status
from workspace.endpoint import checked, origin

logger = logging.getLogger(__name__)
T = TypeVar("T")

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # silence allowed between two pieces of an answer
EXCHANGE_SECONDS = 60.0  # one small answer, first byte to last
PATIENCE_SECONDS = 240.0  # how long an outage is waited out
MAX_HOPS = 6  # redirects of one request
_REDIRECTS = (301, 302, 303, 307, 308)
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"


class HubClient:
    """A connection to one endpoint, shared by threads.

    Args:
        endpoint: address of the Hub.
        token: sent to the endpoint's own origin only; never logged.

    Attributes:
        limits: the rate limits as the Hub states them.
        requests: requests sent, by bucket; ``elsewhere`` is any other origin.
        retries: what is tried again, and how often it was.
    """

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self.endpoint = checked(endpoint)
        self._origin = origin(self.endpoint)
        self._token = token
        self._agent = user_agent()
        self.limits = RateLimits()
        self.requests: dict[str, int] = {"api": 0, "resolvers": 0, "elsewhere": 0}
        self.retries = Retries(PATIENCE_SECONDS)
        self._lock = threading.Lock()
        self._pool = new_pool(self.endpoint)

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint!r})"

    def close(self) -> None:
        """Close all connections; requests that wait for their turn, or to be tried again, give up."""
        self.retries.stop()
        self._pool.close()

    def resolve_url(self, repo_id: str, sha: str, path: str) -> str:
        """Return the address of a file at a commit; every part is quoted, because all of them are untrusted."""
        return f"{self.endpoint}/{quote(repo_id)}/resolve/{quote(sha, safe='')}/{quote(path)}"

    def api_url(self, repo_id: str, rest: str = "") -> str:
        """Return the address of a repository in the API."""
        return f"{self.endpoint}/api/models/{quote(repo_id)}{rest}"

    def same_origin(self, url: str) -> bool:
        """Return whether ``url`` is on the endpoint: scheme, host and port."""
        return origin(url) == self._origin

    def read(
        self,
        url: str,
        *,
        limit: int,
        deadline: Deadline | None = None,
        start: int | None = None,
        stop: int | None = None,
        content: bytes | None = None,
        follow: bool = True,
        what: str = "",
        check: Callable[[Answer], None] | None = None,
    ) -> Answer:
        """GET ``url``, or POST a form (``content``) to it; return its answer with at most ``limit`` bytes of body.

        With ``start`` and ``stop`` the bytes ``[start, stop)`` are asked for; a server that ignores the range is read
        only as far as needed. ``follow=False`` returns a redirect (``location``) instead of following it.
        What may pass by itself is tried again; ``check`` may raise `RetryError` for an answer that makes no sense.
        Raises `UnansweredError`.
        """
        extra = {} if start is None else {"range": f"bytes={start}-{(stop or limit) - 1}"}
        if content is not None:
            extra["content-type"] = "application/x-www-form-urlencoded"
            extra["content-length"] = str(len(content))
        method = "GET" if content is None else "POST"

        def once() -> Answer:
            seconds = EXCHANGE_SECONDS if deadline is None else max(min(EXCHANGE_SECONDS, deadline.left), 0.01)
            with exchange(seconds):
                asked = self.open(url, method=method, headers=extra, content=content, follow=follow, deadline=deadline)
                with asked as (answer, chunks):
                    answer.body = bounded(answer, chunks, limit, start, stop) if answer.location is None else b""
            if check is not None and answer.location is None:
                check(answer)
            return answer

        return self.retrying(once, deadline=deadline, what=what or urlsplit(url).path)

    def retrying(self, once: Callable[[], T], *, deadline: Deadline | None, what: str) -> T:
        """Call ``once`` until it answers, is refused for good, or it is no use; see `Retries`."""
        return self.retries.call(once, deadline, what)

    @contextmanager
    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        follow: bool = True,
        deadline: Deadline | None = None,
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Send one request, follow its redirects, and yield the answer and its body in pieces (content-decoded).

        No retries: what `retrying` may try again is raised as `RetryError` or the transport's own errors. Raises
        `UnansweredError` for a final refusal.
        """
        linked: dict[str, str] = {}
        first = url
        for _ in range(MAX_HOPS):
            with self._send(method, url, headers or {}, content, deadline) as response:
                found = _named(response.headers)
                status = int(response.status)
                if status in _REDIRECTS and "location" in found:
                    target = _target(url, found["location"], status)
                    if not follow:
                        yield Answer(status, found, linked, location=target), iter(())
                        return
                    linked = {k: v for k, v in found.items() if k.startswith("x-")} | linked
                    url = target
                    continue
                first_byte = (headers or {}).get("range", "").startswith("bytes=0-")
                if status == 416 and first_byte and linked.get("x-linked-size", "0") == "0":
                    # Only a file without a byte ends before its first one; of a longer one the answer makes no sense.
                    yield Answer(200, {**found, "content-length": "0"}, linked), iter(())
                    return
                if status >= 400:
                    _refuse(status, found, urlsplit(first).path)
                linked = {k: v for k, v in found.items() if k.startswith("x-")} | linked
                yield Answer(status, found, linked), decoded(response, found.get("content-encoding", ""))
                return
        raise UnansweredError(Status.SERVER_ERROR, f"{urlsplit(first).path}: redirected {MAX_HOPS} times, in a loop")

    @contextmanager
    def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, deadline: Deadline | None
    ) -> Iterator[Any]:
        path = urlsplit(url).path
        ours = self.same_origin(url)
        bucket: Bucket | None = self.limits.bucket(path) if ours else None
        encoding = "gzip" if path.startswith("/api/models") else "identity"
        sent: dict[bytes | str, bytes | str] = {"user-agent": self._agent, "accept-encoding": encoding}
        sent.update(headers.items())
        if ours and self._token:
            sent["authorization"] = f"Bearer {self._token}"
        if bucket is not None and (wait := bucket.reserve()) > 0:
            pause(wait, deadline, self.retries.sleep)
        with self._lock:
            self.requests[bucket_name(path) if ours else "elsewhere"] += 1
        timeouts = {"connect": CONNECT_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS, "pool": EXCHANGE_SECONDS}
        try:
            with self._pool.stream(
                method, url, headers=sent, content=content, extensions={"timeout": timeouts}
            ) as response:
                if bucket is not None:
                    named = _named(response.headers)
                    bucket.answered(Standing.of(named))
                    if response.status == 429:
                        bucket.hold(stated_wait(named) or 0.0)
                    bucket = None
                yield response
        finally:
            if bucket is not None:
                bucket.answered(None)


def _refuse(status: int, headers: Mapping[str, str], what: str) -> None:
    problem = refusal(status, headers, what)
    if status not in RETRIED:
        raise problem
    raise RetryError(problem, stated_wait(headers) if status in (429, 503) else None)


def _target(url: str, location: str, status: int) -> str:
    target = quote(urljoin(url, location), safe=_URL_CHARACTERS)
    if not target.startswith(("http://", "https://")):
        raise UnansweredError(Status.SERVER_ERROR, "redirected to an address that is not HTTP", status)
    if url.startswith("https:") and not target.startswith("https:"):
        raise UnansweredError(Status.SERVER_ERROR, "redirected from HTTPS to plain HTTP", status)
    return target


def _named(headers: list[tuple[bytes, bytes]]) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in headers}
