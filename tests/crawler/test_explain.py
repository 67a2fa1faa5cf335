"""Explaining a decision, and who we say we are while asking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import crawler
from crawler.decide.rules import STAGES
from crawler.hub.client import CONTACT, user_agent
from hubprobe.demo import unhealthy
from hubprobe.demo.server import HubServer
from workspace import Config, QueryError, Status, Workspace

Open = Callable[..., Workspace]


def test_every_rule_is_told_until_one_refuses(hub: HubServer, open_workspace: Open) -> None:
    workspace = open_workspace(hub.url)
    fine = crawler.explain(workspace, "acme/home", token=False)
    assert (fine.status, fine.reason) == (Status.ELIGIBLE, "")
    assert [step.rule for step in fine.steps] == [rule.__name__ for _, rules in STAGES for rule in rules]
    assert all(step.passed and step.looks_for for step in fine.steps)
    for status, stage in (
        (Status.PICKLE_ONLY, "list"),
        (Status.REGRESSION, "config"),
        (Status.HEAD_MISSING, "weights"),
    ):
        found = crawler.explain(workspace, unhealthy.repo_id(status), token=False)
        assert found.status is status
        assert [step.passed for step in found.steps] == [True] * (len(found.steps) - 1) + [False]
        assert found.steps[-1].stage == stage
        assert status.value in found.steps[-1].reason
    assert fine.to_arrow().num_rows == len(fine.steps)
    assert not workspace.catalog_dir.exists()


@pytest.mark.parametrize("status", [Status.GONE, Status.RENAMED, Status.DISABLED, Status.MALFORMED_ROW])
def test_what_is_not_there_is_told_too(status: Status, hub: HubServer, open_workspace: Open) -> None:
    found = crawler.explain(open_workspace(hub.url), unhealthy.repo_id(status), token=False)
    assert (found.status, found.steps) == (status, ())
    assert found.reason


def test_a_question_makes_no_folder(hub: HubServer, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "not-there", Config(endpoint=hub.url))
    assert crawler.explain(workspace, unhealthy.repo_id(Status.GATED), token=False).status is Status.GATED
    assert not workspace.root.exists()


def test_names_that_cannot_be_are_refused(open_workspace: Open) -> None:
    with pytest.raises(QueryError, match="owner/name"):
        crawler.explain(open_workspace("http://127.0.0.1:9"), "../../etc/passwd")


def test_every_request_says_who_asks(hub: HubServer, open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONTACT, "crawl@example.org\r\nX-Evil: 1")
    crawler.crawl(open_workspace(hub.url), token=False, progress=False)
    agents = {asked.headers["user-agent"] for asked in hub.requests}
    assert len(agents) == 1
    (agent,) = agents
    assert agent.startswith("hubprobe/")
    assert "contact: crawl@example.org" in agent
    assert not any("x-evil" in asked.headers for asked in hub.requests)
    monkeypatch.delenv(CONTACT)
    assert "contact" not in user_agent()
