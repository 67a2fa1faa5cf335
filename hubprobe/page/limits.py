"""Bounds on what strangers may ask for: from where, how often, how much, and how many at once."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from workspace.text import printable

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True)
class Limits:
    """What one page serves.

    Attributes:
        rate: searches a minute and client; 0 means no bound. Thumbnails, styles and scripts do not count.
        burst: searches a client may make at once before the rate holds.
        body_bytes: of a request, an uploaded image included.
        body_seconds: in which a request's body must have arrived.
        bodies_bytes: of all requests that are being read or answered.
        at_once: requests that are being answered, over all clients; others are told to come back.
        clients: whose rates are remembered.
        query_bytes: of an address behind its question mark.
        headers: of a request.
        connections: open at once, over all clients; one that waits for a request gives way to a new one.
        connections_each: the same of one client's address.
        head_seconds: in which a request's head must have arrived, and after which an idle connection is closed.
        answer_seconds: in which a client must have taken an answer.
    """

    rate: float = 600.0
    burst: int = 60
    body_bytes: int = 12 * 2**20
    body_seconds: float = 30.0
    bodies_bytes: int = 256 * 2**20
    at_once: int = 256
    clients: int = 10_000
    query_bytes: int = 16 * 1024
    headers: int = 100
    connections: int = 512
    connections_each: int = 128
    head_seconds: float = 20.0
    answer_seconds: float = 60.0


_METHODS = ("GET", "HEAD", "POST")
_API = re.compile(r"/(api|gradio_api|mcp|config)(/.*)?", re.DOTALL)
_FREE = re.compile(
    r"/(about|health|favicon\.ico|robots\.txt|config|static/.*|probe/.*|api/openapi\.json"
    r"|gradio_api/(info|queue/data|call/[^/]*/.*))"
)
"""What searches nothing: everything else counts for the rate."""

_READ = frozenset({b"host", b"origin", b"content-length"})
_HOST = re.compile(r"(\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,253})(:[0-9]{1,5})?")


def is_api(path: str) -> bool:
    """Say whether a path is asked by programs, which get JSON, also when they are refused."""
    return _API.fullmatch(path) is not None


def is_loopback(host: str) -> bool:
    """Say whether ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@lru_cache(1024)
def host_name(host: str) -> str | None:
    """Return the name or address in a ``Host`` header, without port and brackets; None when it is neither."""
    match = _HOST.fullmatch(host.lower())
    return match[1].strip("[]").rstrip(".") if match else None


class Rates:
    """A bucket of tokens for every client: full at first, a token a search, refilled at the rate."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str, now: float) -> float:
        """Take a token and return 0, or return the seconds after which there is one."""
        per_second = self._limits.rate / 60.0
        if per_second <= 0:
            return 0.0
        tokens, then = self._buckets.pop(client, (float(self._limits.burst), now))
        tokens = min(float(self._limits.burst), tokens + (now - then) * per_second)
        short = tokens < 1.0
        self._buckets[client] = (tokens if short else tokens - 1.0, now)
        if len(self._buckets) > self._limits.clients:
            self._buckets.popitem(last=False)  # the one that was quiet for longest
        return (1.0 - tokens) / per_second if short else 0.0


class Refused(Exception):  # noqa: N818 - it is no fault of ours
    """A request that is not answered: with which status, and what to do."""

    def __init__(self, status: int, message: str, retry: int | None = None) -> None:
        super().__init__(message)
        self.status, self.retry = status, retry


class Bounded:
    """ASGI middleware around the whole application, which sees whole requests of those who may ask.

    Args:
        app: the application.
        limits: what is served.
        hosts: names under which it is asked besides this machine's own and the address it was reached at: a page
            elsewhere whose name is made to point here (DNS rebinding) asks under its own.
    """

    def __init__(self, app: App, limits: Limits, hosts: Collection[str] = ()) -> None:
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
            await self._app(scope, _whole(b"".join(parts), receive), send)
        except Refused as refusal:
            await refuse(send, refusal, api=is_api(scope["path"]))
        except _GoneError:
            return
        finally:
            self._running -= 1
            self._held -= sum(map(len, parts))

    def _check(self, scope: Scope) -> None:
        if len(scope["headers"]) > self._limits.headers:
            raise Refused(431, f"a request has at most {self._limits.headers} headers")
        if len(scope["query_string"]) > self._limits.query_bytes:
            raise Refused(414, f"an address has at most {self._limits.query_bytes:,} bytes behind its question mark")
        headers = [(name, value.decode("latin-1")) for name, value in scope["headers"] if name in _READ]
        said = dict(headers)
        self._check_place(scope, said, [value for name, value in headers if name == b"host"])
        if scope["method"] not in _METHODS:
            raise Refused(405, f"this method is not answered: {', '.join(_METHODS)}")
        length = said.get(b"content-length", "0")
        self._fits(int(length) if length.isdecimal() and len(length) < 20 else 2**63)
        client = str((scope.get("client") or ("",))[0])[:64]
        first = scope["path"] == "/" and not scope["query_string"]  # the first page searches nothing
        if not first and not _FREE.fullmatch(scope["path"]):
            seconds = self._rates.wait(client, time.monotonic())
            if seconds > 0:
                raise Refused(429, f"too many searches: wait {seconds:.0f} s", max(1, round(seconds)))
        if self._running > self._limits.at_once and scope["path"] != "/health":
            raise Refused(503, "too many searches at once: try again in a moment", 2)

    def _check_place(self, scope: Scope, said: dict[bytes, str], hosts: list[str]) -> None:
        name = host_name(hosts[0]) if len(hosts) == 1 else None
        if name is None:
            raise Refused(400, "a request needs one Host header, with a name or an address in it")
        here = str((scope.get("server") or ("",))[0])
        if not (is_loopback(name) or name in self._hosts or name == here):
            raise Refused(
                421,
                f"this page is not known as {printable(name, 100)}: ask it as localhost or by the address it listens "
                f"on, or start it with --allow-host {printable(name, 100)}",
            )
        origin = said.get(b"origin")
        place = None if origin is None else origin.partition("://")[2].lower()
        if place is not None and place != hosts[0].lower() and host_name(place) not in self._hosts:
            raise Refused(403, "pages of other sites are not answered: ask from the page itself, or by a program")

    def _fits(self, size: int) -> None:
        if size > self._limits.body_bytes:
            raise Refused(413, f"a request has at most {self._limits.body_bytes // 2**20} MB")
        if self._held > self._limits.bodies_bytes:
            raise Refused(503, "too much is being uploaded at once: try again in a moment", 2)

    async def _read(self, receive: Receive, parts: list[bytes]) -> None:
        until, more = time.monotonic() + self._limits.body_seconds, True
        while more:
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                raise Refused(408, f"a request has to end in {self._limits.body_seconds:.0f} s") from None
            if message["type"] != "http.request":
                raise _GoneError
            parts.append(message.get("body", b""))
            self._held += len(parts[-1])
            self._fits(sum(map(len, parts)))
            more = message.get("more_body", False)


class _GoneError(Exception):
    """The client went away before its request was whole: there is nobody to answer."""


def _whole(body: bytes, receive: Receive) -> Receive:
    left = [body]

    async def whole() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()  # the end of the connection, which may take as long as the answer

    return whole


async def refuse(send: Send, refusal: Refused, *, api: bool) -> None:
    """Send a short answer: JSON to a program, plain text to a visitor."""
    body = (json.dumps({"error": str(refusal)}) if api else str(refusal)).encode()
    headers = [
        (b"content-type", b"application/json" if api else b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    if refusal.status == 408:  # else the rest of the body is thrown away: closing at once would throw the answer away
        headers.append((b"connection", b"close"))
    if refusal.retry is not None:
        headers.append((b"retry-after", str(refusal.retry).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
