from __future__ import annotations

import json

import pytest  # noqa: TC002

import probing
from probing import responses
from probing.group import Group, _asked_of_launcher, choose_device, cpu_threads
from probing.report import as_markdown
from tests.probing.conftest import Repos
from workspace import Workspace


def test_a_run_leaves_a_manifest_a_page_and_a_line_per_model(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    repos.list("gated", "gated")
    repos.write_catalog(workspace)
    summary = probing.probe(workspace, repos.fetch, progress=True, isolate=False, run_id="r1")
    assert summary.manifest == workspace.runs_dir / "r1.json"
    manifest = json.loads(summary.manifest.read_text())
    assert (manifest["ok"], manifest["skipped"], manifest["run"], manifest["settings"]["batch_size"]) == (1, 1, 1, 64)
    assert manifest["peak_memory_bytes"] > 1e8
    page = (workspace.runs_dir / "r1.md").read_text()
    assert page == as_markdown(summary)
    assert "| gated | 1 |" in page
    assert "2 attempted = 1 ok + 1 skipped + 0 failed" in page
    assert 0 < summary.roofline_seconds <= summary.seconds
    (line,) = (workspace.runs_dir / "r1-0.jsonl").read_text().splitlines()
    assert json.loads(line)["status"] == "ok"


def test_attempts_are_compacted_by_one_writer(
    workspace: Workspace, repos: Repos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(responses.compact_attempts, "__kwdefaults__", {"least": 3})
    for name in ("a", "b", "c"):
        repos.list(name)  # no files: each ends as no_config
    repos.write_catalog(workspace)

    def probe(**options: object) -> probing.ProbeSummary:
        return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)  # type: ignore[arg-type]

    first = probe()
    (file,) = workspace.attempts_dir.glob("*.parquet")
    assert file.name.startswith("compacted-")
    assert probe(retry=["no_config"], models=["a"]).by_status == first.by_status
    assert len(list(workspace.attempts_dir.glob("*.parquet"))) == 2
    copy = file.read_bytes()
    probe(retry=["no_config"])
    file.write_bytes(copy)  # as if killed between the new file and the deletion of the old
    assert responses.compact_attempts(workspace, least=0) > 0
    history = workspace.attempts(["repo_id", "attempt"], history=True).to_pylist()
    assert sorted((r["repo_id"], r["attempt"]) for r in history) == [
        ("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1), ("c", 2),
    ]  # fmt: skip
    assert probe().run == 0


def test_one_process_is_a_group_of_its_own() -> None:
    group = Group(0, 1, 0, 1)
    assert [group.pull(), group.pull()] == [0, 1]
    assert group.share("key", {"a": 1}) == {"a": 1}
    group.done()
    group.leave()
    assert cpu_threads(10_000) == 1
    assert choose_device("cpu", 3) == "cpu"
    assert choose_device("cuda:1", 0) == "cuda:1"


def test_the_launcher_that_starts_one_process_is_found_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from probing import group

    assert _asked_of_launcher() == 1, "pytest was not started by accelerate"
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    monkeypatch.setattr(group, "_asked_of_launcher", lambda: 2)
    group._warn_of_silent_single(1)
    assert "asked for 2 processes and started one" in caplog.text
