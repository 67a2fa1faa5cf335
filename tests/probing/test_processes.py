"""Several processes, and processes that are killed: always the same rows."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa  # noqa: TC002
import pytest

from probing import inflight
from tests.probing.conftest import Repos
from tests.probing.runs import run, start, together
from tests.probing.test_adaptive import write_factors
from workspace import Workspace

MODELS = 12


def _responses(workspace: Workspace) -> pa.Table:
    return workspace.responses().sort_by([("repo_id", "ascending"), ("logit", "ascending")])


def _ends(workspace: Workspace) -> list[tuple[str, int, str, int]]:
    columns = ["repo_id", "attempt", "status", "probes_run"]
    return sorted(tuple(row.values()) for row in workspace.attempts(columns, history=True).to_pylist())


@pytest.fixture
def hub(workspace: Workspace, repos: Repos) -> Repos:
    for i in range(MODELS):
        repos.vit(f"model-{i}", seed=i)
    repos.list("gated", "gated")
    repos.write_catalog(workspace)
    return repos


@pytest.fixture
def undisturbed(workspace: Workspace, hub: Repos, tmp_path: Path) -> Workspace:
    shutil.copytree(workspace.root, tmp_path / "undisturbed")
    run(str(tmp_path / "undisturbed"), str(hub.root))
    return Workspace.open(tmp_path / "undisturbed")


def test_two_processes_write_the_bits_of_one(undisturbed: Workspace, workspace: Workspace, hub: Repos) -> None:
    together(2, str(workspace.root), str(hub.root), others=2)
    assert _responses(workspace).equals(_responses(undisturbed))
    assert _ends(workspace) == _ends(undisturbed)
    ranks = [r for r in workspace.attempts(["rank"])["rank"].to_pylist() if r is not None]
    assert len(ranks) == MODELS
    assert set(ranks) == {0, 1}, "both processes took part"
    fetched = Path(workspace.root, "fetched.txt").read_text().split()
    assert sorted(fetched) == sorted(set(fetched)), "no model was run by both"


def test_two_processes_choose_what_one_chooses(workspace: Workspace, hub: Repos, tmp_path: Path) -> None:
    write_factors(workspace)
    shutil.copytree(workspace.root, tmp_path / "one")
    run(str(tmp_path / "one"), str(hub.root), adaptive=True, fraction=0.4)
    together(2, str(workspace.root), str(hub.root), adaptive=True, fraction=0.4)
    one = _responses(Workspace.open(tmp_path / "one"))
    assert one.num_rows == 5 * MODELS
    assert len(one["probe_ids"][0]) == 28
    assert _responses(workspace).equals(one)


def test_three_kills_leave_what_an_undisturbed_run_leaves(
    undisturbed: Workspace, workspace: Workspace, hub: Repos
) -> None:
    log = workspace.root / "fetched.txt"
    committed: set[str] = set()
    for seed in range(3):
        log.write_text("")
        before = len(committed)
        process = start(str(workspace.root), str(hub.root), most=3)
        _wait(lambda: len(_committed(workspace)) > before, process)  # noqa: B023
        time.sleep(random.Random(seed).uniform(0, 0.1))
        process.kill()
        process.join()
        assert not committed & set(log.read_text().split()), "committed, yet run again"
        committed = _committed(workspace)
        assert before < len(committed) < MODELS, "killed in the middle"
    log.write_text("")
    run(str(workspace.root), str(hub.root))
    assert not committed & set(log.read_text().split()), "committed, yet run again"
    assert _responses(workspace).equals(_responses(undisturbed))
    assert _ends(workspace) == _ends(undisturbed)
    assert not list(workspace.attempts_dir.glob(f"{inflight.PREFIX}*"))
    assert not list(workspace.root.rglob(".tmp-*"))


def _committed(workspace: Workspace) -> set[str]:
    return {r["repo_id"] for r in workspace.attempts(["repo_id", "outcome"]).to_pylist() if r["outcome"] == "ok"}


def _wait(condition: Callable[[], bool], process: Any, seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not condition() and process.is_alive():
        assert time.monotonic() < until
        time.sleep(0.01)
