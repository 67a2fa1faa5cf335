"""The client below everything: deadlines that hold, tokens that stay, bugs that are booked."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

import crawler
from crawler.decide import inspection
from crawler.hub import client
from crawler.hub.client import HubClient
from crawler.hub.transport import UnansweredError
from hubprobe.demo.server import HubServer
from workspace import Status, Workspace


@pytest.fixture
def dripping() -> Iterator[str]:
    """A server whose headers never end: one byte at a time, each in time for a read timeout."""
    listener = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    def drip(connection: socket.socket) -> None:
        try:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Endless: ")
            while not stop.is_set():
                connection.sendall(b"x")
                time.sleep(0.02)
        except OSError:
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    stop.set()
    listener.close()


def test_headers_that_never_end_do_not_hold_a_thread(dripping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "EXCHANGE_SECONDS", 0.3)
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.2)
    began = time.monotonic()
    with pytest.raises(UnansweredError) as caught:
        HubClient(dripping).read(f"{dripping}/api/models", limit=1000)
    assert caught.value.status is Status.NETWORK_ERROR
    assert time.monotonic() - began < 60, "nothing ended it"


def test_a_bug_of_ours_costs_one_repository_and_says_so(
    hub: HubServer,
    open_workspace: Callable[..., Workspace],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(raw: bytes, most: int) -> None:
        raise ZeroDivisionError

    workspace = open_workspace(hub.url)
    monkeypatch.setattr(inspection, "parse_config", broken)
    summary = crawler.crawl(workspace, token=False, progress=False, author="acme")
    assert summary.statuses == {"internal_error": 1}
    assert "acme/home" in caplog.text
    monkeypatch.undo()
    assert crawler.crawl(workspace, token=False, progress=False, author="acme").statuses == {"eligible": 1}
