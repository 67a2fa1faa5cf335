"""What a monitor reads at ``/metrics``: requests by kind and end, how long they took, and the index."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from hubprobe.page.opened import Current

__all__ = ["CONTENT_TYPE", "Metrics", "kind_of"]

KINDS = (
    "api", "compare", "concepts", "image", "mcp", "metrics", "model", "models", "pick", "probe", "static", "use",
)  # fmt: skip
"""First parts of addresses that are counted apart: all others are ``search`` (the page itself) or ``other``."""

_ALIASES = {"": "search", "pick-image": "pick", "gradio_api": "api", "favicon.ico": "static"}
_FIRST = re.compile(r"/([^/]*)")


class Metrics:
    """Counts what an application answers, refusals included."""

    def __init__(self, current: Current) -> None:
        self._current, self._registry = current, CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("kind", "status")
        self._requests = Counter("hubprobe_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "hubprobe_request_seconds", "Time from a request's head to the end of its answer.", ("kind",),
            registry=self._registry,
        )  # fmt: skip
        self._running = Gauge("hubprobe_requests_running", "Requests being answered.", registry=self._registry)
        for name, about, value in (
            ("models", "Models that can be searched.", lambda: current.get().index.gallery.models.num_rows),
            ("logits", "Outputs that can be searched.", lambda: len(current.get().index.gallery)),
            ("names_ready", "Whether names are suggested.", lambda: current.get().names.state == "ready"),
        ):
            Gauge(f"hubprobe_index_{name}", about, registry=self._registry).set_function(value)
        self._version = Gauge(
            "hubprobe_index_info", "Version of the index that answers.", ("version",), registry=self._registry
        )

    def text(self) -> bytes:
        """Return the figures in Prometheus's text format, whose content type is ``CONTENT_TYPE``."""
        self._version.clear()
        self._version.labels(self._current.get().index.version).set(1)
        return generate_latest(self._registry)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return ``app``, whose answers are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            kind, status, started = kind_of(scope["path"]), "none", time.perf_counter()

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            self._running.inc()
            try:
                await app(scope, receive, watched)
            finally:
                self._running.dec()
                self._requests.labels(kind, status).inc()
                self._seconds.labels(kind).observe(time.perf_counter() - started)

        return counted


def kind_of(path: str) -> str:
    """Return as what a request for ``path`` is counted: one of a few words, whatever strangers ask for."""
    match = _FIRST.match(path)
    first = match[1] if match else "other"
    return _ALIASES.get(first, first if first in KINDS else "other")
