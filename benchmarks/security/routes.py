"""Odd requests to every address of the page, over real sockets: arguments, bodies, forms, heads, methods and raw bytes.

The page is served from a thread of this process, whose memory is what is watched. An input fails when the answer is a
5xx, tells a traceback or a path of this machine, or when nothing comes within five seconds.
"""

from __future__ import annotations

import http.client
import json
import socket
import tempfile
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from benchmarks.security import odd
from benchmarks.security.images import picture
from benchmarks.security.watch import Report, attempt, watching
from tests.page.conftest import bridged, serving

NAMES = ("search", "search_image", "similar", "describe", "coverage", "nope", "..%2f..%2fetc%2fpasswd", "")
ARGUMENTS = (
    "text", "where", "by", "limit", "image", "repo_id", "logit", "q", "like", "sort", "start", "find", "n", "format",
    "model", "repo", "key", "kind", "show", "concepts",
)  # fmt: skip
PAGES = (
    "/",
    "/model",
    "/models",
    "/compare",
    "/concepts",
    "/pick",
    "/pick-image",
    "/about",
    "/metrics",
    "/health",
    "/config",
    "/api/openapi.json",
    "/gradio_api/info",
    "/nope",
    "/favicon.ico",
)
CALLS = ("/api/", "/gradio_api/run/", "/gradio_api/call/")
FILE: dict[str, Any] = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
OLD = (
    "/gradio_api/upload", "/gradio_api/file=/etc/passwd", "/gradio_api/proxy=http://127.0.0.1:9/", "/login",
    "/monitoring",
    "/gradio_api/queue/join", "/gradio_api/queue/data?session_hash=x", "/mcp", "/gradio_api/mcp/",
    "/gradio_api/heartbeat/x",
)  # fmt: skip
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "X" * 300)
HOSTS = ("evil.example", "127.0.0.1.evil.example", "", "[::1]", "localhost:99999", "a" * 5_000, "search.example.org")


class RefusedError(Exception):
    """A 4xx: what a refusal looks like over HTTP."""


def run(count: int, seed: int) -> Report:
    """Send ``count`` requests; return the report."""
    with tempfile.TemporaryDirectory() as scratch:
        made = bridged(Path(scratch) / "workspace", models=6, n=64)
        made.index(names=True)
        with serving(made) as served:
            place = urlsplit(served.url)
            at = (place.hostname or "", place.port or 0)
            _ask(at, "GET", "/?q=dog", None, {})
            with watching("routes", seed) as report:
                for number in range(seed, seed + count):
                    chance = Random(number)
                    if chance.random() < 0.05:
                        raw = _raw(chance)
                        attempt(report, lambda raw=raw: _send(at, raw), f"seed {number}: {raw[:200]!r}", RefusedError)  # type: ignore[misc]
                        continue
                    asked = _request(chance)
                    shown = f"seed {number}: {asked[0]} {asked[1][:200]} {str(asked[2])[:200]}"
                    attempt(report, lambda asked=asked: _ask(at, *asked), shown, RefusedError)  # type: ignore[misc]
    return report


def _request(chance: Random) -> tuple[str, str, bytes | None, dict[str, str]]:
    headers: dict[str, str] = {}
    if chance.random() < 0.1:
        headers["Host"] = chance.choice(HOSTS)
    if chance.random() < 0.1:
        headers["Origin"] = chance.choice(
            ("null", "http://evil.example", "http://127.0.0.1:1", "\x7f", "http://localhost")
        )
    if chance.random() < 0.03:
        headers |= {f"X-{i}": "a" * chance.choice((1, 500)) for i in range(chance.choice((10, 90, 300)))}
    kind = chance.randrange(10)
    if kind < 2:
        query = {chance.choice(ARGUMENTS): _scalar(chance) for _ in range(chance.choice((0, 1, 2, 5, 400)))}
        method = "GET" if chance.random() < 0.8 else chance.choice(METHODS)
        return method, f"{chance.choice(PAGES)}?{_query(query, chance)}", None, headers
    if kind == 2:
        return chance.choice(METHODS), chance.choice(OLD), odd.encoded(odd.value(chance), chance), headers
    if kind == 3:
        body, headers["Content-Type"] = _form(chance)
        return "POST", chance.choice(("/image", "/pick")), body, headers
    path = chance.choice(CALLS) + chance.choice(NAMES)
    if kind == 4 and path.startswith("/api/"):
        return "GET", f"{path}?{_query({a: _scalar(chance) for a in ARGUMENTS[:4]}, chance)}", None, headers
    values = [_argument(chance) for _ in range(chance.randrange(7))]
    made: Any = {"data": values} if not path.startswith("/api/") else dict(zip(ARGUMENTS, values, strict=False))
    if chance.random() < 0.3:
        made = {"data": ["dog", "", "logit", 3]} if not path.startswith("/api/") else {"text": "dog", "limit": 3}
        place = made.get("data", made)
        place[chance.choice(range(4) if isinstance(place, list) else list(place))] = _argument(chance)
    headers["Content-Type"] = (
        "application/json" if chance.random() < 0.9 else chance.choice(("text/plain", "", "a/b; x"))
    )
    return "POST", path, odd.encoded(made, chance), headers


def _argument(chance: Random) -> Any:
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice(
            (FILE, [FILE], {"a": FILE}, {**FILE, "path": "/dev/zero"}, {**FILE, "url": "http://127.0.0.1:9/"})
        )
    if kind == 1:
        return chance.choice(("dog", "emoji", "logit", "model", 3, 0, "downloads > 1"))
    return odd.value(chance)


def _scalar(chance: Random) -> str:
    return str(
        chance.choice(
            (*odd.NUMBERS, *odd.TEXTS, "dog", "owner0/m0", "model", "owner1/model-001", "csv", "parquet", "missing")
        )
    )


def _query(values: dict[str, str], chance: Random) -> str:
    if chance.random() < 0.1:
        return quote(chance.choice(odd.TEXTS).encode("utf-8", "surrogatepass")) + "%zz%ff%00" * chance.choice(
            (0, 1, 3_000)
        )
    return urlencode(values, errors="surrogatepass")


def _form(chance: Random) -> tuple[bytes, str]:
    edge = chance.choice(("x", "-" * 60, "", "a\r\nb"))
    name = chance.choice(("file", "images", "concepts", "do", "key", "q", "", 'a"; filename="b'))
    file = chance.choice(("a.png", "../x", ""))
    head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'
    body = head.encode() + picture(chance) + f"\r\n--{edge}--\r\n".encode()
    if chance.random() < 0.3:
        body = odd.damaged(body, chance)
    kind = (
        "multipart/form-data"
        if chance.random() < 0.9
        else chance.choice(("application/x-www-form-urlencoded", "multipart/mixed"))
    )
    return body, kind + ("" if chance.random() < 0.1 else f"; boundary={edge.splitlines()[0] if edge else ''}")


def _raw(chance: Random) -> bytes:
    whole = b"POST /gradio_api/run/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2\r\n\r\n{}"
    kind = chance.randrange(5)
    if kind == 0:
        return odd.damaged(whole, chance) + b"\r\n\r\n"
    if kind == 1:
        return b"GET /" + b"a" * chance.choice((10, 70_000)) + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    if kind == 2:
        return b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n" + b"A: b\r\n" * chance.choice((1, 500)) + b"\r\n"
    if kind == 3:
        return b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n\r\n"
    return chance.randbytes(200) + b"\r\n\r\n"


def _ask(at: tuple[str, int], method: str, path: str, body: bytes | None, headers: dict[str, str]) -> None:
    connection = http.client.HTTPConnection(*at, timeout=10)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value.encode("latin-1", "replace"))
        if body is not None:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        _judge(answer.status, answer.read(4 << 20))
    except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError) as error:
        raise RefusedError from error  # cut off while it was still being sent
    except (http.client.InvalidURL, ValueError) as error:
        raise RefusedError from error  # what this client itself will not send
    finally:
        connection.close()


def _send(at: tuple[str, int], raw: bytes) -> None:
    with socket.create_connection(at, timeout=10) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while part := connection.recv(65536):
                said += part
        except ConnectionResetError:
            pass
    status = said[9:12]
    _judge(int(status) if status.isdigit() else 400, said)


def _judge(status: int, said: bytes) -> None:
    if status >= 500:
        raise AssertionError(f"{status}: {said[:300]!r}")
    for word in (b"Traceback", b"site-packages", b"root:x:0", tempfile.gettempdir().encode() + b"/tmp"):
        if word in said:
            raise AssertionError(f"{status} tells {word!r}: {said[:300]!r}")
    if status >= 400:
        raise RefusedError
    if said[:1] in b"{[" and b"NaN" in said:
        json.loads(said, parse_constant=_no_number)


def _no_number(word: str) -> float:
    raise AssertionError(f"{word} in JSON")
