"""Connections to Hubs: httpx's own, with an absolute end for every exchange, through the proxies the environment names.

A read timeout alone is renewed by every byte, so a server that sends one byte a second holds a thread for days. The
backend below shortens each socket operation to what is left of the exchange that the current thread is in: connecting,
sending, the head of the answer and its body together.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from workspace.endpoint import proxy_for

try:
    import httpcore2 as httpcore
except ImportError:  # pragma: no cover - huggingface_hub 1.x
    import httpcore  # type: ignore[import-not-found, no-redef, unused-ignore]

BROKEN = (httpx.TransportError, zlib.error)
"""What an exchange that fails on its way raises."""

_local = threading.local()


class Deadline:
    """The moment a piece of work has to be done by, on `time.monotonic`; waiting that we choose does not count.

    Args:
        seconds: what the work itself may take.
    """

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


class _DeadlineBackend(httpcore.NetworkBackend):
    """httpcore's own socket backend with the current exchange's end applied to every operation."""

    def __init__(self) -> None:
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class Transport(httpx.BaseTransport):  # type: ignore[misc, name-defined, unused-ignore]
    """httpx's transport, one for every proxy, whose sockets obey `exchange`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._routes: dict[str, httpx.HTTPTransport] = {}  # type: ignore[name-defined, unused-ignore]
        self._ssl = httpx.create_ssl_context()  # here, because it takes longer than some exchanges may

    def handle_request(self, request: httpx.Request) -> httpx.Response:  # type: ignore[name-defined, unused-ignore]
        """Send a request the way its address has to go. Raises `ConfigError` for a proxy nobody here can speak to."""
        proxy = proxy_for(str(request.url))
        with self._lock:
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
