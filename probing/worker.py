"""The child process that runs models, and its parent's handle on it.

A stranger's weights can end a process: a kernel that faults, memory that runs out, a loop that never returns. So they
run in a child, and the parent, which fetches and books, sees how the child ended. Jobs and results are JSON lines.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from probing.attempts import Attempt
from probing.single import Settings, run_to_end
from workspace import ModelError, Status, Workspace

_log = logging.getLogger(__name__)

TRIES = 2
"""Deaths of the child after which a model is booked as crashed: the first may have been the machine's doing."""

START_SECONDS = 300.0
"""Longest start of a child: importing torch and transformers from a cold network disk."""

GRACE_SECONDS = 20.0
"""Time past its deadline that a model has to notice it by itself, between two batches, before it is killed."""

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # each batch runs on one thread: see probing.forward
    # Keep freed memory: activations of tens of megabytes would else be mapped, zeroed and unmapped again at every
    # layer. EfficientNet-Lite0, batch 64, one thread: 68 ms of processor time per image without, 30 ms with.
    "MALLOC_MMAP_THRESHOLD_": str(2**32),
    "MALLOC_TRIM_THRESHOLD_": str(2**32),
}
"""What the child's environment sets; glibc reads its own before the first line of Python runs."""

ROW_KEYS = ("id2label",)
"""What the child needs of a catalog row."""


class Child:
    """Runs models in a child process, one at a time; a new child is started when the last one died."""

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        command: Sequence[str] = (sys.executable, "-m", "probing.worker"),
    ) -> None:
        self._workspace, self._settings, self._command = workspace, settings, command
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()

    def run(self, attempt: Attempt, row: Mapping[str, Any], folder: Path) -> None:
        """Run the model in ``folder`` to its end; the attempt says which, also when it ended the child."""
        given = dict(attempt.fields)
        for tries in range(1, TRIES + 1):
            fields = {k: v for k, v in given.items() if k != "started_at"}
            try:
                self._start()
                self._send({"fields": fields, "row": {k: row.get(k) for k in ROW_KEYS}, "folder": str(folder)})
                result = self._receive(self._settings.seconds_per_model + GRACE_SECONDS)
            except _TooLongError:
                self.close()
                limit = self._settings.seconds_per_model
                attempt.end(ModelError(Status.TIMEOUT, f"did not end within {limit:.0f} s and was stopped"))
                return
            if result is not None:
                attempt.fields |= result["fields"]
                return
            how = self._how_it_died()
            _log.warning("%s ended its process (%s), time %d of %d", given["repo_id"], how, tries, TRIES)
        attempt.end(ModelError(Status.CRASHED, f"ended the process that ran it, {TRIES} times ({how})"))

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process = None

    def _start(self) -> None:
        if self._process is not None:
            return
        path = os.pathsep.join(p for p in [str(Path(__file__).parent.parent), *sys.path] if p)
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._lines = queue.Queue()
        assert self._process.stdout is not None
        threading.Thread(target=_pump, args=(self._process.stdout, self._lines), daemon=True).start()
        self._send({"root": str(self._workspace.root), "settings": asdict(self._settings)})
        try:
            ready = self._receive(START_SECONDS)
        except _TooLongError:
            ready = None
        if ready is None:
            raise RuntimeError(f"the process that runs models could not be started: {self._how_it_died()}")

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            _log.debug("the child is gone")  # seen, and counted, by the one who waits for its answer

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None when the child is gone."""
        try:
            return self._lines.get(timeout=seconds)
        except queue.Empty:
            raise _TooLongError from None

    def _how_it_died(self) -> str:
        assert self._process is not None
        process = self._process
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, as the kernel does when memory runs out" if name == "SIGKILL" else name


class _TooLongError(Exception):
    """The child has not answered in time."""


def _pump(stream: IO[bytes], lines: queue.Queue[dict[str, Any] | None]) -> None:
    try:
        for line in stream:
            lines.put(json.loads(line))
    except (ValueError, OSError) as error:
        _log.debug("reading the child's answers: %r", error)
    lines.put(None)


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


def _import_early() -> None:
    """Import what every model needs, so that no model's seconds and no deadline count it."""
    import timm  # noqa: F401
    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: F401

    torch.set_num_threads(1)


def main() -> None:
    """Serve jobs from stdin until it closes. Nothing but answers may reach the real stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    _volunteer()

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message).encode() + b"\n")
        answers.flush()

    first = json.loads(sys.stdin.readline())
    _import_early()
    workspace, settings = Workspace(first["root"]), Settings(**first["settings"])
    answer({"ready": os.getpid()})
    for line in sys.stdin:
        job = json.loads(line)
        fields = job["fields"]
        attempt = Attempt(fields.pop("repo_id"), fields.pop("sha"), fields.pop("attempt"), **fields)
        run_to_end(workspace, Path(job["folder"]), attempt, job["row"], settings)
        answer({"fields": {k: v for k, v in attempt.fields.items() if k != "started_at"}})


if __name__ == "__main__":
    main()
