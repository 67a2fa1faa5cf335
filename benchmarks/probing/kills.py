"""Kills of a rank, of the launcher, of everything at once, and disks that fill up; then the rows compared."""

from __future__ import annotations

import json
import os
import shutil
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
    history = disturbed.attempts(["repo_id"], history=True).num_rows
    return f"{_compared(workspaces)}, {history} attempts for {count} models"


def _compared(workspaces: list[Any]) -> str:
    order = [("repo_id", "ascending"), ("logit", "ascending")]
    rows = [w.responses().sort_by(order) for w in workspaces]
    return "the same rows" if rows[0].equals(rows[1]) else "OTHER ROWS"


def fill_and_compare(workspaces: list[Any], script: Path, environment: dict[str, str]) -> str:
    """Run the first workspace on a disk that is too small again and again, larger each time, and compare likewise.

    Needs the right to mount a file system in memory, whose size is the disk's.
    """
    cramped, quiet = workspaces
    count = len(json.loads((cramped.root / "models.json").read_text()))
    kept = cramped.root.with_name("kept")
    cramped.root.rename(kept)
    cramped.root.mkdir()
    size = sum(f.stat().st_size for f in kept.rglob("*") if f.is_file()) + 200_000
    _mount(f"size={size}", cramped.root)
    said, full = [], 0
    try:
        shutil.copytree(kept, cramped.root, dirs_exist_ok=True)
        while True:
            done = subprocess.run([sys.executable, str(script), str(cramped.root)], env=environment,
                                  capture_output=True, text=True, check=False)  # fmt: skip
            if done.returncode == 0:
                break
            said.append(done.stderr.strip().splitlines()[-1][:120])
            full += 1
            size = int(size * 1.25)
            _mount(f"remount,size={size}", cramped.root)
        subprocess.run([sys.executable, str(script), str(quiet.root)], env=environment, check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        history = cramped.attempts(["repo_id"], history=True).num_rows
        same = _compared(workspaces)
    finally:
        subprocess.run(["umount", str(cramped.root)], check=True)
    said = [f"{said.count(line)} times {line!r}" for line in dict.fromkeys(said)]
    return f"full {full} times; {same}, {history} attempts for {count} models; {'; '.join(said)}"


def _mount(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


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
