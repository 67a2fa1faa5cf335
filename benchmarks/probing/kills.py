"""Kills of everything that can be killed: a rank, the launcher, all at once; then one run to the end, compared."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no",
          "--dynamo_backend", "no")  # fmt: skip


def kill_and_compare(workspaces: list[Any], script: Path, environment: dict[str, str]) -> str:
    """Disturb the first workspace's run three times; return in words how its rows compare with the second's."""
    disturbed, quiet = workspaces
    count = len(json.loads((disturbed.root / "models.json").read_text()))
    for victim in ("rank", "launcher", "all"):
        before = _committed(disturbed)
        command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, str(script), str(disturbed.root)]
        launcher = subprocess.Popen(
            command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while _committed(disturbed) < min(before + 3, count - 1) and launcher.poll() is None:
            time.sleep(0.05)
        ranks = _descendants(launcher.pid)
        if victim == "rank":
            os.kill(ranks[-1], signal.SIGKILL)
        elif victim == "launcher":
            launcher.kill()
        else:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        time.sleep(5)  # whoever has lost its launcher notices
        for pid in ranks:
            _end(pid)
    for workspace in (disturbed, quiet):
        subprocess.run([sys.executable, str(script), str(workspace.root)], env=environment, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    rows = [w.responses().sort_by([("repo_id", "ascending"), ("logit", "ascending")]) for w in workspaces]
    history = disturbed.attempts(["repo_id"], history=True).num_rows
    same = "the same rows" if rows[0].equals(rows[1]) else "OTHER ROWS"
    return f"{same}, {history} attempts for {count} models"


def _committed(workspace: Any) -> int:
    return len(list(workspace.attempts_dir.glob("*.parquet"))) if workspace.attempts_dir.is_dir() else 0


def _descendants(pid: int) -> list[int]:
    """Return the Python processes that ``pid`` started, by themselves the ranks."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(child) for child in children]


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
