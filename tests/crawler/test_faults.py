"""Everything a hub can do wrong: no repository is lost, none is booked under a cause that was not its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import crawler
from crawler.hub import client, pacing
from hubprobe.demo import unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.demo.wire import Response
from tests.hubs import faults
from tests.hubs.faults import MALFORMED_ROWS, Fault, Faults
from workspace import HubError, ModelError, Status, Workspace

Open = Callable[..., Workspace]
Action = faults.Action

LIST, CONFIG, HEADER, PATHS = "GET /api/models.", "/config.json", "GET /repos/", "POST .*/paths-info/"
EVERYWHERE = (LIST, CONFIG, HEADER, PATHS)

PASSING: dict[str, Action] = {
    "500": faults.status(500),
    "502": faults.status(502),
    "503": faults.status(503),
    "503, with a wait": faults.status(503, [("Retry-After", "0")]),
    "504": faults.status(504),
    "429, with the Hub's headers": faults.rate_limited(wait=0),
    "429, with Retry-After": faults.rate_limited(retry_after=0),
    "429, with a date": faults.rate_limited(retry_after="Mon, 23 Nov 2020 00:00:00 GMT"),
    "429, with nothing": faults.rate_limited(),
    "cut in the headers' wake": faults.cut(after=0),
    "cut mid-body": faults.cut(after=100),
    "reset": faults.reset(),
    "short body": faults.short(missing=7),
    "HTML for JSON": faults.html(),
    "slow-loris": faults.drip(pause=0.1),
    "silence": faults.hang(0.7),
}


SLOW = ("slow-loris", "silence", "dripping")
"""Faults that only a clock ends: where one of them strikes, sound answers have little time, too, but every try."""


@pytest.fixture(autouse=True)
def impatient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits between tries are short; how long an answer may take is cut only for the faults that need it."""
    monkeypatch.setattr(pacing, "BACKOFF", (0.01, 0.1))
    monkeypatch.setattr(pacing, "LIMITED_BACKOFF", (0.01, 0.1))
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    if params.get("name") in SLOW:
        monkeypatch.setattr(client, "EXCHANGE_SECONDS", 0.6)
        monkeypatch.setattr(client, "READ_SECONDS", 0.5)


@pytest.fixture
def harm() -> Faults:
    return Faults()


@pytest.fixture
def server(harm: Faults, make_repo: Callable[..., Repo]) -> Iterator[HubServer]:
    with HubServer([make_repo(f"acme/m{i}") for i in range(4)], intercept=harm, page_size=2) as server:
        yield server


def ends(workspace: Workspace) -> dict[str, str]:
    return {row["id"]: row["eligibility"] for row in workspace.catalog(["id", "eligibility"]).to_pylist()}


def crawl(workspace: Workspace, **options: Any) -> crawler.CrawlSummary:
    return crawler.crawl(workspace, token=options.pop("token", False), progress=False, **options)


ALL_FINE = {f"acme/m{i}": "eligible" for i in range(4)}


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_leaves_no_trace(name: str, server: HubServer, harm: Faults, open_workspace: Open) -> None:
    waits = "with" in name  # those that state a wait are waited for
    times, struck_at = (1, (LIST, HEADER)) if waits else (2, EVERYWHERE)
    struck = [harm.add(Fault(PASSING[name], match=where, times=times)) for where in struck_at]
    workspace = open_workspace(server.url)
    assert crawl(workspace).finished
    assert ends(workspace) == ALL_FINE
    assert [fault.hits for fault in struck] == [times] * len(struck)


LASTING: dict[str, tuple[Action, str, Status]] = {
    "500 for one file": (faults.status(500), "m2/resolve/.*config", Status.SERVER_ERROR),
    "429 for one file": (faults.rate_limited(retry_after=0), "m2/resolve/.*config", Status.RATE_LIMITED),
    "cut for one file": (faults.cut(after=10), "m2/.*/config.json", Status.NETWORK_ERROR),
    "HTML for one file": (faults.html(), "m2/resolve/.*config", Status.SERVER_ERROR),
    "other content": (faults.corrupt(at=20), "m2/.*/config.json", Status.CORRUPT_FILE),
    "HTML for paths": (faults.html(), "POST .*m2/", Status.SERVER_ERROR),
    "a loop": (faults.redirect_loop(), "m2/resolve/", Status.SERVER_ERROR),
    "dripping": (faults.drip(pause=0.2), "m2/.*/config.json", Status.NETWORK_ERROR),
    "shorter than listed": (faults.smaller(missing=3), "m2/.*/config.json", Status.CORRUPT_FILE),
    "404 without a code": (faults.status(404), "m2/resolve/.*config", Status.FILE_MISSING),
}


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_booked_as_what_it_is_and_asked_again_next_time(
    name: str, server: HubServer, harm: Faults, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    # only after a failure is patience asked for: what is sound and merely late is not given up
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 6.0 if name in SLOW else 1.0)
    action, where, status = LASTING[name]
    harm.add(Fault(action, match=where, times=None))
    workspace = open_workspace(server.url)
    assert crawl(workspace).finished
    assert ends(workspace) == ALL_FINE | {"acme/m2": status.value}
    harm.clear()
    again = crawl(workspace)
    assert (again.changed, again.unchanged) == (1, 3)
    assert ends(workspace) == ALL_FINE


def test_an_ignored_range_does_not_make_us_read_the_file(harm: Faults, open_workspace: Open) -> None:
    home = Repo.of("acme/home", {})
    big = next(repo for repo in unhealthy.repos(home) if repo.id == unhealthy.repo_id(Status.TOO_MANY_BYTES))
    harm.add(Fault(faults.ignore_range(), bucket="cdn", times=None))
    # The server would have to build 9 GB in memory to send it all; the header's first 64 kB are enough.
    streamed = Faults(Fault(_whole_file_lazily, bucket="cdn", times=None))
    with HubServer([big], intercept=streamed) as server:
        workspace = open_workspace(server.url)
        crawl(workspace)
        assert ends(workspace) == {big.id: "too_many_bytes"}


def _whole_file_lazily(request: Any, answer: Any) -> Any:
    del request.headers["range"]
    return answer(request)


def test_an_ignored_range_is_right_all_the_same(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(faults.ignore_range(), bucket="cdn", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE


def test_a_header_that_claims_five_gigabytes_is_not_read(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(faults.header_claim(), match="GET /repos/acme/m1/", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE | {"acme/m1": "invalid_header"}


def test_one_damaged_header_is_not_the_files_fault(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(faults.header_claim(), bucket="cdn", times=1))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE


@pytest.mark.parametrize("where", [LIST, "/resolve/", "/resolve-cache/"])
def test_the_token_stays_on_its_own_origin(
    where: str, server: HubServer, harm: Faults, open_workspace: Open, make_repo: Callable[..., Repo]
) -> None:
    with HubServer([make_repo(f"acme/m{i}") for i in range(4)]) as elsewhere:
        harm.add(Fault(faults.redirect_to(elsewhere.url), match=where, times=None))
        workspace = open_workspace(server.url)
        crawl(workspace, token="hf_secret")
        assert len(elsewhere.requests) > 0
        assert not any(asked.has_token for asked in elsewhere.requests)
        assert not any(asked.has_token for asked in server.requests if asked.bucket == "cdn")
        assert any(asked.has_token for asked in server.requests)
    text = b"".join(path.read_bytes() for path in workspace.root.rglob("*") if path.is_file())
    assert b"hf_secret" not in text


def test_a_redirect_of_the_api_to_another_host_is_no_renaming(
    server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    harm.add(Fault(faults.redirect_to("http://127.0.0.1:9"), match="POST .*m2/", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE | {"acme/m2": "server_error"}


def test_malformed_rows_are_booked_beside_the_sound_ones(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(faults.malformed_rows(), match=LIST, times=1))
    workspace = open_workspace(server.url)
    summary = crawl(workspace)
    found = ends(workspace)
    assert {name: found[name] for name in ALL_FINE} == ALL_FINE
    odd = {name: status for name, status in found.items() if name not in ALL_FINE}
    assert set(odd.values()) == {"malformed_row"}
    assert len(odd) == len(MALFORMED_ROWS)
    assert summary.listed == 4 + len(MALFORMED_ROWS)


@pytest.mark.parametrize(
    "page",
    [b'[{"id": "acme/x", "downloads": ' + b"9" * 5000 + b"}]", b'[{"id": "acme/\xff\xfe"}, 5]', b"[" + b"[" * 5000],
    ids=["a number of 5,000 digits", "invalid UTF-8", "nested for ever"],
)
def test_a_broken_page_is_survived(page: bytes, server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(faults.body(page), match=LIST, times=1))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert set(ends(workspace).values()) <= {"eligible", "malformed_row"}


def test_a_listing_in_a_circle_stops_and_keeps_what_it_has(
    server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    harm.add(Fault(faults.repeat_cursor(), match="cursor=", times=None))
    workspace = open_workspace(server.url)
    with pytest.raises(HubError, match="circle"):
        crawl(workspace)
    assert len(ends(workspace)) == 2
    harm.clear()
    summary = crawl(workspace)
    assert summary.resumed
    assert ends(workspace) == ALL_FINE
    assert workspace.catalog(history=True).num_rows == 4


@pytest.mark.parametrize("address", ["/elsewhere", "http://127.0.0.1:9/elsewhere?cursor=x", "/api/models/a/b"])
def test_a_listing_that_leads_elsewhere_is_refused(
    address: str, server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    harm.add(Fault(faults.next_page(address), match=LIST, times=None))
    with pytest.raises(HubError, match="another path"):
        crawl(open_workspace(server.url))


def test_a_mirrors_next_page_is_asked_of_the_mirror(
    server: HubServer, harm: Faults, open_workspace: Open, make_repo: Callable[..., Repo]
) -> None:
    def elsewhere(request: Any, answer: Any) -> Any:
        response = answer(request)
        response.headers = [(k, v.replace(server.url, upstream.url) if k == "Link" else v) for k, v in response.headers]
        return response

    with HubServer([make_repo("acme/other")]) as upstream:
        harm.add(Fault(elsewhere, match=LIST, times=None))
        workspace = open_workspace(server.url)
        crawl(workspace, token="hf_secret")
        assert ends(workspace) == ALL_FINE
        assert len(upstream.requests) == 0


def lists(server: HubServer) -> list[str]:
    """The sizes of the pages that were asked for."""
    return [asked.target.partition("limit=")[2].partition("&")[0] for asked in server.requests.matching("/api/models?")]


@pytest.mark.parametrize("name", ["504", "silence", "slow-loris"])
def test_a_page_that_takes_too_long_is_asked_for_in_parts_after_two_tries(
    name: str, server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    harm.add(Fault(PASSING[name], match=r"limit=1000", times=None))
    workspace = open_workspace(server.url)
    assert crawl(workspace).finished
    assert ends(workspace) == ALL_FINE
    assert lists(server).count("250") == 2  # two pages of two rows
    assert lists(server).count("1000") <= 2


def test_the_size_a_server_bears_is_kept_for_the_next_crawl_and_no_longer(
    server: HubServer, harm: Faults, open_workspace: Open, make_repo: Callable[..., Repo]
) -> None:
    fault = harm.add(Fault(PASSING["504"], match=r"limit=1000", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert fault.hits == 2
    server.requests.clear()
    crawl(workspace)
    assert set(lists(server)) == {"250"}
    assert fault.hits == 2
    server.requests.clear()
    crawl(workspace)  # perhaps the server is well again
    assert lists(server)[0] == "1000"
    assert fault.hits == 4
    assert ends(workspace) == ALL_FINE


def test_an_interrupted_crawl_goes_on_with_the_size_it_learned(
    server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    heavy = harm.add(Fault(PASSING["504"], match=r"limit=1000", times=None))
    gone = harm.add(Fault(faults.status(404), match=r"cursor=", times=None))
    workspace = open_workspace(server.url)
    with pytest.raises(HubError):
        crawl(workspace)
    gone.times = 0
    assert crawl(workspace).resumed
    assert heavy.hits == 2
    crawl(workspace)
    assert heavy.hits == 2
    assert ends(workspace) == ALL_FINE


def test_an_outage_is_not_taken_for_a_heavy_page(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    harm.add(Fault(PASSING["504"], match=LIST, times=7))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE
    assert lists(server)[-2:] == ["1000", "1000"]


@pytest.mark.parametrize("code", [404, 501])
def test_a_hub_without_a_listing_says_how_to_go_on(
    code: int, server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    harm.add(Fault(faults.status(code), match=LIST, times=None))
    with pytest.raises(HubError, match=r"no listing.*--from"):
        crawl(open_workspace(server.url))


@pytest.mark.parametrize("lacking", [("sha",), ("siblings",), ("sha", "siblings", "author", "createdAt")])
def test_rows_that_lack_what_decides_are_asked_for_one_by_one(
    lacking: tuple[str, ...], server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    def without(request: Any, answer: Any) -> Any:
        response = answer(request)
        rows = [{k: v for k, v in row.items() if k not in lacking} for row in json.loads(response.body)]
        return Response.json(rows, headers=[h for h in response.headers if h[0] == "Link"])

    harm.add(Fault(without, match=r"GET /api/models\?", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE
    assert all(row["sha"] and row["files"] for row in workspace.catalog().to_pylist())


def test_pages_too_heavy_for_the_server_are_asked_for_in_parts(
    server: HubServer, harm: Faults, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm.add(Fault(faults.status(504), match=r"limit=1000", times=None))
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.3)
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE
    assert lists(server).count("250") == 2  # two pages of two rows
    assert workspace.catalog(history=True).num_rows == 4


def test_pages_of_more_values_than_are_read_are_asked_for_in_parts(
    server: HubServer, harm: Faults, open_workspace: Open
) -> None:
    bomb = b"[" + b"{}," * 1_000_000 + b"{}]"
    harm.add(Fault(faults.body(bomb), match=r"limit=1000", times=None))
    workspace = open_workspace(server.url)
    crawl(workspace)
    assert ends(workspace) == ALL_FINE
    assert lists(server).count("250") == 2  # two pages of two rows


def test_a_bad_token_stops_the_crawl_with_a_reason(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    refused = [("X-Error-Message", "Invalid credentials in Authorization header")]
    harm.add(Fault(faults.status(401, refused), times=None))
    with pytest.raises(HubError, match="token"):
        crawl(open_workspace(server.url), token="hf_old")


def test_the_network_away_for_a_while_is_survived(
    server: HubServer, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = open_workspace(server.url)
    away, waits, sleep = server.down(3600.0), iter(range(100)), pacing.Retries.sleep

    def slept(retries: pacing.Retries, seconds: float) -> None:
        if next(waits) == 5:
            away.cancel()
            server.start()
        sleep(retries, seconds)

    monkeypatch.setattr(pacing.Retries, "sleep", slept)
    summary = crawl(workspace)
    assert summary.retries > 0
    assert ends(workspace) == ALL_FINE


# ── fetching ────────────────────────────────────────────────────────────────────────────────────────────────────────
def rows(workspace: Workspace) -> list[dict[str, Any]]:
    crawl(workspace)
    return workspace.catalog().to_pylist()


@pytest.mark.parametrize("name", ["500", "429, with nothing", "cut mid-body", "short body", "HTML for JSON"])
def test_fetching_survives_what_passes(name: str, server: HubServer, harm: Faults, open_workspace: Open) -> None:
    workspace = open_workspace(server.url)
    row = rows(workspace)[0]
    struck = [harm.add(Fault(PASSING[name], match=where, times=2)) for where in (CONFIG, HEADER)]
    with_files = crawler.Fetcher(workspace, token=False)(row)
    assert sorted(path.name for path in with_files.folder.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json",
    ]  # fmt: skip
    assert [fault.hits for fault in struck] == [2, 2]


FETCHES: dict[str, tuple[Action, Status]] = {
    "same length, other content": (faults.corrupt(), Status.CORRUPT_FILE),
    "short": (faults.smaller(missing=9), Status.CORRUPT_FILE),
    "404": (faults.status(404, [("X-Error-Code", "EntryNotFound")]), Status.FILE_MISSING),
    "500": (faults.status(500), Status.SERVER_ERROR),
    "429": (faults.rate_limited(retry_after=0), Status.RATE_LIMITED),
    "reset": (faults.reset(), Status.NETWORK_ERROR),
    "gated since": (faults.status(403, [("X-Error-Code", "GatedRepo")]), Status.GATED),
    "disabled since": (
        faults.status(403, [("X-Error-Message", "Access to this resource is disabled.")]), Status.DISABLED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FETCHES)
def test_a_fetch_that_fails_says_why_and_hands_on_nothing(
    name: str, server: HubServer, harm: Faults, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.3)
    action, status = FETCHES[name]
    workspace = open_workspace(server.url)
    row = rows(workspace)[0]
    harm.add(Fault(action, match=HEADER, times=None))
    fetcher = crawler.Fetcher(workspace, token=False)
    with pytest.raises(ModelError) as caught:
        fetcher(row)
    assert (caught.value.status, caught.value.repo_id, caught.value.sha) == (status, row["id"], row["sha"])
    harm.clear()
    fetcher(row).release()


def test_a_download_goes_on_where_it_was_cut(server: HubServer, harm: Faults, open_workspace: Open) -> None:
    workspace = open_workspace(server.url)
    row = rows(workspace)[0]
    server.requests.clear()
    harm.add(Fault(faults.cut(after=40_000), match=HEADER, times=1))
    crawler.Fetcher(workspace, token=False)(row)
    asked = [request.headers.get("range", "") for request in server.requests if request.bucket == "cdn"]
    assert asked[0] == ""
    assert len(asked) == 2
    start = int(asked[1].removeprefix("bytes=").rstrip("-"))
    assert 0 < start <= 40_000


def test_a_download_is_continued_by_the_next_process(
    server: HubServer, harm: Faults, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PATIENCE_SECONDS", -1.0)  # not even an attempt that takes no time
    workspace = open_workspace(server.url)
    row = rows(workspace)[0]
    harm.add(Fault(faults.cut(after=40_000), match=HEADER, times=1))
    with pytest.raises(ModelError):
        crawler.Fetcher(workspace, token=False)(row)
    assert not list(workspace.cache_dir.rglob("model.safetensors"))
    harm.clear()
    server.requests.clear()
    fetched = crawler.Fetcher(workspace, token=False)(row)
    (asked,) = [request for request in server.requests if request.bucket == "cdn"]
    assert asked.headers["range"].startswith("bytes=")
    assert (fetched.folder / "model.safetensors").stat().st_size == row["weights_bytes"]
