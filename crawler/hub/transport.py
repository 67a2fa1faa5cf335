"""Connections to Hubs, and what an answer that is no success means.

httpx's own connections, with an absolute end for every exchange, through the proxies the environment names.

A read timeout alone is renewed by every byte, so a server that sends one byte a second holds a thread for days. The
backend below shortens each socket operation to what is left of the exchange that the current thread is in: connecting,
sending, the head of the answer and its body together.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub import errors as hub
from huggingface_hub.utils import hf_raise_for_status, httpx  # type: ignore[attr-defined]

from workspace import HubError, Status
from workspace.endpoint import proxy_for
from workspace.text import printable

try:
    import httpcore2 as httpcore
except ImportError:  # pragma: no cover - huggingface_hub 1.x
    import httpcore  # type: ignore[import-not-found, no-redef, unused-ignore]

BROKEN = (httpx.TransportError, zlib.error)
"""What an exchange that fails on its way raises."""

_MOST_PLACES = 1_000  # whose proxy is remembered: redirects may name any number
_local = threading.local()


class Deadline:
    """The moment a piece of work has to be done by, on `time.monotonic`; waiting that we choose does not count."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left, zero or less when it is over."""
        return self._end - time.monotonic()

    def extend(self, seconds: float) -> None:
        """Move the end: the time was spent waiting for our turn, not on this work."""
        self._end += seconds


@contextmanager
def exchange(seconds: float) -> Iterator[None]:
    """Let every socket operation of this thread end within ``seconds`` from now."""
    before = getattr(_local, "end", None)
    _local.end = time.monotonic() + seconds
    try:
        yield
    finally:
        _local.end = before


def pause(seconds: float, deadline: Deadline | None, sleep: Callable[[float], None]) -> None:
    """Sleep because it is not our turn yet: neither ``deadline`` nor this thread's exchange is charged for it."""
    sleep(seconds)
    if deadline is not None:
        deadline.extend(seconds)
    if getattr(_local, "end", None) is not None:
        _local.end += seconds


def _left(timeout: float | None, error: type[Exception]) -> float | None:
    end: float | None = getattr(_local, "end", None)
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise error("the exchange took longer than its deadline")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _DeadlineBackend(httpcore.SyncBackend):
    """httpcore's own socket backend with the current exchange's end applied to every operation."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: Any = None, socket_options: Any = None
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(super().connect_tcp(host, port, left, local_address, socket_options))


class Transport(httpx.BaseTransport):  # type: ignore[misc, name-defined, unused-ignore]
    """httpx's transport, one for every proxy, whose sockets obey `exchange`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._proxies: dict[tuple[str, str, int | None], str] = {}
        self._routes: dict[str, httpx.HTTPTransport] = {}  # type: ignore[name-defined, unused-ignore]
        self._ssl = httpx.create_ssl_context()  # here, because it takes longer than some exchanges may

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # type: ignore[name-defined, unused-ignore]
        """Send a request the way its address has to go. Raises `ConfigError` for a proxy nobody here can speak to."""
        place = (request.url.scheme, request.url.host, request.url.port)
        with self._lock:
            if len(self._proxies) > _MOST_PLACES:
                self._proxies.clear()
            if place not in self._proxies:  # asking the environment takes longer than anything else here
                self._proxies[place] = proxy_for(str(request.url))
            proxy = self._proxies[place]
            if proxy not in self._routes:
                limits = httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=20.0)
                self._routes[proxy] = httpx.HTTPTransport(verify=self._ssl, proxy=proxy or None, limits=limits)
                # neither httpx nor httpx2 takes a backend from outside; the test of dripping headers would notice
                self._routes[proxy]._pool._network_backend = _DeadlineBackend()
            route = self._routes[proxy]
        return route.handle_request(request)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for route in self._routes.values():
                route.close()


RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass by themselves."""

_BAD_TOKEN = "Invalid credentials in Authorization header"
_CAUSES: tuple[tuple[type[Exception], Status], ...] = (
    (hub.GatedRepoError, Status.GATED),  # before the class it is one of
    (hub.DisabledRepoError, Status.DISABLED),
    (hub.RepositoryNotFoundError, Status.GONE),
)


class UnansweredError(HubError):
    """A request came to an end without what was asked for.

    Args:
        status: the cause, as it would be booked for a repository.
        reason: a sentence for a person.
        http: the HTTP status, 0 when there was no answer.
        slow: whether the server had too little time for an answer: less may be asked of it.
    """

    def __init__(self, status: Status, reason: str, http: int = 0, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.http, self.slow = status, reason, http, slow


class RetryError(Exception):
    """An answer that may be another one next time; ``wait``: seconds the server stated, None when it did not."""

    def __init__(self, problem: UnansweredError, wait: float | None = None) -> None:
        super().__init__(problem.reason)
        self.problem, self.wait = problem, wait


def refusal(response: httpx.Response, what: str) -> UnansweredError:  # type: ignore[name-defined, unused-ignore]
    """Return the error for a final answer of a status >= 400, whose body is not read.

    huggingface_hub knows the Hub's codes. A bare 401 means missing or private (the Hub does not tell which to
    strangers), unless it is about our token.
    """
    http = response.status_code
    code, message = response.headers.get("x-error-code", ""), response.headers.get("x-error-message", "")
    told = f" (HTTP {http}: {printable(message or code or 'no message')})"
    if message.startswith(_BAD_TOKEN):
        return UnansweredError(Status.INTERNAL_ERROR, f"the Hub does not accept this token{told}: log in again", http)
    kept = {"x-error-code": code, "x-error-message": message}  # a hostile answer's other headers are nobody's business
    try:
        hf_raise_for_status(httpx.Response(http, headers=kept, request=response.request))
    except hub.RevisionNotFoundError:
        return UnansweredError(Status.FILE_MISSING, f"its listed commit is not there any more{told}", http)
    except hub.EntryNotFoundError:
        return UnansweredError(Status.FILE_MISSING, f"{what} is not there{told}", http)
    except hub.HfHubHTTPError as error:
        for kind, status in _CAUSES:
            if isinstance(error, kind):
                return UnansweredError(status, f"{status.meaning}{told}", http)
    if http in (401, 404, 410):
        return UnansweredError(Status.GONE, f"{Status.GONE.meaning}{told}", http)
    if http == 403:
        return UnansweredError(Status.GATED, f"access is refused{told}", http)
    if http == 429:
        return UnansweredError(Status.RATE_LIMITED, f"{what}: the Hub kept asking us to slow down{told}", http)
    if http >= 500 or http in RETRIED:
        problem = f"{what}: the Hub kept answering with an error{told}"
        return UnansweredError(Status.SERVER_ERROR, problem, http, slow=http == 504)
    return UnansweredError(Status.SERVER_ERROR, f"{what}: an answer that makes no sense here{told}", http)
