"""Bounds on what strangers may ask for: how often, how much, how many at once, and which of Gradio's routes at all."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

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
        at_once: requests that are being answered, over all clients; others are told to come back.
    streams: connections of API clients that wait for events, over all clients.
        clients: whose rates are remembered.
    """

    rate: float = 600.0
    burst: int = 60
    body_bytes: int = 12 * 2**20
    body_seconds: float = 30.0
    at_once: int = 256
    streams: int = 512
    clients: int = 10_000


_PAGE = re.compile(r"/(|model|about|image|health|favicon\.ico|robots\.txt|static/[\w.-]+|probe/[0-9a-f]+/\d+\.webp)")
_GRADIO = re.compile(
    r"/(config|gradio_api/(info|openapi\.json|startup-events|heartbeat/\w+|queue/(join|data|status)"
    r"|(call|run)/\w+(/\w+)?|call/v2/\w+|cancel|reset|app_id|mcp(/(http|schema|sse|messages))?))/?"
)
_SEARCHES = re.compile(r"/(|model|image|gradio_api/(queue/join|run/\w+|call/\w+|call/v2/\w+|mcp.*))/?")
"""What costs a search: the rate counts these, and of the API only what is posted."""

_STREAM = re.compile(r"/gradio_api/(queue/data|heartbeat/\w+|call/\w+/\w+|mcp(/(http|sse))?)/?")


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


class Bounded:
    """ASGI middleware around the page and Gradio: refuses before anything is read, parsed or queued.

    Everything but the page's own addresses and the parts of Gradio that answer questions is 404: Gradio's uploads, file
    serving, proxy, monitoring and login are none of this page's.
    """

    def __init__(self, app: App, limits: Limits) -> None:
        self._app, self._limits, self._rates = app, limits, Rates(limits)
        self._running = {False: 0, True: 0}  # short answers, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or refuse one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        own = _PAGE.fullmatch(path) is not None
        if not own and not _GRADIO.fullmatch(path):
            await refuse(send, 404, "there is no such page", own=False)
        elif method not in ("GET", "HEAD", "POST", "OPTIONS", "DELETE"):
            await refuse(send, 405, "this method is not answered", own)
        elif _announced(scope) > self._limits.body_bytes:
            await refuse(send, 413, f"a request has at most {self._limits.body_bytes // 2**20} MB", own)
        elif (seconds := self._wait(scope)) > 0:
            await refuse(send, 429, f"too many searches: wait {seconds:.0f} s", own, retry=max(1, round(seconds)))
        else:
            stream = method == "GET" and _STREAM.fullmatch(path) is not None
            most = self._limits.streams if stream else self._limits.at_once
            if self._running[stream] >= most and path != "/health":
                await refuse(send, 503, "too many searches at once: try again in a moment", own, retry=2)
                return
            self._running[stream] += 1
            try:
                await self._bounded(scope, receive, send, own)
            finally:
                self._running[stream] -= 1

    def _wait(self, scope: Scope) -> float:
        if not _SEARCHES.fullmatch(scope["path"]) or (scope["path"].startswith("/gradio") and scope["method"] == "GET"):
            return 0.0
        if scope["path"] == "/" and not scope["query_string"]:
            return 0.0  # the first page searches nothing
        client = scope.get("client")
        return self._rates.wait(client[0] if client else "", time.monotonic())

    async def _bounded(self, scope: Scope, receive: Receive, send: Send, own: bool) -> None:
        left, until, whole = self._limits.body_bytes, time.monotonic() + self._limits.body_seconds, False
        began, refused = False, 0

        async def counted() -> Message:
            nonlocal left, whole, refused
            if whole:  # what comes now is the end of the connection, and may take as long as the answer
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, until - time.monotonic()))
            except asyncio.TimeoutError:
                refused = 408
                return {"type": "http.disconnect"}
            left -= len(message.get("body", b""))
            whole = message["type"] != "http.request" or not message.get("more_body", False)
            if left < 0:
                refused = 413
                return {"type": "http.disconnect"}
            return message

        async def noted(message: Message) -> None:
            nonlocal began
            if refused and not began:
                return  # whatever the application makes of the broken body: the refusal says why
            began = True
            await send(message)

        try:
            await self._app(scope, counted, noted)
        except Exception:
            if not refused or began:
                raise
        if refused and not began:
            said = {408: f"in {self._limits.body_seconds:.0f} s", 413: f"after {self._limits.body_bytes // 2**20} MB"}
            await refuse(send, refused, f"a request has to end {said[refused]}", own)


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 2**63
    return 0


async def refuse(send: Send, status: int, message: str, own: bool, retry: int | None = None) -> None:
    """Send a short answer: a plain page to a visitor, JSON to a program."""
    body = (message if own else json.dumps({"error": message})).encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8" if own else b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    if retry is not None:
        headers.append((b"retry-after", str(retry).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
