"""Pacing, by simulated clocks: the demo hub's limiter on one side, our bucket on the other."""

from __future__ import annotations

import heapq
import random

import pytest
from huggingface_hub.utils import RateLimitInfo

from crawler.hub import pacing
from crawler.hub.pacing import Bucket, RateLimits, bucket_name, standing
from tests.hubs.limits import Quotas, RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def simulate(quota: int, window: int, workers: int, latency: float, windows: float) -> tuple[int, int, int]:
    """Return requests allowed, refused, and refused after the first window, of workers that never pause."""
    clock = Clock()
    limiter = RateLimiter(Quotas(quota, quota, quota, window), clock=clock)
    bucket = Bucket(clock)
    start, random_state = clock.now, random.Random(0)
    events: list[tuple[float, int, str, object]] = [(clock.now, i, "plan", None) for i in range(workers)]
    allowed = refused = late = 0
    serial = workers
    while events:
        clock.now, _, what, value = heapq.heappop(events)
        if clock.now > start + window * windows:
            break
        serial += 1
        if what == "plan":
            heapq.heappush(events, (clock.now + bucket.reserve(), serial, "send", None))
        elif what == "send":
            told = limiter("api", "here")
            allowed += told.allowed
            refused += not told.allowed
            late += not told.allowed and clock.now > start + window
            heapq.heappush(events, (clock.now + latency * random_state.uniform(0.5, 1.5), serial, "answer", told))
        else:
            headers = {name.lower(): text for name, text in value.headers}  # type: ignore[attr-defined]
            bucket.answered(standing(headers))
            if not value.allowed:  # type: ignore[attr-defined]
                bucket.hold(value.reset_in + 1)  # type: ignore[attr-defined]
            heapq.heappush(events, (clock.now, serial, "plan", None))
    return allowed, refused, late


@pytest.mark.parametrize(("quota", "window"), [(500, 300), (3000, 300), (6_000, 300), (100, 60)])
@pytest.mark.parametrize("latency", [0.02, 0.3])
def test_no_refusal_after_warm_up_and_the_whole_quota_is_used(
    quota: int, window: int, latency: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "random", random.Random(0))  # the jitter's
    workers, windows = 16, 6 if window == 60 else 4
    allowed, _, late = simulate(quota, window, workers, latency, windows)
    assert late == 0
    possible = min(quota * windows, workers / latency * window * windows)
    assert allowed >= 0.945 * possible  # 0.948 to 0.960 over sixty seeds of the smallest quota


def test_others_on_the_same_quota_are_made_room_for() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    bucket.reserve()
    bucket.answered(RateLimitInfo("api", 10, 100, 500, 300))  # somebody else has spent 490 already
    sent = 0
    while clock.now < 1100:
        wait = bucket.reserve()
        clock.now += wait
        sent += clock.now < 1100
        bucket.answered(None)
    assert sent <= 11


def test_what_is_spent_elsewhere_in_the_middle_of_a_window_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing.random, "random", lambda: 0.0)  # no jitter
    clock = Clock()
    bucket = Bucket(clock)
    bucket.reserve()
    bucket.answered(RateLimitInfo("api", 400, 200, 500, 300))
    bucket.reserve()
    bucket.answered(RateLimitInfo("api", 7, 200, 500, 300))  # two of ours cannot have cost 393
    waits = [bucket.reserve() for _ in range(20)]
    assert sum(wait < 200 for wait in waits) == 7
    bucket.answered(RateLimitInfo("api", 300, 200, 500, 300))  # an answer that was overtaken gives nothing back
    assert bucket.reserve() > 200


def test_what_is_under_way_counts_against_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing.random, "random", lambda: 0.0)
    clock = Clock()
    bucket = Bucket(clock)
    for _ in range(5):
        bucket.reserve()
    bucket.answered(RateLimitInfo("api", 10, 100, 500, 300))  # to the first: four are still to be counted
    assert sum(bucket.reserve() < 100 for _ in range(20)) == 6


def test_a_hub_that_states_no_limits_is_not_paced() -> None:
    bucket = Bucket()
    for _ in range(1000):
        assert bucket.reserve() == 0.0
        bucket.answered(None)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"ratelimit": '"api";r=498;t=120', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
            RateLimitInfo("api", 498, 120, 500, 300),
        ),
        ({"ratelimit": '"resolvers"; r=0; t=3'}, RateLimitInfo("resolvers", 0, 3, None, None)),
        ({"ratelimit": "limit=10, remaining=5"}, None),
        ({}, None),
    ],
)
def test_headers_are_read_as_the_hub_documents_them(headers: dict[str, str], expected: RateLimitInfo | None) -> None:
    assert standing(headers) == expected


@pytest.mark.parametrize(
    ("path", "bucket"),
    [
        ("/api/models", "api"),
        ("/api/models/a/b/paths-info/x", "api"),
        ("/a/b/resolve/x/config.json", "resolvers"),
        ("/api/resolve-cache/models/a/b/x/config.json", "resolvers"),
    ],
)
def test_requests_are_counted_where_the_hub_counts_them(path: str, bucket: str) -> None:
    assert bucket_name(path) == bucket


def test_a_bucket_of_another_name_is_waited_for_and_holds_up_no_other() -> None:
    limits = RateLimits()
    file, page = "/acme/model/resolve/main/config.json", "/api/models"
    guessed = limits.bucket(file)
    guessed.reserve()
    told = RateLimitInfo("downloads", remaining=0, reset_in_seconds=100, limit=10, window_seconds=300)
    named = limits.answered(file, guessed, told)
    assert limits.bucket(file) is named
    assert named is limits.buckets["downloads"]
    assert limits.bucket(file).reserve() > 90
    assert limits.bucket(page).reserve() == 0


def test_a_hold_is_not_shortened_by_a_later_shorter_one() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    for seconds in (60, 5):
        bucket.hold(seconds)
    assert bucket.reserve() >= 60


def test_a_crawl_is_estimated_by_the_policy_last_stated() -> None:
    bucket = Bucket(Clock())
    assert bucket.seconds_for(100) == 0
    bucket.answered(RateLimitInfo("api", 9, 60))  # no policy beside it: at least what is left and this one
    assert bucket.seconds_for(10) == 60
    bucket.answered(RateLimitInfo("api", 400, 60, 500, 300))
    assert bucket.seconds_for(1_000) == 600


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing.random, "random", lambda: 0.0)  # no jitter


def _told(left: int, seconds: int) -> RateLimitInfo:
    return RateLimitInfo("api", left, seconds, 500, 300)


@pytest.mark.usefixtures("exact")
def test_a_tenth_of_the_quota_goes_at_once_and_the_rest_evenly() -> None:
    bucket = Bucket(Clock())
    bucket.reserve()
    bucket.answered(_told(499, 299))  # the server rounds: the window may end a second later
    waits = [bucket.reserve() for _ in range(500)]
    assert waits[:50] == [0.0] * 50
    assert waits[50] == pytest.approx(300 / 450)
    for i, wait in enumerate(waits[50:499], 50):  # never more than a tenth ahead of an even pace, nor far behind it
        assert (i - 50) * 300 / 500 <= wait <= (i - 49) * 300 / 450
    assert waits[499] == pytest.approx(300)


@pytest.mark.usefixtures("exact")
def test_what_is_left_of_a_window_is_spread_over_it_and_the_next_begins_anew() -> None:
    clock = Clock()
    bucket = Bucket(clock)
    bucket.reserve()
    bucket.answered(_told(3, 9))
    waits = [bucket.reserve() for _ in range(55)]
    assert waits[:3] == [0, 0, 0]
    assert waits[3:54] == pytest.approx([10] * 51)  # a tenth of the next window's quota at its begin
    assert waits[54] == pytest.approx(10 + 300 / 450)
    clock.now += 4  # whoever comes later waits as much less
    assert bucket.reserve() == pytest.approx(10 + 2 * 300 / 450 - 4)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("later", "told", "left"),
    [
        (0, _told(30, 200), 30), (0, _told(300, 200), 100),  # of the same window: the less
        (0, _told(30, 50), 100), (0, _told(30, 51), 30),  # half a window earlier: of the one before
        (0, _told(300, 350), 100), (0, _told(300, 351), 300),  # and later: of the one that follows
        (199, _told(30, 2), 30), (201, _told(77, 299), 77),
    ],
)  # fmt: skip
def test_an_answer_counts_for_the_window_it_tells_of(later: float, told: RateLimitInfo, left: int) -> None:
    clock = Clock()
    bucket = Bucket(clock)
    bucket.reserve()
    bucket.answered(_told(100, 200))
    clock.now += later
    bucket.answered(told)
    end = bucket._reset - clock.now  # type: ignore[operator]
    waits = [bucket.reserve() for _ in range(600)]
    assert sum(wait < end - 1e-6 for wait in waits) == left


@pytest.mark.usefixtures("exact")
def test_a_window_that_was_guessed_is_corrected_by_its_first_answer_in_both_directions() -> None:
    for seconds, wanted in ((250, 251.0), (320, 321.0)):
        clock = Clock()
        bucket = Bucket(clock)
        bucket.reserve()
        bucket.answered(_told(1, 9))
        for _ in range(2):  # the second is the next window's, which ends 300 s after this one
            bucket.reserve()
        clock.now += 10
        bucket.answered(_told(490, seconds))
        assert bucket._reset == pytest.approx(clock.now + wanted)
        bucket.answered(_told(480, 330))  # from then on the earliest end counts
        assert bucket._reset == pytest.approx(clock.now + wanted)
        bucket.answered(_told(480, 240))
        assert bucket._reset == pytest.approx(clock.now + 241)


def test_waits_are_up_to_a_tenth_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing.random, "random", lambda: 1.0)
    bucket = Bucket(Clock())
    bucket.hold(50)
    assert bucket.reserve() == pytest.approx(55)


@pytest.mark.parametrize("number", ["1000000001", "9" * 5_000])
@pytest.mark.parametrize("header", ['"api";r={0};t=1', '"api";r=1;t={0}'])
def test_numbers_that_cannot_be_say_nothing(number: str, header: str) -> None:
    policy = {"ratelimit-policy": '"fixed window";"api";q=500;w=300'}
    assert standing({"ratelimit": header.format("1000000000"), **policy}) is not None
    assert standing({"ratelimit": header.format(number), **policy}) is None
    for bad in ("q={};w=300", "q=500;w={}"):
        told = {"ratelimit": '"api";r=1;t=1', "ratelimit-policy": '"fixed window";"api";' + bad.format(number)}
        assert standing(told) is None


def test_a_hub_names_only_so_many_buckets() -> None:
    limits = RateLimits()
    for i in range(100):
        limits.answered("/api/models", limits.bucket("/api/models"), RateLimitInfo(f"b{i}", 5, 9, 10, 300))
    assert len(limits.buckets) == pacing._MOST_BUCKETS == 16
    assert limits.bucket("/api/models") is limits.buckets["b13"]
    limits.answered("/api/models", limits.bucket("/api/models"), RateLimitInfo("api", 5, 9, 10, 300))
    assert limits.bucket("/api/models") is limits.buckets["api"]
    taken = [limits.buckets[name] for name in ("api", "resolvers")]
    for bucket in taken:
        bucket.reserve()
    limits.answered("/api/models", taken[0], RateLimitInfo("resolvers", 5, 9, 10, 300))
    assert [bucket._in_flight for bucket in taken] == [0, 0]  # counted where it was guessed, taken from both
