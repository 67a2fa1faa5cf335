"""Marks of models in flight: what kills of the whole run may and may not say about a model."""

from __future__ import annotations

import json
import os
import socket

import pytest

import probing
from probing import inflight
from tests.probing.conftest import SHA, Repos, by_repo
from workspace import Workspace, model_file_name


def _die_with(workspace: Workspace, name: str) -> None:
    """Leave the mark that a process killed while running ``name`` leaves: its next life counts one more death."""
    stem = model_file_name(name, SHA)
    path = inflight.path_of(workspace, stem)
    deaths = json.loads(path.read_text())["deaths"] if path.exists() else 0
    inflight.put(workspace, stem, name, SHA, deaths)
    mark = json.loads(path.read_text())
    path.write_text(json.dumps(mark | {"pid": 2**22 + 1}))
    inflight.recover(workspace)


def _probe(workspace: Workspace, repos: Repos, **options: object) -> probing.ProbeSummary:
    repos.write_catalog(workspace)
    return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)  # type: ignore[arg-type]


@pytest.fixture
def three(repos: Repos) -> Repos:
    for i, name in enumerate(("large", "middle", "small")):
        repos.vit(name, seed=i)
        repos.rows[-1]["weights_bytes"] = 1000 - i
    return repos


def test_largest_first_unless_it_was_in_flight_twice(workspace: Workspace, three: Repos) -> None:
    _die_with(workspace, "large")
    _die_with(workspace, "middle")
    _die_with(workspace, "middle")
    _probe(workspace, three)
    assert three.fetched == ["large", "small", "middle"]
    assert not list(workspace.attempts_dir.glob(".*"))


def test_three_kills_book_nothing_and_five_do(workspace: Workspace, three: Repos) -> None:
    for _ in range(3):
        _die_with(workspace, "middle")
    for _ in range(5):
        _die_with(workspace, "small")
    summary = _probe(workspace, three)
    status = by_repo(workspace.attempts().to_pylist(), "status")
    assert status == {"large": "ok", "middle": "ok", "small": "crashed"}
    assert summary.by_status == {"crashed": 1, "ok": 2}
    assert _probe(workspace, three).run == 0
    assert _probe(workspace, three, retry=["crashed"]).ok == 3


def test_a_mark_goes_whose_model_had_ended_when_its_process_was_killed(workspace: Workspace, three: Repos) -> None:
    assert _probe(workspace, three).ok == 3
    _die_with(workspace, "small")
    _die_with(workspace, "middle")
    assert len(list(workspace.attempts_dir.glob(f"{inflight.PREFIX}*"))) == 2
    assert _probe(workspace, three).run == 0
    assert not list(workspace.attempts_dir.glob(f"{inflight.PREFIX}*"))


def test_models_of_a_living_process_are_left_to_it(workspace: Workspace, three: Repos) -> None:
    path = inflight.put(workspace, model_file_name("small", SHA), "small", SHA, 0)
    parent = os.getppid()
    owner = {"pid": parent, "host": socket.gethostname(), "born": inflight._born(parent)}
    path.write_text(json.dumps(json.loads(path.read_text()) | owner))
    assert _probe(workspace, three).run == 2
    assert "small" not in three.fetched


def test_a_reused_pid_and_damage_are_no_life(workspace: Workspace, three: Repos) -> None:
    path = inflight.put(workspace, model_file_name("small", SHA), "small", SHA, 0)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": os.getppid(), "born": "1"}))
    inflight.path_of(workspace, "torn").write_text("{")
    deaths, busy = inflight.recover(workspace)
    assert deaths == {("small", SHA): 1}
    assert not busy
    assert _probe(workspace, three).ok == 3
