"""HTTP/1.1 over loopback sockets, no more than a Hub needs: requests in, responses out, and ways to break off.

`http.server` would do, but its header parsing through `email` takes most of the time of a small answer, and faults
(a body cut short, bytes that drip, a port that is closed) want the socket. One thread per connection, keep-alive.
"""

from __future__ import annotations

import json
import logging
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qs, unquote, urlsplit

logger = logging.getLogger(__name__)

_MAX_LINE = 65_536  # bytes of a request line or header; longer ones are refused
_MAX_BODY = 16 * 1024**2  # bytes of a request body
_IDLE_SECONDS = 120.0  # an idle keep-alive connection is closed after this


class CutError(Exception):
    """Raised by a response's body to break the connection off at that byte."""


@dataclass(frozen=True)
class Request:
    """One request as it arrived. Header names are lower case; ``segments`` are the path's parts, unquoted."""

    method: str
    target: str
    path: str
    segments: tuple[str, ...]
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    client: str

    def first(self, name: str, default: str = "") -> str:
        """Return the first value of query parameter ``name``."""
        values = self.query.get(name)
        return values[0] if values else default

    def flag(self, name: str) -> bool:
        """Return whether query parameter ``name`` is set to something true."""
        return self.first(name).lower() in {"true", "1"}


@dataclass
class Response:
    """One answer. ``length`` is the Content-Length stated; the body's own when None and the body is bytes."""

    status: int
    body: bytes | Iterable[bytes] = b""
    headers: list[tuple[str, str]] = field(default_factory=list)
    length: int | None = None
    close: bool = False

    @classmethod
    def json(cls, value: Any, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Response:
        """Return ``value`` as a JSON answer."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        return cls(status, body, [("Content-Type", "application/json; charset=utf-8"), *headers])


Respond = Callable[[Request], Response]


class _Handler(socketserver.StreamRequestHandler):
    disable_nagle_algorithm = True
    timeout = _IDLE_SECONDS

    def handle(self) -> None:
        listener = cast("_Server", self.server).listener
        listener.opened(self.connection)
        try:
            while self._one(listener.respond):
                pass
        except (OSError, CutError):
            # The client left, timed out, or a fault breaks off: a reset, so that nobody takes it for an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        finally:
            listener.closed(self.connection)

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            logger.debug("connection of %s was gone before it could be closed", self.client_address)

    def _one(self, respond: Respond) -> bool:
        line = self.rfile.readline(_MAX_LINE).decode("latin-1").split()
        if len(line) != 3 or not line[2].startswith("HTTP/1."):
            return False
        method, target, version = line
        headers: dict[str, str] = {}
        while (raw := self.rfile.readline(_MAX_LINE)) not in (b"\r\n", b"\n", b""):
            name, _, value = raw.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        stated = headers.get("content-length", "0")
        if not target.startswith("/") or not (stated.isascii() and stated.isdigit()):
            self._send(method, Response(400), keep=False)
            return False
        size = int(stated)
        if size > _MAX_BODY or "transfer-encoding" in headers:
            self._send(method, Response(413), keep=False)
            return False
        body = self.rfile.read(size) if size else b""
        split = urlsplit(target)
        request = Request(
            method=method,
            target=target,
            path=split.path,
            segments=tuple(unquote(part) for part in split.path.split("/")[1:]),
            query=parse_qs(split.query, keep_blank_values=True) if split.query else {},
            headers=headers,
            body=body,
            client=str(self.client_address[0]),
        )
        try:
            response = respond(request)
        except CutError:
            raise
        except Exception:
            logger.exception("the demo hub failed on %s %s", method, target)
            response = Response.json({"error": "Internal Server Error"}, 500)
        keep = not response.close and version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
        self._send(method, response, keep)
        return keep

    def _send(self, method: str, response: Response, keep: bool) -> None:
        body = response.body
        length = response.length
        if length is None:
            body = body if isinstance(body, bytes) else b"".join(body)
            length = len(body)
        try:
            phrase = HTTPStatus(response.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {response.status} {phrase}", f"Content-Length: {length}"]
        lines += [f"{name}: {_one_line(value)}" for name, value in response.headers]
        lines.append("Connection: keep-alive" if keep else "Connection: close")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        if method == "HEAD":
            self.connection.sendall(head)
        elif isinstance(body, bytes):
            self.connection.sendall(head + body)
        else:
            self.connection.sendall(head)
            for chunk in body:
                self.connection.sendall(chunk)


def _one_line(value: str) -> str:
    """Header values carry repository ids and file names: a line break in one must not become a header."""
    return value.replace("\r", " ").replace("\n", " ")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    listener: Listener

    def handle_error(self, request: Any, client_address: Any) -> None:
        logger.exception("a connection of %s ended in an error (%r)", client_address, request)


class Listener:
    """A port that answers requests with ``respond``; it can be stopped and started again on the same port."""

    def __init__(self, respond: Respond, host: str = "127.0.0.1", port: int = 0) -> None:
        self.respond, self.host, self.port = respond, host, port
        self._server: _Server | None = None
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Bind the port, an ephemeral one the first time unless it was given, and answer in the background."""
        self._server = _Server((self.host, self.port), _Handler)
        self._server.listener = self
        self.port = int(self._server.server_address[1])
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, name=f"hub:{self.port}", daemon=True
        ).start()

    def stop(self) -> None:
        """Close the port and every connection to it: from now on connections are refused."""
        if self._server is None:
            return
        self._server.shutdown()
        self._server.server_close()
        self._server = None
        with self._lock:
            open_now = list(self._connections)
        for connection in open_now:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                logger.debug("a connection was closed already")

    def opened(self, connection: socket.socket) -> None:
        """Remember an open connection, so that `stop` can close it."""
        with self._lock:
            self._connections.add(connection)

    def closed(self, connection: socket.socket) -> None:
        """Forget a connection that ended."""
        with self._lock:
            self._connections.discard(connection)
