"""``probe`` told to end, or killed, while models run: what is left behind, and what is said."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import crawler
import probing
from hubprobe import front
from hubprobe.demo import tiny
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from probing import inflight
from tests.hubs.faults import Fault, Faults, held
from tests.probing.conftest import png
from workspace import Config, Workspace

LINUX = sys.platform.startswith("linux")
MODELS = 8


@pytest.fixture
def stopped() -> Iterator[threading.Event]:
    """Set when what ran has ended: until then the hub gives only some models away, so that it is in the middle."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def ready(tmp_path: Path, names: Path, stopped: threading.Event) -> Iterator[Workspace]:
    """A workspace with probes and a catalog of some models, and a hub that serves them."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(12):
        (pictures / f"{i}.png").write_bytes(png(i))
    weights = [{"model.safetensors": tiny.safetensors(tiny.weights(seed=i))} for i in range(MODELS)]
    repos = [Repo.of(f"acme/m{i}", tiny.files() | of) for i, of in enumerate(weights)]
    with HubServer(repos) as hub:
        workspace = Workspace.create(tmp_path / "work", Config(endpoint=hub.url))
        probing.probes.build(workspace, pictures, n=12, progress=False)
        shutil.copytree(names, workspace.cache_dir, dirs_exist_ok=True)
        crawler.crawl(workspace, progress=False)
        hub.intercept = Faults(Fault(held(stopped), match="GET /repos/", times=None, skip=3))
        yield workspace


def _start(workspace: Workspace, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "hubprobe", "probe", "--workspace", str(workspace.root), "--quiet", *options]
    environment = {**os.environ, "PYTHONPATH": str(Path(probing.__file__).parents[1])}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        # where these tests run in the background they ignore SIGINT, and what they start would, too
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def _wait(true: Callable[[], object], seconds: float = 240) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def _marks(workspace: Workspace) -> list[Path]:
    return list(workspace.attempts_dir.glob(f"{inflight.PREFIX}*"))


def _children(pid: int) -> list[int]:
    """Return the living descendants of a process."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found += [int(status.parent.name), *_children(int(status.parent.name))]
    return found


def _alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


@pytest.mark.skipif(not LINUX, reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_it_puts_away_and_says_so(
    ready: Workspace, stopped: threading.Event, number: signal.Signals
) -> None:
    running = _start(ready)
    _wait(lambda: _marks(ready))
    children = _children(running.pid)
    assert children
    running.send_signal(number)
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 128 + number
    assert "run the same command again to go on" in said
    assert "Traceback" not in said
    assert not _marks(ready)
    (manifest,) = ready.runs_dir.glob("*-probe-*.json")
    told = json.loads(manifest.read_text())
    assert told["settings"]["interrupted"] is True
    assert told["attempted"] == told["ok"] + told["skipped"] + told["failed"] < MODELS
    _wait(lambda: not _alive(children), 60)
    stopped.set()
    front.probe(ready, progress=False, isolate=False)  # the same again, here: another process would import all anew
    assert {row["status"] for row in ready.attempts().to_pylist()} == {"ok"}
    assert ready.attempts().num_rows == MODELS


@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_the_child_ends_with_its_parent_and_says_nothing(ready: Workspace) -> None:
    running = _start(ready)
    _wait(lambda: _marks(ready))
    children = _children(running.pid)
    running.kill()
    said = running.communicate(timeout=300)[1]
    assert "Traceback" not in said
    _wait(lambda: not _alive(children), 60)
    assert _marks(ready), "what was in flight is known to the next run"


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="reads /proc")
def test_workers_are_told_too(ready: Workspace) -> None:
    running = _start(ready, "--workers", "2")
    _wait(lambda: len(_marks(ready)) > 1)
    children = _children(running.pid)
    running.terminate()
    said = running.communicate(timeout=300)[1]
    assert running.returncode == 128 + signal.SIGTERM, said
    _wait(lambda: not _alive(children), 60)
    assert not _marks(ready)
