"""The child process that runs models: ``python -m probing.child.worker``. Jobs and answers are JSON lines.

A stranger's weights can end a process: a kernel that faults, memory that runs out, a loop that never returns. So they
run here, behind `probing.child.walls`, and the parent (`probing.child.runners.Child`), which fetches and books, sees
how this process ended.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from probing.attempts import Attempt
from probing.child import walls
from probing.model.single import WINDOW, Job, Stages
from probing.settings import Settings
from workspace import Workspace

_log = logging.getLogger(__name__)


def main() -> None:
    """Serve jobs from stdin until it closes. Nothing but answers may reach the real stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent's to handle; it then ends this process
        signal.signal(number, signal.SIG_IGN)
    lock = threading.Lock()

    def answer(**message: Any) -> None:
        try:
            with lock:
                answers.write(json.dumps(message).encode() + b"\n")
                answers.flush()
        except OSError:  # the parent is gone: nobody waits for what is done here
            os._exit(1)

    def ended(job: Job) -> None:
        fence.strangers.remove(str(job.folder))
        fields = {k: v for k, v in job.attempt.fields.items() if k != "started_at"}
        answer(id=job.attempt.stem, fields=fields)

    first = json.loads(sys.stdin.readline())
    settings, workspace = Settings(**first["settings"]), Workspace(first["root"])
    standing = ["namespace"] if walls.close_network() else []
    walls.die_with_parent(first["parent"])
    if not sys.platform.startswith("linux"):
        threading.Thread(target=_watch, args=(first["parent"],), daemon=True).start()
    with suppress(OSError):  # so that Linux ends this process, not the parent, when memory runs out
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    import_early()
    if settings.device == "cpu":
        bound_memory(settings.memory_bytes)
    fence = _fence(workspace, settings, [Path(folder) for folder in first["readable"]])
    standing += walls.raise_walls(fence, kernel=settings.device == "cpu")
    stages = Stages(
        workspace,
        settings,
        watch=lambda job, phase: answer(id=job.attempt.stem, phase=phase),
        ended=ended,
    )
    answer(ready=os.getpid(), walls=standing)
    for line in sys.stdin:
        message = json.loads(line)
        fields = message["fields"]
        attempt = Attempt(fields.pop("repo_id"), fields.pop("sha"), fields.pop("attempt"), **fields)
        fence.strangers.append(message["folder"])
        bound_time(settings)
        stages.submit(Job(attempt, message["row"], Path(message["folder"])))


def import_early() -> None:
    """Import what every model needs, so that no model's seconds and no deadline count it."""
    import timm  # noqa: F401
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: F401

    torch.set_num_threads(1)


def _fence(workspace: Workspace, settings: Settings, readable: list[Path]) -> walls.Fence:
    """Return what models' code may open: written are pixels, responses, and what is temporary."""
    inputs, responses = workspace.cache_dir / "inputs", workspace.responses_dir(settings.probe_set)
    for folder in (inputs, responses):
        folder.mkdir(parents=True, exist_ok=True)
    write = [inputs, responses, Path(tempfile.gettempdir())]
    if settings.device != "cpu":
        write.append(workspace.cache_dir)  # batches.json
    return walls.Fence(write, [workspace.root, *readable])


def bound_memory(more: int) -> None:
    """Let this process's private memory grow by ``more`` bytes, activations included; beyond is an error, not a death.

    `probing.model.forward.run` answers the error with smaller batches. Files that are mapped, such as preprocessed
    probes, do not count. A device has a bound of its own: its memory.
    """
    try:
        (line,) = [s for s in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmData" in s]
        # libraries map gigabytes that they never touch
        walls.bound("RLIMIT_DATA", 1024 * int(line.split()[1]) + more)
    except (ImportError, OSError, ValueError, OverflowError) as error:  # not on this system
        _log.debug("memory is not bounded: %s", error)


def bound_time(settings: Settings) -> None:
    """Let this process use so much more processor time as the models inside may; beyond it the kernel ends it.

    The parent ends it long before, by the clock: this is for when the parent cannot.
    """
    try:
        more = (settings.threads + WINDOW) * WINDOW * settings.seconds_per_model
        walls.bound("RLIMIT_CPU", int(min(time.process_time() + more + 60, 2**40)))
    except (ImportError, OSError, ValueError) as error:  # not on this system
        _log.debug("processor time is not bounded: %s", error)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


if __name__ == "__main__":
    main()
