"""What a model can do to its process, and what its parent makes of it."""

from __future__ import annotations

import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import probing
from probing import prober
from probing.child import runners
from probing.settings import Settings
from tests.probing.conftest import Repos, by_repo
from workspace import Config, ConfigError, ProbeConfig, Workspace

MORTAL = (sys.executable, str(Path(__file__).with_name("mortal_worker.py")))
LYING = (sys.executable, str(Path(__file__).with_name("lying_worker.py")))


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "Child", partial(runners.Child, command=MORTAL, grace_seconds=0.0))


def _probe(workspace: Workspace, repos: Repos, **options: Any) -> probing.ProbeSummary:
    repos.write_catalog(workspace)
    return probing.probe(workspace, repos.fetch, progress=False, **options)


@pytest.mark.usefixtures("mortal")
def test_a_model_that_ends_its_process_is_booked_and_the_others_are_run(workspace: Workspace, repos: Repos) -> None:
    for i, name in enumerate(["healthy-1", "faults", "healthy-2", "once", "healthy-3"]):
        repos.vit(name, seed=i)
    summary = _probe(workspace, repos)
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {
        "healthy-1": "ok", "healthy-2": "ok", "healthy-3": "ok", "once": "ok", "faults": "crashed",
    }  # fmt: skip
    assert "SIGSEGV" in by_repo(rows, "reason")["faults"]
    assert summary.attempted == 5
    assert sorted(repos.released) == sorted(repos.fetched), "files are given back, each fetched once"
    again = _probe(workspace, repos, isolate=False)
    assert again.run == 4, "this worker stores nothing: four holes wait again, what crashed does not"
    assert by_repo(workspace.attempts().to_pylist(), "status")["faults"] == "crashed"
    assert _probe(workspace, repos, isolate=False, retry=["crashed"]).ok == 5


@pytest.mark.usefixtures("mortal")
def test_a_hang_is_stopped_at_its_deadline(tmp_path: Path, workspace: Workspace, repos: Repos) -> None:
    patient = Workspace(workspace.root, Config(probe=ProbeConfig(seconds_per_model=5.0)))
    repos.vit("hangs")
    repos.vit("healthy", seed=1)
    _probe(patient, repos)
    rows = patient.attempts().to_pylist()
    assert by_repo(rows, "status") == {"hangs": "timeout", "healthy": "ok"}
    assert "5 s" in by_repo(rows, "reason")["hangs"]


def test_a_child_that_cannot_start_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace, repos: Repos
) -> None:
    command: Sequence[str] = (sys.executable, "-c", "raise SystemExit(7)")
    monkeypatch.setattr(prober, "Child", partial(runners.Child, command=command))
    repos.vit("healthy")
    with pytest.raises(RuntimeError, match="exit code 7"):
        _probe(workspace, repos)
    assert not list(workspace.attempts_dir.glob("*")), "nothing is booked and no mark is left"


def test_settings_travel_as_plain_values(settings: Settings) -> None:
    import json
    from dataclasses import asdict

    assert Settings(**json.loads(json.dumps(asdict(settings)))) == settings
    assert replace(settings, device="cuda:1").caps == settings.caps


@pytest.mark.usefixtures("mortal")
def test_each_phase_has_a_deadline(workspace: Workspace, repos: Repos) -> None:
    repos.vit("hangs-preprocess")
    repos.vit("hangs")
    repos.vit("healthy", seed=1)
    _probe(workspace, repos, deadlines={"load": 3.0, "preprocess": 3.0})
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {"hangs": "timeout", "hangs-preprocess": "timeout", "healthy": "ok"}
    assert by_repo(rows, "ended_in") == {"hangs": "load", "hangs-preprocess": "preprocess", "healthy": None}
    assert "hung in preprocess" in by_repo(rows, "reason")["hangs-preprocess"]
    for wrong in ({"sleep": 1.0}, {"load": 0.0}):
        with pytest.raises(ConfigError):
            _probe(workspace, repos, deadlines=wrong)


def test_a_fetch_that_hangs_is_booked_and_the_others_go_on(workspace: Workspace, repos: Repos) -> None:
    for i, name in enumerate(["hangs-1", "hangs-2", "one", "two"]):
        repos.vit(name, seed=i)
    repos.write_catalog(workspace)
    over = threading.Event()

    def fetch(row: Any) -> Any:
        if row["id"].startswith("hangs"):
            over.wait(300)
        return repos.fetch(row)

    probing.probe(workspace, fetch, progress=False, isolate=False, deadlines={"fetch": 4.0})
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {"hangs-1": "timeout", "hangs-2": "timeout", "one": "ok", "two": "ok"}
    assert by_repo(rows, "ended_in")["hangs-1"] == "fetch"
    over.set()
    until = time.monotonic() + 120
    while len(repos.released) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    assert sorted(repos.released) == ["hangs-1", "hangs-2", "one", "two"], "what comes too late is given back"


@pytest.mark.parametrize("phase", ["load", "preprocess", "forward", "write"])
def test_what_took_longer_than_its_deadline_is_no_result(workspace: Workspace, repos: Repos, phase: str) -> None:
    """Also where nobody could stop it: in this very process, in the middle of a library's call."""
    repos.vit("one")
    _probe(workspace, repos, isolate=False, deadlines={phase: 1e-6})
    (row,) = workspace.attempts().to_pylist()
    assert (row["status"], row["ended_in"]) == ("timeout", phase)
    assert row[f"seconds_{phase}"] > 0
    assert _probe(workspace, repos, isolate=False, retry=["timeout"]).ok == 1


def test_all_phases_together_have_a_deadline(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    hasty = Workspace(workspace.root, Config(probe=ProbeConfig(seconds_per_model=1e-3)))
    _probe(hasty, repos, isolate=False, deadlines=dict.fromkeys(("load", "preprocess", "forward", "write"), 60.0))
    assert by_repo(hasty.attempts().to_pylist(), "status") == {"one": "timeout"}


def test_a_fetch_that_ended_after_its_deadline_is_no_result(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    _probe(workspace, repos, isolate=False, deadlines={"fetch": 1e-7})
    assert by_repo(workspace.attempts().to_pylist(), "status") == {"one": "timeout"}
    until = time.monotonic() + 120
    while not repos.released and time.monotonic() < until:
        time.sleep(0.05)
    assert repos.released == ["one"]


def test_what_a_child_answers_is_a_strangers_word(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace, repos: Repos
) -> None:
    """Nothing that a damaged child can say raises in the parent, or books another model."""
    monkeypatch.setattr(prober, "Child", partial(runners.Child, command=LYING, grace_seconds=0.0))
    ends = {
        **dict.fromkeys(("unknown", "odd-id", "odd-phase", "another", "twice", "healthy"), "ok"),
        **dict.fromkeys(("not-json", "a-list", "long", "endless", "deep", "binary"), "crashed"),
        **dict.fromkeys(("empty", "none", "no-such-status", "eligible", "list-status"), "crashed"),
        **dict.fromkeys(("words", "huge", "nested"), "crashed"),
        "escapes": "load_error",
    }
    for name in ends:
        (repos.root / name).mkdir(parents=True)
        repos.list(name)
    summary = _probe(workspace, repos)
    rows = {row["repo_id"]: row for row in workspace.attempts().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == ends
    assert summary.attempted == summary.ok + summary.skipped + summary.failed == len(ends)
    assert {row["outcome"] for row in rows.values()} == {"ok", "failed"}
    assert all(row["attempt"] == 1 and row["sha"] == "a" * 40 and row["rank"] == 0 for row in rows.values())
    assert {row["run_id"] for row in rows.values()} == {summary.run_id}
    assert rows["another"]["outcome"] == "ok"
    assert rows["another"]["seconds_fetch"] >= 0
    assert rows["escapes"]["reason"].isprintable()
    assert len(rows["escapes"]["reason"]) <= 500
    assert not list(workspace.attempts_dir.glob(".*"))


@pytest.mark.usefixtures("mortal")
def test_what_a_library_prints_is_no_answer_and_is_disarmed(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], workspace: Workspace, repos: Repos
) -> None:
    repos.vit("speaks")
    with caplog.at_level("INFO", logger="probing.child.runners"):
        _probe(workspace, repos)
    assert by_repo(workspace.attempts().to_pylist(), "status") == {"speaks": "ok"}
    said = [record.getMessage() for record in caplog.records if "the models' process:" in record.getMessage()]
    assert any("cleared bidi" in line for line in said)
    assert any("forged" in line for line in said), "what goes to stdout is heard, and is no answer"
    assert all(line.isprintable() and len(line) < 500 for line in said)
    assert 10 < len(said) <= 2 * runners.LINES_PER_MINUTE
    shown = capfd.readouterr()
    assert "\x1b" not in shown.out + shown.err
    assert "forged" not in shown.out


@pytest.mark.usefixtures("mortal")
def test_what_a_dead_child_had_half_made_goes_with_it(workspace: Workspace, repos: Repos) -> None:
    repos.vit("litters")
    _probe(workspace, repos)
    assert by_repo(workspace.attempts().to_pylist(), "status") == {"litters": "crashed"}
    assert not list(workspace.root.rglob(".tmp-*"))
    assert not list(Path(tempfile.gettempdir()).glob(f"hubprobe-*/from-{zlib.crc32(str(workspace.root).encode())}"))
