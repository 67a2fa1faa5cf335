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
from probing.single import Settings
from probing.stages import Job, Stages
from workspace import Workspace

_log = logging.getLogger(__name__)


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
    stages = Stages(
        Workspace(first["root"]),
        Settings(**first["settings"]),
        entered=lambda job, stage: answer(id=job.attempt.stem, stage=stage),
        left=lambda job, stage: answer(id=job.attempt.stem, left=stage),
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
