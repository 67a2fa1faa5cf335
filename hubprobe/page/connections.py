"""Connections: how many there may be, and how long one may keep the server waiting."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from hubprobe.page.limits import Limits

_LOOK_S = 1.0
"""How often a connection is looked at."""

_FULL = json.dumps({"error": "too many connections: close some, or try again in a moment"}).encode()
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
