"""When trying again helps: an outage is waited out, a request that fails alone is given up."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crawler.hub import pacing
from crawler.hub.pacing import CORRUPT_TRIES, MAX_LIMITED, TRIES, Retries, stated_wait
from crawler.hub.transport import Deadline, RetryError, UnansweredError
from workspace import Status


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "BACKOFF", (0.001, 0.002))
    monkeypatch.setattr(pacing, "LIMITED_BACKOFF", (0.001, 0.002))


def failing(status: Status, http: int = 503, *, times: int = 10**9, also: Callable[[], None] = lambda: None) -> tuple:
    calls: list[int] = []

    def once() -> str:
        calls.append(1)
        also()
        if len(calls) > times:
            return "fine"
        raise RetryError(UnansweredError(status, "no", http))

    return once, calls


def test_a_request_that_fails_while_others_succeed_is_given_up() -> None:
    shared = Retries(patience=60)
    once, calls = failing(Status.SERVER_ERROR, also=lambda: shared.call(lambda: None, None, "another"))
    with pytest.raises(UnansweredError):
        shared.call(once, None, "x")
    assert len(calls) == TRIES


def test_an_outage_is_waited_out_although_others_succeeded_just_before_it() -> None:
    shared = Retries(patience=60)
    first: list[int] = []

    def another_at_first() -> None:
        if not first:
            first.append(1)
            shared.call(lambda: None, None, "another")

    once, calls = failing(Status.NETWORK_ERROR, 0, times=3 * TRIES, also=another_at_first)
    assert shared.call(once, None, "x") == "fine"
    assert len(calls) == 3 * TRIES + 1
    assert shared.count == 3 * TRIES


def test_who_waits_out_an_outage_is_told_so_once(caplog: pytest.LogCaptureFixture) -> None:
    shared = Retries(patience=60)
    for times in (pacing.TOLD_TRIES - 1, pacing.TOLD_TRIES, 2 * pacing.TOLD_TRIES):
        assert shared.call(failing(Status.NETWORK_ERROR, 0, times=times)[0], None, "x") == "fine"
        assert len(caplog.messages) == (times >= pacing.TOLD_TRIES)
    assert "no; trying again for" in caplog.messages[0]


def test_answers_that_do_not_come_in_time_are_counted_one_by_one() -> None:
    calls: list[int] = []

    def once() -> str:
        calls.append(1)
        raise pacing.httpx.ReadTimeout("")

    with pytest.raises(UnansweredError):
        Retries(patience=60).call(once, None, "x", slow_tries=4)
    assert len(calls) == 4


def test_patience_and_deadline_end() -> None:
    once, _ = failing(Status.NETWORK_ERROR, 0)
    with pytest.raises(UnansweredError):
        Retries(patience=0.05).call(once, None, "x")
    with pytest.raises(UnansweredError):
        Retries(patience=60).call(once, Deadline(0.05), "x")


def test_corruption_does_not_repeat_itself_by_chance() -> None:
    once, calls = failing(Status.CORRUPT_FILE, 200)
    with pytest.raises(UnansweredError):
        Retries(patience=60).call(once, None, "x")
    assert len(calls) == CORRUPT_TRIES


def test_waiting_for_our_turn_is_not_charged_to_the_deadline() -> None:
    once, calls = failing(Status.RATE_LIMITED, 429, times=MAX_LIMITED - 1)
    deadline = Deadline(5.0)
    assert Retries(patience=60).call(once, deadline, "x") == "fine"
    assert len(calls) == MAX_LIMITED
    once, calls = failing(Status.RATE_LIMITED, 429)
    with pytest.raises(UnansweredError) as caught:
        Retries(patience=60).call(once, None, "x")
    assert (caught.value.status, len(calls)) == (Status.RATE_LIMITED, MAX_LIMITED)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"ratelimit": '"api";r=0;t=120', "retry-after": "7"}, 121, 121.5),
        ({"ratelimit": '"api";r=3;t=120', "retry-after": "7"}, 7, 7.5),
        ({"retry-after": "7"}, 7, 7.5),
        ({"retry-after": "Mon, 23 Nov 2020 00:00:00 GMT"}, 0, 0.5),
        ({"retry-after": "99999999"}, 3600, 3600.5),
    ],
)
def test_stated_waits_are_kept_exactly(headers: dict[str, str], least: float, most: float) -> None:
    wait = stated_wait(headers)
    assert wait is not None
    assert least <= wait <= most


def test_no_stated_wait_is_none() -> None:
    assert stated_wait({}) is None
    assert stated_wait({"retry-after": "soon"}) is None


def test_waits_double_up_to_the_longest_and_are_not_all_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "BACKOFF", (1.0, 20.0))
    waits: list[list[float]] = [[] for _ in range(7)]
    monkeypatch.setattr(Retries, "sleep", lambda _, seconds: told.append(seconds))
    for _ in range(60):
        told: list[float] = []
        once, _ = failing(Status.NETWORK_ERROR, 0, times=7)
        assert Retries(patience=1e6).call(once, None, "x") == "fine"
        for found, seconds in zip(waits, told, strict=True):
            found.append(seconds)
    for found, longest in zip(waits, (1, 2, 4, 8, 16, 20, 20), strict=True):
        assert longest / 2 <= min(found) < 0.75 * longest < max(found) <= longest


def test_a_server_that_is_too_slow_is_asked_so_often_only() -> None:
    for tries in (1, 2, 4):
        calls: list[int] = []

        def once(calls: list[int] = calls) -> str:
            calls.append(1)
            raise RetryError(UnansweredError(Status.SERVER_ERROR, "no", 504, slow=True))

        with pytest.raises(UnansweredError):
            Retries(patience=60).call(once, None, "x", slow_tries=tries)
        assert len(calls) == tries


@pytest.mark.parametrize(
    ("wait", "patience", "deadline", "tried"), [(5.0, 4.0, 9.0, 1), (5.0, 9.0, 4.0, 1), (5.0, 9.0, 9.0, 2)]
)
def test_a_wait_that_outlasts_patience_or_deadline_is_not_begun(
    wait: float, patience: float, deadline: float, tried: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(Retries, "sleep", lambda _, seconds: waits.append(seconds))
    calls: list[int] = []

    def once() -> str:
        calls.append(1)
        if len(calls) == 2:
            return "fine"
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "no", 503), wait)

    shared = Retries(patience)
    if tried == 1:
        with pytest.raises(UnansweredError):
            shared.call(once, Deadline(deadline), "x")
    else:
        assert shared.call(once, Deadline(deadline), "x") == "fine"
    assert (len(calls), waits, shared.count) == (tried, [wait] * (tried - 1), tried - 1)


def test_who_waits_gives_up_when_the_crawl_stops() -> None:
    shared = Retries(patience=60)
    shared.sleep(0.0)
    shared.stop()
    with pytest.raises(UnansweredError, match="stopped"):
        shared.sleep(60.0)
    once, calls = failing(Status.SERVER_ERROR)
    with pytest.raises(UnansweredError, match="stopped"):
        shared.call(once, None, "x")
    assert len(calls) == 1
