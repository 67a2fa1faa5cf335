"""What a model can do to its process, and what its parent makes of it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import probing
from probing import prober, runners
from probing.settings import Settings
from tests.probing.conftest import Repos, by_repo
from workspace import Config, ConfigError, ProbeConfig, Workspace

MORTAL = (sys.executable, str(Path(__file__).with_name("mortal_worker.py")))


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
    assert _probe(workspace, repos, isolate=False).run == 0, "not tried again by itself"
    assert _probe(workspace, repos, isolate=False, retry=["crashed"]).ok == 5


@pytest.mark.usefixtures("mortal")
def test_a_hang_is_stopped_at_its_deadline(tmp_path: Path, workspace: Workspace, repos: Repos) -> None:
    patient = Workspace(workspace.root, Config(probe=ProbeConfig(seconds_per_model=3.0)))
    repos.vit("hangs")
    repos.vit("healthy", seed=1)
    _probe(patient, repos)
    rows = patient.attempts().to_pylist()
    assert by_repo(rows, "status") == {"hangs": "timeout", "healthy": "ok"}
    assert "3 s" in by_repo(rows, "reason")["hangs"]


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


def test_the_child_is_offline_and_knows_no_token(
    monkeypatch: pytest.MonkeyPatch, workspace: Workspace, settings: Settings
) -> None:
    import queue

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said = "import json, os; print(json.dumps([os.environ.get('HF_TOKEN'), os.environ['HF_HUB_OFFLINE']]))"
    events: queue.Queue[Any] = queue.Queue()
    child = runners.Child(workspace, settings, events, command=(sys.executable, "-c", said))
    try:
        assert events.get(timeout=30)[1] == [None, "1"]
    finally:
        child.close()


@pytest.mark.usefixtures("mortal")
def test_each_phase_has_a_deadline(workspace: Workspace, repos: Repos) -> None:
    repos.vit("hangs-preprocess")
    repos.vit("hangs")
    repos.vit("healthy", seed=1)
    _probe(workspace, repos, deadlines={"load": 2.0, "preprocess": 1.0})
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
            over.wait(60)
        return repos.fetch(row)

    probing.probe(workspace, fetch, progress=False, isolate=False, deadlines={"fetch": 1.0})
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {"hangs-1": "timeout", "hangs-2": "timeout", "one": "ok", "two": "ok"}
    assert by_repo(rows, "ended_in")["hangs-1"] == "fetch"
    over.set()
    until = time.monotonic() + 20
    while len(repos.released) < 4 and time.monotonic() < until:
        time.sleep(0.05)
    assert sorted(repos.released) == ["hangs-1", "hangs-2", "one", "two"], "what comes too late is given back"
