"""HTTP to the Hub: paced by its rate limits, bounded in time and bytes, redirects followed by hand.

Redirects are followed here and not by the HTTP library so that the token goes to the endpoint's own origin and nowhere
else, that every hop is counted in its bucket, and that the hash and size named on the first hop are kept.
"""

from __future__ import annotations

import logging
import random
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import quote, urljoin, urlsplit

from crawler.failures import RETRIED, UnansweredError, refusal
from crawler.ratelimit import RateLimits, Standing
from crawler.transport import BROKEN, Deadline, exchange, new_pool, pause
from workspace import Status, __version__
from workspace.runs import now

logger = logging.getLogger(__name__)
T = TypeVar("T")

USER_AGENT = f"hubprobe/{__version__} (research crawler of image classifiers; +https://github.com/hubprobe/hubprobe)"
CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # silence allowed between two pieces of an answer
EXCHANGE_SECONDS = 60.0  # one small answer, first byte to last
MAX_HOPS = 6  # redirects of one request
MAX_RATE_LIMITED = 8  # 429s of one request: with exact waits a second one is rare already
_BACKOFF = (1.0, 20.0)  # seconds: first wait and longest


@dataclass
class Answer:
    """One answer after redirects. ``headers`` are the last hop's; ``linked`` the ``x-`` headers of the first hop."""

    status: int
    headers: dict[str, str]
    linked: dict[str, str] = field(default_factory=dict)
    location: str | None = None  # set when a redirect was asked not to be followed
    body: bytes = b""

    @property
    def etag(self) -> str:
        """Name of the content: git blob sha1 (40 hex digits) or LFS sha256 (64); empty when none was stated."""
        raw = self.linked.get("x-linked-etag") or self.linked.get("etag") or self.headers.get("etag", "")
        return raw.removeprefix("W/").strip('"')

    @property
    def size(self) -> int | None:
        """Size of the whole file in bytes, from whichever header states it."""
        if (size := self.linked.get("x-linked-size", "")).isdecimal():
            return int(size)
        total = self.headers.get("content-range", "").rpartition("/")[2]
        if total.isdecimal():
            return int(total)
        length = self.headers.get("content-length", "")
        return int(length) if self.status == 200 and length.isdecimal() else None


class HubClient:
    """A connection to one endpoint, shared by threads.

    Args:
        endpoint: address of the Hub.
        token: sent to the endpoint's own origin only; never logged.
        patience: seconds for which a broken connection or an erring server is tried again, per request.
    """

    def __init__(self, endpoint: str, token: str | None = None, *, patience: float = 240.0) -> None:
        self.endpoint = endpoint.rstrip("/")
        self._origin = _origin(self.endpoint)
        self._token = token
        self.patience = patience
        self.limits = RateLimits()
        self.requests: dict[str, int] = {"api": 0, "resolvers": 0, "elsewhere": 0}
        self.retries = 0
        self._lock = threading.Lock()
        self._pool = new_pool(self.endpoint)

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint!r})"

    def close(self) -> None:
        """Close all connections."""
        self._pool.close()

    def resolve_url(self, repo_id: str, sha: str, path: str) -> str:
        """Return the address of a file at a commit; every part is quoted, because all of them are untrusted."""
        return f"{self.endpoint}/{quote(repo_id)}/resolve/{quote(sha, safe='')}/{quote(path)}"

    def api_url(self, repo_id: str, rest: str = "") -> str:
        """Return the address of a repository in the API."""
        return f"{self.endpoint}/api/models/{quote(repo_id)}{rest}"

    def same_origin(self, url: str) -> bool:
        """Return whether ``url`` is on the endpoint: scheme, host and port."""
        return _origin(url) == self._origin

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
    ) -> Answer:
        """GET ``url``, or POST a form (``content``) to it; return its answer with at most ``limit`` bytes of body.

        With ``start`` and ``stop`` the bytes ``[start, stop)`` are asked for; a server that ignores the range is read
        only as far as needed. ``follow=False`` returns a redirect (``location``) instead of following it.
        What may pass by itself is tried again. Raises `UnansweredError`.
        """
        extra = {} if start is None else {"range": f"bytes={start}-{(stop or limit) - 1}"}
        if content is not None:
            extra["content-type"] = "application/x-www-form-urlencoded"
            extra["content-length"] = str(len(content))
        method = "GET" if content is None else "POST"

        def once(seconds: float) -> Answer:
            with (
                exchange(seconds),
                self.open(url, method=method, headers=extra, content=content, follow=follow, deadline=deadline) as (
                    answer,
                    chunks,
                ),
            ):
                answer.body = _bounded(answer, chunks, limit, start or 0, stop)
                return answer

        return self.retrying(once, deadline=deadline, what=what or urlsplit(url).path)

    def retrying(self, once: Callable[[float], T], *, deadline: Deadline | None, what: str) -> T:
        """Call ``once(seconds)`` until it answers, is refused for good, or ``patience`` or ``deadline`` is over."""
        deadline = deadline or Deadline(self.patience)
        patience, limited, attempt = Deadline(self.patience), 0, 0
        while True:
            try:
                return once(max(min(EXCHANGE_SECONDS, deadline.left), 0.01))
            except RetryError as error:
                attempt += 1
                wait, problem = error.wait, error.problem
                if problem.http == 429:
                    limited += 1
                    deadline.extend(wait or 0.0)
                    patience.extend(wait or 0.0)
                    if limited >= MAX_RATE_LIMITED:
                        raise problem from error
            except (*BROKEN, zlib.error) as error:
                attempt += 1
                wait = None
                problem = UnansweredError(Status.NETWORK_ERROR, f"{what}: {_describe(error)}")
            if wait is None:
                wait = random.uniform(0.5, 1.0) * min(_BACKOFF[0] * 2 ** (attempt - 1), _BACKOFF[1])
            if min(deadline.left, patience.left) <= wait:
                raise problem
            with self._lock:
                self.retries += 1
            logger.debug("%s: %s; trying again in %.1f s", what, problem.reason, wait)
            time.sleep(wait)

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
                found = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
                status = response.status
                if status in (301, 302, 303, 307, 308) and "location" in found:
                    target = urljoin(url, found["location"])
                    if not follow:
                        yield Answer(status, found, linked, location=target), iter(())
                        return
                    for name, value in found.items():
                        if name.startswith("x-") and name not in linked:
                            linked[name] = value
                    if urlsplit(target).scheme not in ("http", "https"):
                        raise UnansweredError(Status.SERVER_ERROR, "redirected to an address that is not HTTP", status)
                    if url.startswith("https:") and not target.startswith("https:"):
                        raise UnansweredError(Status.SERVER_ERROR, "redirected from HTTPS to plain HTTP", status)
                    url = target
                    continue
                if status >= 400:
                    self._refuse(status, found, urlsplit(first).path)
                linked |= {k: v for k, v in found.items() if k.startswith("x-") and k not in linked}
                yield Answer(status, found, linked), _decoded(response, found.get("content-encoding", ""))
                return
        raise UnansweredError(Status.SERVER_ERROR, f"{urlsplit(first).path}: redirected {MAX_HOPS} times, in a loop")

    @contextmanager
    def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, deadline: Deadline | None
    ) -> Iterator[Any]:
        path = urlsplit(url).path
        ours = self.same_origin(url)
        bucket = self.limits.bucket(path) if ours else None
        encoding = "gzip" if "/api/models" in path else "identity"
        sent: dict[bytes | str, bytes | str] = {"user-agent": USER_AGENT, "accept-encoding": encoding}
        sent.update(headers.items())
        if ours and self._token:
            sent["authorization"] = f"Bearer {self._token}"
        if bucket is not None and (wait := bucket.reserve()) > 0:
            pause(wait, deadline)
        with self._lock:
            self.requests["elsewhere" if bucket is None else ("resolvers" if "/resolve" in path else "api")] += 1
        standing: Standing | None = None
        timeouts = {"connect": CONNECT_SECONDS, "read": READ_SECONDS, "write": READ_SECONDS, "pool": EXCHANGE_SECONDS}
        try:
            with self._pool.stream(
                method, url, headers=sent, content=content, extensions={"timeout": timeouts}
            ) as response:
                named = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in response.headers}
                standing = Standing.of(named)
                if bucket is not None:
                    bucket.answered(standing)
                    bucket = None
                yield response
        finally:
            if bucket is not None:
                bucket.answered(None)

    def _refuse(self, status: int, headers: Mapping[str, str], what: str) -> None:
        problem = refusal(status, headers, what)
        if status not in RETRIED:
            raise problem
        wait = _stated_wait(headers) if status in (429, 503) else None
        raise RetryError(problem, wait)


class RetryError(Exception):
    """An answer that may be different next time. ``wait``: seconds the server stated, None when it did not."""

    def __init__(self, problem: UnansweredError, wait: float | None) -> None:
        super().__init__(problem.reason)
        self.problem, self.wait = problem, wait


def _stated_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait as the answer states them, RateLimit before Retry-After (seconds or an HTTP date)."""
    standing = Standing.of(headers)
    jitter = random.uniform(0.0, 0.5)
    if standing is not None and standing.remaining == 0:
        return standing.reset_in + 1 + jitter  # the server may round down
    after = headers.get("retry-after", "")
    if after.isdecimal():
        return min(float(after), 3600.0) + jitter
    try:
        return min(max((parsedate_to_datetime(after) - now()).total_seconds(), 0.0), 3600.0) + jitter
    except (TypeError, ValueError):
        return None


def _bounded(answer: Answer, chunks: Iterator[bytes], limit: int, start: int, stop: int | None) -> bytes:
    """Read what was asked for and no more: a body may be endless, and a server may ignore the range."""
    skip = start if answer.status == 200 else 0
    wanted = limit if stop is None else min(stop - start, limit)
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > skip + wanted:
            break
        if stop is not None and len(body) >= skip + wanted:
            break
    if stop is None and len(body) - skip > limit:
        raise UnansweredError(Status.TOO_MANY_BYTES, f"an answer of more than {limit:,} bytes", answer.status)
    return bytes(body[skip : skip + wanted])


def _decoded(response: Any, encoding: str) -> Iterator[bytes]:
    if encoding != "gzip":
        yield from response.iter_stream()
        return
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for chunk in response.iter_stream():
        piece = inflate.decompress(chunk, 1 << 20)
        while piece:
            yield piece
            piece = inflate.decompress(inflate.unconsumed_tail, 1 << 20)
    if not inflate.eof:
        raise zlib.error("a compressed answer ended too early")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    return parts.scheme, parts.hostname or "", port or {"http": 80, "https": 443}.get(parts.scheme, -1)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__} ({error})" if str(error) else type(error).__name__
