"""Connections that ask nothing, ask slowly, or do not take their answer: real sockets against a real server."""

import socket
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from hubprobe.page.limits import Limits
from tests.page.conftest import Served, serving

LIMITS = Limits(rate=0, connections=40, connections_each=20, head_seconds=2, answer_seconds=2, body_seconds=2)


@pytest.fixture(scope="module")
def tight(page_made) -> Iterator[Served]:
    with serving(page_made, LIMITS) as one:
        yield one


@pytest.fixture(scope="module")
def patient(page_made) -> Iterator[Served]:
    with serving(page_made, replace(LIMITS, head_seconds=120, body_seconds=5)) as one:
        yield one


def connect(served: Served, source: str = "127.0.0.1", *, small: bool = False) -> socket.socket:
    port = int(served.url.rstrip("/").rpartition(":")[2])
    one = socket.socket()
    if small:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(60)
    one.bind((source, 0))
    one.connect(("127.0.0.1", port))
    return one


def ask(one: socket.socket, path: str = "/health") -> bytes:
    """Return a whole answer, which ends in a brace."""
    one.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    found = b""
    while not found.endswith(b"}") and (part := one.recv(65536)):
        found += part
    return found


def ended(one: socket.socket) -> bool:
    """Whether the server has closed, by whatever means, all that it sent being read."""
    try:
        while one.recv(65536):
            pass
    except ConnectionError:
        pass
    except TimeoutError:
        return False
    return True


def test_half_sent_heads_keep_nobody_out(tight: Served) -> None:
    half = []
    for _ in range(300):
        one = connect(tight)
        one.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-")
        half.append(one)
    with connect(tight) as other:
        assert b"200 OK" in ask(other)
    with connect(tight, "127.0.0.2") as other:
        assert b"200 OK" in ask(other)
    assert sum(ended(one) for one in half[:250]) == 250  # gave way to the later ones
    for one in half:
        one.close()


def test_a_client_has_so_many_and_others_have_theirs(patient: Served) -> None:
    mine = [connect(patient) for _ in range(20)]
    yours = [connect(patient, "127.0.0.2") for _ in range(10)]
    assert all(b"200 OK" in ask(one) for one in (*mine, *yours))
    new = connect(patient)
    assert b"200 OK" in ask(new)
    assert ended(mine[0])  # the one that was quiet for longest
    assert all(b"200 OK" in ask(one) for one in (*mine[1:], *yours))
    for one in (*mine, *yours, new):
        one.close()


def test_who_is_being_answered_does_not_give_way(patient: Served) -> None:
    slow = [connect(patient) for _ in range(20)]
    for one in slow:  # in the middle of their requests
        one.sendall(b"POST /image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\nExpect: 100-continue\r\n\r\n")
    assert all(b" 100 " in one.recv(4096) for one in slow)
    with connect(patient) as new:
        assert b"503" in ask(new)
    with connect(patient, "127.0.0.2") as other:
        assert b"200 OK" in ask(other)
    assert all(b" 408 " in one.recv(4096) for one in slow)
    for one in slow:
        one.close()


@pytest.mark.parametrize("sent", [b"", b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\nX: "])
def test_a_head_takes_only_so_long(tight: Served, sent: bytes) -> None:
    with connect(tight) as one:
        one.sendall(sent)
        started = time.monotonic()
        try:
            for _ in range(100):  # a byte now and then changes nothing
                time.sleep(0.2)
                one.sendall(b"x" if sent else b"")
                if not sent and ended(one):
                    break
        except ConnectionError:
            pass
        assert time.monotonic() - started < 60


def test_an_idle_connection_is_closed(tight: Served) -> None:
    with connect(tight) as one:
        assert b"200 OK" in ask(one)
        one.sendall(b"GET /he")  # the head of the next request, never finished
        started = time.monotonic()
        assert ended(one)
        assert time.monotonic() - started < 60


def test_an_answer_that_is_not_taken(tight: Served) -> None:
    with connect(tight, small=True) as one:
        for _ in range(60):  # answers of many megabytes together
            try:
                one.sendall(b"GET /?q=dog&n=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except (ConnectionError, TimeoutError):
                break
        time.sleep(LIMITS.answer_seconds + 4)
        started = time.monotonic()
        assert ended(one)  # cut off
        assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 20_000 + b"\r\n",
        b"GET /?q=" + b"x" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 300,
        b"GARBAGE\r\n\r\n",
        b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST /image HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /image HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"POST /image HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /image HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    ],
    ids=lambda head: repr(head[:40]),
)
def test_heads_that_are_none(tight: Served, head: bytes) -> None:
    with connect(tight) as one:
        try:
            one.sendall(head)
        except ConnectionError:
            return  # refused before it was sent whole
        one.settimeout(60)
        try:
            status = one.recv(4096).split(b" ")[1:2]
        except ConnectionError:
            return
        assert status == [b"200"] if b"websocket" in head else status[0][:1] == b"4", status
    with connect(tight) as other:
        assert b"200 OK" in ask(other)
