"""Everything a hub or the road to it can do wrong, on purpose: faults for `HubServer(intercept=Faults(...))`.

::

    faults = Faults(
        Fault(status(503), match="/api/models?", times=2),
        Fault(cut(after=1000), bucket="cdn", skip=1),
    )
    with HubServer(repos, intercept=faults) as server: ...

Each action is given the request and what would answer it, and returns another answer. A server that is gone altogether
is `HubServer.down(seconds)`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hubprobe.demo.wire import CutError, Request, Respond, Response

Action = Callable[[Request, Respond], Response]

_HTML = b"<!doctype html><html><head><title>Just a moment...</title></head><body>Checking your browser</body></html>"


@dataclass
class Fault:
    """One action and the requests it befalls.

    Attributes:
        action: what happens.
        match: regular expression searched in ``METHOD target``; every request when empty.
        bucket: only requests of this bucket: api, resolvers, pages or cdn.
        times: how many requests it befalls; None for all.
        skip: how many matching requests pass unharmed before.
        hits: how many it has befallen.
    """

    action: Action
    match: str = ""
    bucket: str | None = None
    times: int | None = 1
    skip: int = 0
    hits: int = field(default=0, init=False)
    _seen: int = field(default=0, init=False, repr=False)

    def strikes(self, bucket: str, request: Request) -> bool:
        """Return whether it befalls this request, and count it."""
        if self.bucket not in (None, bucket) or not re.search(self.match, f"{request.method} {request.target}"):
            return False
        self._seen += 1
        if self._seen <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


class Faults:
    """An `Intercept` that applies the first fault that strikes; the rest are not counted for that request."""

    def __init__(self, *faults: Fault) -> None:
        self._faults = list(faults)
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Add a fault while the hub is served."""
        with self._lock:
            self._faults.append(fault)
        return fault

    def clear(self) -> None:
        """Let everything pass from now on."""
        with self._lock:
            self._faults.clear()

    def __call__(self, bucket: str, request: Request, answer: Respond) -> Response:
        """Answer a request, harmed or not."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.strikes(bucket, request)), None)
        return fault.action(request, answer) if fault else answer(request)


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────


def status(code: int, headers: Iterable[tuple[str, str]] = (), message: str = "") -> Action:
    """Answer with an HTTP error as a proxy would: no error code, no rate-limit headers, a page of HTML."""
    return lambda _request, _answer: Response(
        code, message.encode() or _HTML, [("Content-Type", "text/html; charset=utf-8"), *headers]
    )


def rate_limited(wait: int | None = None, retry_after: int | str | None = None, bucket: str = "api") -> Action:
    """Answer 429: with the Hub's headers when ``wait`` (seconds) is given, with Retry-After, or with neither."""
    headers: list[tuple[str, str]] = []
    if wait is not None:
        headers.append(("RateLimit", f'"{bucket}";r=0;t={wait}'))
        headers.append(("RateLimit-Policy", f'"fixed window";"{bucket}";q=500;w=300'))
    if retry_after is not None:
        headers.append(("Retry-After", str(retry_after)))
    return lambda _request, _answer: Response.json({"error": "Too many requests"}, 429, headers)


def html(code: int = 200) -> Action:
    """Answer with a page of HTML where JSON or a file was asked for."""
    return status(code)


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────


def redirect_to(address: str, code: int = 302) -> Action:
    """Redirect to the same path below ``address``: another host or port, which must not be sent the token."""
    return lambda request, _answer: Response(code, headers=[("Location", address + request.target)])


def redirect_loop(code: int = 307) -> Action:
    """Redirect to the very same address."""
    return lambda request, _answer: Response(code, headers=[("Location", request.target)])


# ── bodies ───────────────────────────────────────────────────────────────────────────────────────────────────────


def cut(after: int) -> Action:
    """Reset the connection after ``after`` bytes of the body."""

    def chunks(data: bytes) -> Iterator[bytes]:
        yield data[:after]
        raise CutError

    return lambda request, answer: _with_body(answer(request), chunks)


def reset() -> Action:
    """Reset the connection before there is an answer."""

    def act(_request: Request, _answer: Respond) -> Response:
        raise CutError

    return act


def short(missing: int) -> Action:
    """State the right Content-Length, send ``missing`` bytes fewer, and close in good order."""

    def act(request: Request, answer: Respond) -> Response:
        response = _with_body(answer(request), lambda data: [data[: len(data) - missing]])
        response.close = True
        return response

    return act


def smaller(missing: int) -> Action:
    """Send a file ``missing`` bytes smaller than the listing says, as a consistent answer."""
    return lambda request, answer: _replaced(answer(request), lambda data: data[: len(data) - missing])


def corrupt(at: int = -1) -> Action:
    """Flip one bit of byte ``at`` of the body: right length, wrong content."""

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        if changed:
            changed[at % len(changed)] ^= 0x20
        return bytes(changed)

    return lambda request, answer: _replaced(answer(request), flip)


def ignore_range() -> Action:
    """Send the whole file with 200, whatever part of it was asked for."""

    def act(request: Request, answer: Respond) -> Response:
        headers = {name: value for name, value in request.headers.items() if name != "range"}
        whole = Request(**(vars(request) | {"headers": headers}))
        response = answer(whole)
        response.headers = [(name, value) for name, value in response.headers if name.lower() != "accept-ranges"]
        return response

    return act


def header_claim(length: int = 5 * 1024**3) -> Action:
    """Make a safetensors file claim a header of ``length`` bytes: its first 8 bytes say so."""

    def claim(data: bytes) -> bytes:
        return length.to_bytes(8, "little")[: len(data)] + data[8:]

    return lambda request, answer: _replaced(answer(request), claim)


def drip(size: int = 1, pause: float = 0.05) -> Action:
    """Send the body ``size`` bytes at a time with ``pause`` seconds between: slow-loris, from the server's side."""

    def chunks(data: bytes) -> Iterator[bytes]:
        for at in range(0, len(data), size):
            yield data[at : at + size]
            time.sleep(pause)

    return lambda request, answer: _with_body(answer(request), chunks)


def hang(seconds: float) -> Action:
    """Accept the request, say nothing for ``seconds``, then answer."""

    def act(request: Request, answer: Respond) -> Response:
        time.sleep(seconds)
        return answer(request)

    return act


def held(until: threading.Event) -> Action:
    """Accept the request, say nothing ``until`` told to (two minutes at most), then answer."""

    def act(request: Request, answer: Respond) -> Response:
        until.wait(120)
        return answer(request)

    return act


def body(data: bytes) -> Action:
    """Send ``data`` in place of the body: broken JSON, invalid UTF-8, duplicate keys, whatever is to be tried."""
    return lambda request, answer: _replaced(answer(request), lambda _old: data)


# ── lists ────────────────────────────────────────────────────────────────────────────────────────────────────────


def repeat_cursor() -> Action:
    """Make a list page name itself as the next page."""
    return lambda request, answer: _linked(answer(request), f"http://{request.headers.get('host')}{request.target}")


def next_page(address: str) -> Action:
    """Make a list page name ``address`` as the next page: another host, or no address at all."""
    return lambda request, answer: _linked(answer(request), address)


MALFORMED_ROWS: tuple[Any, ...] = (
    None,
    7,
    "a row",
    [],
    {},
    {"id": None},
    {"id": ["a", "b"]},
    {"id": ""},
    {"id": "../../etc/passwd"},
    {"id": "a/b/c/d"},
    {"id": "owner/na\x1b[31mme\nwith\tcontrols"},
    {"id": "owner/" + "x" * 10_000},
    {"id": "owner/lone-\ud800-surrogate"},
    {"id": "owner/odd-types", "sha": 5, "tags": {"a": 1}, "siblings": "many", "createdAt": 0, "gated": []},
    {"id": "owner/odd-siblings", "sha": "0" * 40, "siblings": [None, {"rfilename": 3}, {}]},
)
"""Rows that no list should hold; none has an id that a healthy repository of the tests has."""


def malformed_rows(rows: Iterable[Any] = MALFORMED_ROWS) -> Action:
    """Put odd rows in the middle of a list page."""
    extra = list(rows)

    def act(request: Request, answer: Respond) -> Response:
        def insert(data: bytes) -> bytes:
            sound = json.loads(data)
            half = len(sound) // 2
            mixed = [*sound[:half], *extra, *sound[half:]]
            return json.dumps(mixed).encode()  # ASCII: a lone surrogate stays an escape, as a hostile server sends it

        return _replaced(answer(request), insert)

    return act


def _linked(response: Response, address: str) -> Response:
    others = [(name, value) for name, value in response.headers if name.lower() != "link"]
    response.headers = [*others, ("Link", f'<{address}>; rel="next"')]
    return response


def _data(response: Response) -> bytes:
    return response.body if isinstance(response.body, bytes) else b"".join(response.body)


def _with_body(response: Response, chunks: Callable[[bytes], Iterable[bytes]]) -> Response:
    """Send ``chunks`` of the body while stating the length of the whole."""
    data = _data(response)
    response.length, response.body = len(data), chunks(data)
    return response


def _replaced(response: Response, change: Callable[[bytes], bytes]) -> Response:
    response.body = change(_data(response))
    response.length = None
    return response
