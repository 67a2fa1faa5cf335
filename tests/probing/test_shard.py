"""Independent jobs: a share of their own each, then what the others left; late and dead ones hold nothing up."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import probing
from probing import attempts, inflight
from probing.plan import Shard, Task
from tests.probing.conftest import SHA, Repos
from tests.probing.runs import SECONDS, run, start
from workspace import ConfigError, Workspace, model_file_name
from workspace.files import write_json

MODELS = 9


@pytest.fixture
def hub(workspace: Workspace, repos: Repos) -> Repos:
    for i in range(MODELS):
        repos.vit(f"model-{i}", seed=i)
    for i in range(4):
        repos.list(f"gated-{i}", "gated")
    repos.write_catalog(workspace)
    return repos


def _owned(shard: str) -> set[str]:
    return {name for i in range(MODELS) if Shard.parse(shard).owns(name := f"model-{i}", SHA)}


def test_a_shard_is_read_and_refused_in_words() -> None:
    assert Shard.parse("7/8") == Shard(7, 8)
    array = {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "3"}
    assert Shard.parse("auto", array) == Shard(2, 3)
    for wrong in ("8/8", "1", "a/b", "-1/2", "0/0", "1/2/3"):
        with pytest.raises(ConfigError, match="I from 0 to N-1"):
            Shard.parse(wrong)
    with pytest.raises(ConfigError, match="SLURM_ARRAY_TASK_ID"):
        Shard.parse("auto", {})


def test_every_model_is_of_one_share_and_every_job_runs_all_its_own_first() -> None:
    tasks = [Task(f"owner/{i}", SHA, 1) for i in range(400)]
    orders = [Shard(i, 8).order(tasks) for i in range(8)]
    owned = [[task for task in tasks if Shard(i, 8).owns(task.repo_id, task.sha)] for i in range(8)]
    assert sum(map(len, owned)) == 400
    assert min(map(len, owned)) > 25
    for order, own in zip(orders, owned, strict=True):
        assert order[: len(own)] == own
        assert sorted(order, key=tasks.index) == tasks
    rest = [order[len(own) :][:20] for order, own in zip(orders, owned, strict=True)]
    assert max(len(set(a) & set(b)) for a in rest for b in rest if a is not b) < 10, "no two help in the same order"


def test_three_jobs_one_dead_one_late_leave_what_one_run_leaves(
    workspace: Workspace, hub: Repos, tmp_path: Path
) -> None:
    shutil.copytree(workspace.root, tmp_path / "alone")
    run(str(tmp_path / "alone"), str(hub.root))
    first = start(str(workspace.root), str(hub.root), 0.2, shard="0/3")  # 1/3 never starts
    first.join(SECONDS)
    assert first.exitcode == 0
    fetched = Path(workspace.root, "fetched.txt").read_text().split()
    assert set(fetched[: len(_owned("0/3"))]) == _owned("0/3")
    assert sorted(fetched) == sorted(f"model-{i}" for i in range(MODELS)), "the others' shares, too"
    late = probing.probe(workspace, hub.fetch, progress=False, isolate=False, batch_size=16, shard="2/3")
    assert (late.run, late.duplicates) == (0, 0)
    assert (late.attempted, late.ok, late.skipped, late.failed) == (MODELS + 4, MODELS, 4, 0)
    order = [("repo_id", "ascending"), ("logit", "ascending")]
    assert workspace.responses().sort_by(order).equals(Workspace.open(tmp_path / "alone").responses().sort_by(order))


def test_two_at_once_commit_every_model_once(workspace: Workspace, hub: Repos) -> None:
    jobs = [start(str(workspace.root), str(hub.root), 0.2, shard=f"{i}/2") for i in range(2)]
    for job in jobs:
        job.join(SECONDS)
        assert job.exitcode == 0
    history = workspace.attempts(["repo_id", "attempt", "status", "run_id"], history=True).to_pylist()
    probed = [(row["repo_id"], row["attempt"]) for row in history if row["status"] == "ok"]
    assert sorted(probed) == [(f"model-{i}", 1) for i in range(MODELS)]
    # who ran how many is the machine's affair: where one starts late, the other has run its share by then
    assert len(list(workspace.runs_dir.glob("*-probe-*.json"))) == 2
    assert workspace.attempts().num_rows == MODELS + 4


def test_what_another_commits_meanwhile_is_counted_and_stays_the_others(
    workspace: Workspace, hub: Repos, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = attempts.Attempt.commit
    path = attempts.path_of(workspace, "model-3", SHA, 1)
    theirs: list[bytes] = []

    def second(ours: attempts.Attempt, to: Workspace) -> bool:
        if ours.fields["repo_id"] == "model-3":  # another job ends with it a moment earlier
            other = ours.copy()
            other.fields["run_id"] = "another"
            assert commit(other, to)
            theirs.append(path.read_bytes())
        return commit(ours, to)

    monkeypatch.setattr(attempts.Attempt, "commit", second)
    summary = probing.probe(workspace, hub.fetch, progress=False, isolate=False, shard="0/2")
    assert (summary.duplicates, summary.run, summary.ok) == (1, MODELS - 1, MODELS)
    assert theirs == [path.read_bytes()]
    assert "1 more were committed by another job first" in summary.manifest.with_suffix(".md").read_text()


def test_marks_of_other_hosts_count_as_dead_only_when_they_are_old(workspace: Workspace, hub: Repos) -> None:
    path = inflight.put(workspace, model_file_name("model-1", SHA), "model-1", SHA, 0)
    write_json(path, {"repo_id": "model-1", "sha": SHA, "deaths": 0, "pid": 1, "host": "elsewhere", "born": "1"})
    assert inflight.recover(workspace, others=True) == ({}, {("model-1", SHA)})
    assert inflight.any_running(workspace)
    old = path.stat().st_mtime - inflight.STALE_SECONDS - 1
    os.utime(path, (old, old))
    assert not inflight.any_running(workspace)
    inflight.touch(workspace, [model_file_name("model-1", SHA)])
    assert inflight.any_running(workspace)
    os.utime(path, (old, old))
    assert inflight.recover(workspace, others=True) == ({("model-1", SHA): 1}, set())


def test_what_another_job_runs_now_comes_last_and_is_not_left_out(workspace: Workspace, hub: Repos) -> None:
    path = inflight.put(workspace, model_file_name("model-1", SHA), "model-1", SHA, 0)
    write_json(path, {"repo_id": "model-1", "sha": SHA, "deaths": 0, "pid": 1, "host": "elsewhere", "born": "1"})
    summary = probing.probe(workspace, hub.fetch, progress=False, isolate=False, shard="0/1")
    assert summary.ok == MODELS
    assert hub.fetched[-1] == "model-1"
