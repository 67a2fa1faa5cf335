"""Bounds on what strangers may ask for: from where, how often, how much, how slowly, and how many at once."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from cachetools import LRUCache
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from workspace.endpoint import is_local
from workspace.text import printable

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Limits:
    """What one page serves."""

    rate: float = 600.0  # searches a minute and client; 0: no bound. Thumbnails, styles and scripts do not count
    burst: int = 60  # searches a client may make at once before the rate holds
    body_bytes: int = 12 * 2**20  # of a request, an uploaded image included
    body_seconds: float = 30.0  # in which a request's body must have arrived
    bodies_bytes: int = 256 * 2**20  # of all requests that are being read or answered
    at_once: int = 256  # requests that are being answered, over all clients; others are asked to come back
    clients: int = 10_000  # whose rates are remembered
    query_bytes: int = 16 * 1024  # of an address behind its question mark
    headers: int = 100  # of a request
    connections: int = 512  # open at once, over all clients; one that waits for a request gives way to a new one
    connections_each: int = 128  # the same of one client's address
    head_seconds: float = 20.0  # in which a request's head must have arrived; an idle connection is closed after it
    answer_seconds: float = 60.0  # in which a client must have taken an answer


_METHODS = ("GET", "HEAD", "POST")
_API = re.compile(r"/(api|gradio_api|mcp|config)(/.*)?", re.DOTALL)
_FREE = re.compile(
    r"/(about|health|metrics|favicon\.ico|robots\.txt|config|static/.*|probe/.*|pick-image|api/openapi\.json"
    r"|gradio_api/(info|queue/data|call/[^/]*/.*))"
)
"""What searches nothing: everything else counts for the rate."""

_SOON = {"retry-after": "2"}
_READ = frozenset({b"host", b"origin", b"content-length"})
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?")


def is_api(path: str) -> bool:
    """Say whether a path is asked by programs, which get JSON, also when they are refused."""
    return _API.fullmatch(path) is not None


@lru_cache(1024)
def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, without port and brackets; None when it is neither."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]").rstrip(".") if match else None


class Rates:
    """A bucket of tokens for every client: full at first, a token a search, refilled at the rate."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(limits.clients)

    def wait(self, client: str, now: float) -> float:
        """Take a token and return 0, or return the seconds after which there is one."""
        per_second = self._limits.rate / 60.0
        if per_second <= 0:
            return 0.0
        tokens, then = self._buckets.get(client, (float(self._limits.burst), now))
        tokens = min(float(self._limits.burst), tokens + (now - then) * per_second)
        short = tokens < 1.0
        self._buckets[client] = (tokens if short else tokens - 1.0, now)
        return (1.0 - tokens) / per_second if short else 0.0


class Bounded:
    """ASGI middleware around the whole application, which sees whole requests of those who may ask.

    ``hosts`` are names under which it is asked besides this machine's own and the address it was reached at: a page
    elsewhere whose name is made to point here (DNS rebinding) asks under its own.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Collection[str] = ()) -> None:
        self._app, self._limits, self._rates = app, limits, Rates(limits)
        self._hosts = {host.lower().strip("[]").rstrip(".") for host in hosts}
        self._running = self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        parts: list[bytes] = []
        self._running += 1
        try:
            self._check(scope)
            if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
                await self._read(receive, parts)
            await self._app(scope, whole(b"".join(parts), receive), send)
        except HTTPException as refusal:
            await _answer(scope["path"], refusal)(scope, receive, send)
        except _GoneError:
            return
        finally:
            self._running -= 1
            self._held -= sum(map(len, parts))

    def _check(self, scope: Scope) -> None:
        if len(scope["headers"]) > self._limits.headers:
            raise HTTPException(431, f"a request has at most {self._limits.headers} headers")
        if len(scope["query_string"]) > self._limits.query_bytes:
            raise HTTPException(
                414, f"an address has at most {self._limits.query_bytes:,} bytes behind its question mark"
            )
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in _READ]
        named = dict(headers)
        self._check_place(scope, named.get(b"origin"), [value for name, value in headers if name == b"host"])
        if scope["method"] not in _METHODS:
            raise HTTPException(405, f"this method is not answered: {', '.join(_METHODS)}")
        length = named.get(b"content-length", "0")
        self._fits(int(length) if length.isdecimal() and len(length) < 20 else 2**63)
        client = str((scope.get("client") or ("",))[0])[:64]
        start_page = scope["path"] == "/" and not scope["query_string"]  # it searches nothing
        if not start_page and not _FREE.fullmatch(scope["path"]):
            seconds = self._rates.wait(client, time.monotonic())
            if seconds > 0:
                raise HTTPException(
                    429, f"too many searches: wait {seconds:.0f} s", {"retry-after": str(max(1, round(seconds)))}
                )
        if self._running > self._limits.at_once and scope["path"] not in ("/health", "/metrics"):
            raise HTTPException(503, "too many searches at once: try again in a moment", _SOON)

    def _check_place(self, scope: Scope, origin: str | None, hosts: list[str]) -> None:
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise HTTPException(400, "a request needs one Host header, with a name or an address in it")
        here = str((scope.get("server") or ("",))[0])
        if not (is_local(name) or name in self._hosts or name == here):
            raise HTTPException(
                421,
                f"this page is not known as {printable(name, 100)}: ask it as localhost or by the address it listens "
                f"on, or start it with --allow-host {printable(name, 100)}",
            )
        place = None if origin is None else origin.partition("://")[2].lower()
        if place is not None and place != hosts[0].lower() and host_name(place) not in self._hosts:
            raise HTTPException(403, "pages of other sites are not answered: ask from the page itself, or by a program")

    def _fits(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise HTTPException(413, f"a request has at most {self._limits.body_bytes // 2**20} MB")
        if self._held > self._limits.bodies_bytes:
            raise HTTPException(503, "too much is being uploaded at once: try again in a moment", _SOON)

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        until, more = time.monotonic() + self._limits.body_seconds, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                # after other refusals the rest of the body is thrown away: closing at once throws the answer away
                why = f"a request has to end in {self._limits.body_seconds:.0f} s"
                raise HTTPException(408, why, {"connection": "close"}) from None
            if message["type"] != "http.request":
                raise _GoneError
            parts.append(message.get("body", b""))
            self._held += len(parts[-1])
            self._fits(sum(map(len, parts)))
            more = message.get("more_body", False)


class _GoneError(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


def whole(body: bytes, receive: Receive) -> Receive:
    """Return what an application receives when its request's body was read already."""
    left = [body]

    async def received() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()  # the end of the connection, which may take as long as the answer

    return received


def _answer(path: str, refusal: HTTPException) -> Response:
    """Return a short answer: JSON to a program, plain text to a visitor."""
    headers = {"x-content-type-options": "nosniff", **(refusal.headers or {})}
    if is_api(path):
        return JSONResponse({"error": refusal.detail}, refusal.status_code, headers)
    return PlainTextResponse(refusal.detail, refusal.status_code, headers)


# ── connections: uvicorn bounds neither their number nor how slow one may be ──────────────────────────────────────────

_LOOK_S = 1.0
"""How often a connection is looked at."""

_FULL = b'{"error": "too many connections: close some, or try again in a moment"}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nconnection: close\r\nretry-after: 2\r\n"
    + f"content-length: {len(_FULL)}\r\n\r\n".encode()
    + _FULL
)


def protocol(limits: Limits) -> Any:
    """Return what uvicorn makes connections with, its ``http`` setting."""
    return partial(Connection, limits=limits)


class Connection(H11Protocol):
    """A connection that is closed when its client takes too long to ask, or to take the answer.

    uvicorn bounds neither, and its ``limit_concurrency`` counts idle connections: as many half-sent requests refuse
    everybody. Here a connection that waits for a request gives way to a new one.
    """

    def __init__(self, *args: Any, limits: Limits, **options: Any) -> None:
        super().__init__(*args, **options)
        self._limits = limits
        self.timeout_keep_alive = limits.head_seconds  # type: ignore[assignment]
        self._waits_since = self.loop.time()
        self._unsent_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def _waits(self) -> bool:
        """Whether no request is being answered: its head is awaited, or the rest of it."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a new connection, in place of the one of its client, or of all, that has waited for longest."""
        super().connection_made(transport)
        self._timer = self.loop.call_later(_LOOK_S, self._look)
        ours = [one for one in self.connections if isinstance(one, Connection)]
        own = [one for one in ours if self.client and one.client and one.client[0] == self.client[0]]
        for some, most in ((own, self._limits.connections_each), (ours, self._limits.connections)):
            if len(some) <= most:
                continue
            idle = [one for one in some if one._waits and one is not self]
            if not idle:
                self.transport.write(_REFUSAL)
                self.transport.close()
                return
            oldest = min(idle, key=lambda one: one._waits_since)
            self.connections.discard(oldest)
            oldest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._waits_since = self.loop.time()
        super().on_response_complete()

    def _look(self) -> None:
        now = self.loop.time()
        if self.transport.get_write_buffer_size() == 0:
            self._unsent_since = None
        elif self._unsent_since is None:
            self._unsent_since = now
        if self._unsent_since is not None:
            if now - self._unsent_since > self._limits.answer_seconds:
                self.transport.abort()  # closing would wait for the answer to be taken
                return
        elif self._waits and now - self._waits_since > self._limits.head_seconds:
            self.transport.close()
            return
        self._timer = self.loop.call_later(_LOOK_S, self._look)
