"""The child process that runs models: ``python -m probing.worker``. Jobs and answers are JSON lines.

A stranger's weights can end a process: a kernel that faults, memory that runs out, a loop that never returns. So they
run here, and the parent (`probing.runners.Child`), which fetches and books, sees how this process ended.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from probing.attempts import Attempt
from probing.settings import Settings
from probing.stages import Job, Stages
from workspace import Workspace

_log = logging.getLogger(__name__)

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # each batch runs on one thread: see probing.forward
    # Keep freed memory: activations of tens of megabytes would else be mapped, zeroed and unmapped again at every
    # layer. EfficientNet-Lite0, batch 64, one thread: 68 ms of processor time per image without, 30 ms with.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
    "HF_HUB_OFFLINE": "1",  # what a model needs was fetched: its config must not make a library ask for more
}
"""What this process's environment sets; glibc reads its own before the first line of Python runs."""

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
"""What this process's environment leaves out: strangers' models have no use for it."""


def main() -> None:
    """Serve jobs from stdin until it closes. Nothing but answers may reach the real stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    _volunteer()
    lock = threading.Lock()

    def answer(**message: Any) -> None:
        with lock:
            answers.write(json.dumps(message).encode() + b"\n")
            answers.flush()

    def ended(job: Job) -> None:
        fields = {k: v for k, v in job.attempt.fields.items() if k != "started_at"}
        answer(id=job.attempt.stem, fields=fields)

    import_early()
    first = json.loads(sys.stdin.readline())
    settings = Settings(**first["settings"])
    if settings.device == "cpu":
        bound_memory(settings.memory_bytes)
    stages = Stages(
        Workspace(first["root"]),
        settings,
        watch=lambda job, phase: answer(id=job.attempt.stem, phase=phase),
        ended=ended,
    )
    answer(ready=os.getpid())
    for line in sys.stdin:
        message = json.loads(line)
        fields = message["fields"]
        attempt = Attempt(fields.pop("repo_id"), fields.pop("sha"), fields.pop("attempt"), **fields)
        stages.submit(Job(attempt, message["row"], Path(message["folder"])))


def import_early() -> None:
    """Import what every model needs, so that no model's seconds and no deadline count it."""
    import timm  # noqa: F401
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: F401

    torch.set_num_threads(1)


def bound_memory(more: int) -> None:
    """Let this process's private memory grow by ``more`` bytes, activations included; beyond is an error, not a death.

    `probing.forward.run` answers the error with smaller batches. Files that are mapped, such as preprocessed probes,
    do not count. A device has a bound of its own: its memory.
    """
    try:
        import resource

        (line,) = [s for s in Path("/proc/self/status").read_text(encoding="ascii").splitlines() if "VmData" in s]
        most = 1024 * int(line.split()[1]) + more  # libraries map gigabytes that they never touch
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    except (ImportError, OSError, ValueError, OverflowError) as error:  # not on this system
        _log.debug("memory is not bounded: %s", error)


def _exit_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.25)
    os._exit(1)


def _volunteer() -> None:
    """Ask Linux to end this process, not the parent, when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
    except OSError:
        _log.debug("oom_score_adj cannot be set here")


if __name__ == "__main__":
    main()
