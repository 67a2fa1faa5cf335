"""The whole crawl against the demo hub: every repository ends once, in its own status."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

import crawler
from hubprobe.demo import unhealthy
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.demo.wire import Request, Respond, Response
from tests.hubs.faults import Fault, Faults
from workspace import Outcome, Status, Workspace

Open = Callable[..., Workspace]
FOUND_LATER = {Status.CORRUPT_FILE}
"""Statuses of repositories that the crawler's rules have to let pass: fetching finds them out."""


def decided_here(status: Status) -> bool:
    return status.outcome is Outcome.SKIPPED or status is Status.FILE_MISSING


def crawl(workspace: Workspace, **options: Any) -> crawler.CrawlSummary:
    return crawler.crawl(workspace, token=False, progress=False, **options)


def test_every_unhealthy_repository_ends_in_its_own_status(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    summary = crawl(workspace)
    found = {row["id"]: row for row in workspace.catalog().to_pylist()}
    assert summary.finished
    assert summary.listed == len(found) == len(unhealthy.EXPECTED) + 1
    for repo_id, expected in unhealthy.EXPECTED.items():
        ends = expected.value if decided_here(expected) else Status.ELIGIBLE.value
        assert (repo_id, found[repo_id]["eligibility"]) == (repo_id, ends)
        assert bool(found[repo_id]["reason"]) is (ends != Status.ELIGIBLE.value)
    assert found[unhealthy.repo_id(Status.RENAMED)]["renamed_to"] == "acme/home"
    assert not any(unhealthy.canary(name).exists() for name in unhealthy.CANARIES)


def test_an_eligible_row_says_all_that_a_probe_needs(hub: HubServer, home: Repo, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    crawl(workspace)
    row = next(row for row in workspace.catalog().to_pylist() if row["id"] == home.id)
    assert (row["sha"], row["eligibility"], row["model_type"]) == (home.sha, "eligible", "vit")
    assert row["num_labels"] == len(row["id2label"])
    files = {file["path"]: file for file in row["files"]}
    for path in ("config.json", "preprocessor_config.json", "model.safetensors"):
        assert (files[path]["size"], files[path]["oid"]) == (home.files[path].size, home.files[path].oid)
    assert files["model.safetensors"]["sha256"] == home.files["model.safetensors"].sha256
    assert row["weights_bytes"] == home.files["model.safetensors"].size


def test_what_the_listing_decides_costs_no_further_request(hub: HubServer, open_workspace: Open) -> None:
    crawl(open_workspace(hub.url))
    from_listing = (
        Status.GATED, Status.DISABLED, Status.ONNX_ONLY, Status.ADAPTER, Status.NO_CONFIG,
        Status.NO_WEIGHTS, Status.FOREIGN_FORMAT, Status.UNSAFE_PATH, Status.MALFORMED_ROW,
    )  # fmt: skip
    for status in from_listing:
        assert hub.requests.matching(unhealthy.repo_id(status)) == []
    (asked,) = hub.requests.matching(unhealthy.repo_id(Status.PICKLE_ONLY))  # whether the bot has converted it
    assert "/discussions?" in asked.target
    # the tag custom_code says nothing of what the code is for: the config does, and no weights are asked for
    targets = [asked.target for asked in hub.requests.matching(unhealthy.repo_id(Status.CUSTOM_CODE))]
    assert targets
    assert all(target.endswith("config.json") for target in targets)


def test_a_second_crawl_decides_only_what_may_have_changed(
    hub: HubServer, make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    workspace = open_workspace(hub.url)
    crawl(workspace)
    before = workspace.catalog(history=True).num_rows
    hub.requests.clear()
    hub.catalog.add(make_repo("acme/new"))  # type: ignore[attr-defined]
    summary = crawl(workspace)
    assert (summary.new, summary.statuses["eligible"]) == (1, 1)
    assert summary.unchanged > 25
    assert hub.requests.matching("acme/home") == []
    assert workspace.catalog(history=True).num_rows - before == sum(summary.statuses.values())


def test_limit_stops_the_listing(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    assert crawl(workspace, limit=7).listed == 7
    assert workspace.catalog().num_rows == 7


def test_an_empty_listing_is_said_to_be_empty(
    hub: HubServer, open_workspace: Open, caplog: pytest.LogCaptureFixture
) -> None:
    for dry in (True, False):
        caplog.clear()
        assert crawl(open_workspace(hub.url), author="nobody", dry_run=dry).listed == 0
        assert "holds no repository" in caplog.text
        assert "'nobody'" in caplog.text


def test_a_healthy_crawl_asks_what_the_documentation_says_and_no_more(
    make_repo: Callable[..., Repo], open_workspace: Open
) -> None:
    """The rows of docs/crawl.md, "What it costs": whatever is added has to keep to them."""
    with HubServer([make_repo(f"acme/m{i}") for i in range(20)]) as server:
        summary = crawl(open_workspace(server.url))
        assert summary.statuses == {"eligible": 20}
        assert server.requests.count("api") == 1 + 20
        assert server.requests.count("resolvers") == 20 * (2 + 1 + 2)
        assert server.requests.count("cdn") == 20


def test_a_repository_listed_twice_is_counted_once(make_repo: Callable[..., Repo], open_workspace: Open) -> None:
    def twice(request: Request, answer: Respond) -> Response:
        response = answer(request)
        rows = json.loads(bytes(response.body))  # type: ignore[arg-type]
        return Response.json([*rows, *rows])

    with HubServer([make_repo(f"acme/m{i}") for i in range(3)]) as server:
        server.intercept = Faults(Fault(twice, match=r"GET /api/models\?", times=None))
        summary = crawl(open_workspace(server.url))
    assert (summary.listed, summary.new, sum(summary.statuses.values())) == (3, 3, 3)


def test_funnel_adds_up(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    crawl(workspace)
    table = crawler.funnel(workspace).to_pylist()
    assert table[0]["status"] == "eligible"
    assert sum(row["repos"] for row in table) == workspace.catalog().num_rows
    assert sum(row["share"] for row in table) == pytest.approx(1.0)


def test_a_dry_run_writes_nothing_and_says_what_a_crawl_takes(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    before = sorted(workspace.root.rglob("*"))
    summary = crawl(workspace, dry_run=True)
    assert sorted(workspace.root.rglob("*")) == before
    assert summary.listed == len(unhealthy.EXPECTED) + 1
    assert summary.undecided + sum(summary.statuses.values()) == summary.listed
    assert summary.requests == {"api": 1, "resolvers": 0, "elsewhere": 0}
    hub.requests.clear()
    crawl(workspace)
    # The estimate is of requests at most; two answers of the API tell of renamed and gone ones.
    assert hub.requests.count("resolvers") <= summary.would_request["resolvers"]
    assert hub.requests.count("api") <= summary.would_request["api"] + 2
    assert summary.would_fetch_bytes > 0
