"""Several processes are started by a launcher: what it is told, and what is said when one of them fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hubprobe.machine import TerminatedError, as_arguments, probe_with_workers
from workspace import HubprobeError


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Python that notes how it was started and ends with the code in ``code``."""
    program = tmp_path / "python"
    note = f'echo "$OMP_NUM_THREADS $HF_ENDPOINT $*" > {tmp_path}/log'
    program.write_text(f"#!/bin/sh\n{note}\nexit $(cat {tmp_path}/code)")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    (tmp_path / "code").write_text("0")
    return tmp_path


def test_it_starts_the_verb_in_so_many_processes(launcher: Path) -> None:
    given = as_arguments({"max_labels": 7, "quiet": True, "adaptive": False, "limit": None})
    probe_with_workers(launcher / "w", 2, given, HF_ENDPOINT="http://127.0.0.1:9")
    threads, endpoint, *words = (launcher / "log").read_text().split()
    assert int(threads) >= 1
    assert endpoint == "http://127.0.0.1:9"
    assert words[:2] == ["-m", "accelerate.commands.launch"]
    assert words[words.index("--num_processes") + 1] == "2"
    assert "--multi_gpu" in words
    assert words[words.index("--module") :] == [
        "--module", "hubprobe", "probe", "--workspace", str(launcher / "w"), "--max-labels", "7", "--quiet",
    ]  # fmt: skip


def test_its_failure_is_a_sentence_that_says_how_to_go_on(launcher: Path) -> None:
    (launcher / "code").write_text("3")
    with pytest.raises(HubprobeError, match="exit code 3; what was committed stays") as caught:
        probe_with_workers(launcher / "w", 2)
    assert f"run 'hubprobe probe --workspace {launcher / 'w'} --workers 2' again" in str(caught.value)


class Launched:
    """A launcher that is interrupted while it is waited for; it may take longer to end than is waited."""

    def __init__(self, error: BaseException, late: bool) -> None:
        self.error, self.late, self.told = error, late, list[str]()

    def wait(self, seconds: float | None = None) -> int:
        if seconds is None:
            raise self.error
        if self.late:
            raise subprocess.TimeoutExpired("launch", seconds)
        return 0

    def terminate(self) -> None:
        self.told.append("terminate")

    def kill(self) -> None:
        self.told.append("kill")


@pytest.mark.parametrize(
    ("error", "late", "told"),
    [
        (KeyboardInterrupt(), False, []),  # the terminal tells them
        (TerminatedError(), False, ["terminate"]),
        (TerminatedError(), True, ["terminate", "kill"]),
        (KeyboardInterrupt(), True, ["kill"]),
    ],
)
def test_who_is_told_to_end_tells_the_launcher_and_waits_for_it(
    error: BaseException, late: bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched = Launched(error, late)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: launched)
    with pytest.raises(type(error)):
        probe_with_workers(tmp_path, 2)
    assert launched.told == told
