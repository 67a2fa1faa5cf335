"""Requests that are refused: too many, too large, too slow, or none of this page's business."""

import asyncio
import json
from typing import Any

import pytest

from hubprobe.page.limits import Bounded, Limits, Rates


async def ask(app: Any, path: str = "/", *, method: str = "GET", query: bytes = b"", chunks: tuple[bytes, ...] = (),
              headers: tuple = (), client: str = "1.2.3.4", pause: float = 0.0) -> tuple[int, dict, bytes]:  # fmt: skip
    headers = (*headers, *(((b"transfer-encoding", b"chunked"),) if chunks else ()), (b"host", b"localhost:7860"))
    scope = {"type": "http", "path": path, "method": method, "query_string": query, "headers": list(headers),
             "client": (client, 1), "server": ("127.0.0.1", 7860)}  # fmt: skip
    waiting = list(chunks) or [b""]
    sent: list[dict] = []

    async def receive() -> dict:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: dict) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


async def reading(scope: Any, receive: Any, send: Any) -> None:
    """An application that reads the whole body."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RuntimeError("the client went away")
        size, more = size + len(message["body"]), message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(size).encode()})


def run(*args: Any, limits: Limits | None = None, app: Any = reading, **options: Any) -> tuple[int, dict, bytes]:
    return asyncio.run(ask(Bounded(app, limits or Limits()), *args, **options))


def test_other_methods() -> None:
    assert run("/", method="TRACE")[0] == 405


def test_a_body_that_says_it_is_too_large() -> None:
    limits = Limits(body_bytes=10)
    assert run("/image", method="POST", headers=((b"content-length", b"11"),), limits=limits)[0] == 413
    assert run("/image", method="POST", headers=((b"content-length", b"x1"),), limits=limits)[0] == 413


def test_a_body_that_does_not_say() -> None:
    limits = Limits(body_bytes=10)
    assert run("/image", method="POST", chunks=(b"12345", b"67890"), limits=limits)[2] == b"10"
    status, _, body = run("/image", method="POST", chunks=(b"12345", b"67890", b"1"), limits=limits)
    assert status == 413
    assert b"at most" in body


def test_bodies_of_all_requests_together() -> None:
    async def visit() -> list[int]:
        app = Bounded(reading, Limits(bodies_bytes=25))
        tasks = [ask(app, "/image", method="POST", chunks=(b"1" * 10, b"1" * 10), pause=0.05) for _ in range(2)]
        found = [one[0] for one in await asyncio.gather(*tasks)]
        return [*found, (await ask(app, "/image", method="POST", chunks=(b"1" * 20,)))[0]]  # and there is room again

    assert sorted(asyncio.run(visit())) == [200, 200, 503]


def test_a_client_that_goes_away_is_not_answered() -> None:
    sent: list = []

    async def receive() -> dict:
        return {"type": "http.disconnect"}

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost"), (b"content-length", b"9")]
    scope = {"type": "http", "path": "/image", "method": "POST", "query_string": b"", "headers": headers}
    asyncio.run(Bounded(reading, Limits())(scope, receive, send))
    assert not sent


def test_a_body_that_comes_too_slowly() -> None:
    limits = Limits(body_seconds=0.05)
    assert run("/image", method="POST", chunks=(b"1",) * 9, pause=0.02, limits=limits)[0] == 408


def test_a_rate_holds_for_each_client() -> None:
    rates = Rates(Limits(rate=60, burst=3))
    assert [rates.wait("a", 0.0) for _ in range(3)] == [0, 0, 0]
    assert rates.wait("a", 0.0) == pytest.approx(1.0)  # one a second
    assert rates.wait("b", 0.0) == 0
    assert rates.wait("a", 0.5) == pytest.approx(0.5)  # asking in vain costs nothing
    assert rates.wait("a", 1.0) == 0
    assert rates.wait("a", 1000.0) == 0
    assert rates.wait("a", 1000.0) == 0  # never more than the burst
    assert rates.wait("a", 1000.0) == 0
    assert rates.wait("a", 1000.0) > 0


def test_the_rates_of_so_many_clients_are_remembered() -> None:
    rates = Rates(Limits(rate=60, burst=1, clients=100))
    for i in range(1000):
        rates.wait(str(i), 0.0)
    assert len(rates._buckets) == 100


def test_no_rate_is_no_bound() -> None:
    rates = Rates(Limits(rate=0, burst=1))
    assert all(rates.wait("a", 0.0) == 0 for _ in range(10))


def test_searches_count_and_pictures_do_not() -> None:
    async def visit() -> list[int]:
        app = Bounded(reading, Limits(rate=1, burst=2))
        paths = [("/", b""), ("/", b"q=dog"), ("/probe/00/1.webp", b""), ("/static/page.css", b""), ("/", b"q=cat")]
        found = [(await ask(app, path, query=query))[0] for path, query in paths]
        status, headers, body = await ask(app, "/gradio_api/run/search", method="POST")
        assert int(headers[b"retry-after"]) > 1
        assert "too many searches" in json.loads(body)["error"]
        return [*found, status, (await ask(app, "/", query=b"q=x", client="other"))[0]]

    assert asyncio.run(visit()) == [200, 200, 200, 200, 200, 429, 200]


def test_so_many_at_once() -> None:
    async def visit() -> list[int]:
        gate = asyncio.Event()

        async def slow(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] != "/health":
                await gate.wait()
            await reading(scope, receive, send)

        app = Bounded(slow, Limits(at_once=2))
        first = [asyncio.create_task(ask(app, "/")) for _ in range(2)]
        await asyncio.sleep(0.01)
        refused = [(await ask(app, path))[0] for path in ("/", "/api/search", "/health")]
        gate.set()
        return [*refused, *[(await task)[0] for task in first], (await ask(app, "/"))[0]]  # and there is room again

    assert asyncio.run(visit()) == [503, 503, 200, 200, 200, 200]


def test_a_client_is_remembered_by_a_short_name() -> None:
    app = Bounded(reading, Limits())
    for i in range(3):
        assert asyncio.run(ask(app, "/model", client=f"{i}" * 60_000))[0] == 200
    assert max(map(len, app._rates._buckets)) <= 64


def test_an_error_inside_is_passed_on() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        run("/", app=broken)
