"""Where models run: in this process, or in a child that may die of them. Both put what happens on one queue."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any, Protocol

from probing.settings import Settings
from probing.stages import Job, Stages
from probing.worker import ENVIRONMENT, SECRETS
from workspace import ModelError, Status, Workspace

_log = logging.getLogger(__name__)

TRIES = 2
"""Deaths of the child after which a model is booked as crashed: the first may have been the machine's doing."""

WINDOW = 3
"""Models in a runner at once: one that is loaded, one that runs, one that is written."""

START_SECONDS = 300.0
"""Longest start of a child: importing torch and transformers from a cold network disk."""

GRACE_SECONDS = 20.0
"""Time past its deadline that a model has to notice it by itself, between two batches, before it is killed."""

ROW_KEYS = ("id2label",)
"""What the child needs of a catalog row."""

Event = Any
"""What a runner puts on the queue and takes back in `Runner.handle`; whoever runs the loop need not look inside."""


class Runner(Protocol):
    """Runs models, several at once; what happens arrives on its queue and is handed back to `handle`."""

    def free(self) -> int:
        """Return how many more jobs may be submitted now."""
        ...

    def submit(self, job: Job) -> None:
        """Take a job."""
        ...

    def handle(self, event: Event) -> list[Job]:
        """Take note of an event; return the jobs that have come to their end by it."""
        ...

    def tick(self) -> list[Job]:
        """Return the jobs ended by their deadline. Call it every second or so."""
        ...

    def close(self) -> None:
        """Give back what it holds, whatever runs."""
        ...


class InProcess:
    """Runs models in this very process: quick to start and easy to debug, but a model's crash is ours."""

    def __init__(self, workspace: Workspace, settings: Settings, events: queue.Queue[Event]) -> None:
        self._inside = 0
        self._stages = Stages(workspace, settings, _ignore, events.put)

    def free(self) -> int:
        """Return how many more jobs may be submitted now."""
        return WINDOW - self._inside

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._inside += 1
        self._stages.submit(job)

    def handle(self, event: Event) -> list[Job]:
        """Return the job that has come to its end."""
        self._inside -= 1
        return [event]

    def tick(self) -> list[Job]:
        """Return nothing: a thread cannot be stopped; deadlines hold between batches."""
        return []

    def close(self) -> None:
        """Finish what was submitted."""
        self._stages.close()


def _ignore(job: Job, phase: str | None) -> None:
    """Note nothing: there is no watchdog in the same process."""


@dataclass
class _Inside:
    """A job in the child: its phase and since when, the time spent in earlier ones, deaths it was in flight at."""

    job: Job
    deaths: int = 0
    phase: str | None = None  # None: it waits for its turn
    since: float = 0.0
    spent: float = 0.0

    def overdue(self, settings: Settings, grace: float) -> str | None:
        """Return the sentence of its end when its phase, or the whole, has taken too long."""
        if self.phase is None:
            return None
        here = monotonic() - self.since
        limit = settings.deadline(self.phase)
        if here > limit + grace:
            return f"hung in {self.phase}: not over after {limit:.0f} s, and was stopped"
        if self.spent + here > settings.seconds_per_model + grace:
            return f"did not end within {settings.seconds_per_model:.0f} s and was stopped in {self.phase}"
        return None


class Child:
    """Runs models in a child process, a new one when the last one died.

    A death while several models are inside says nothing about any of them: each is then run again alone, and a model
    that ends its process alone, too, is booked as ``crashed``.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        events: queue.Queue[Event],
        command: Sequence[str] = (sys.executable, "-m", "probing.worker"),
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._workspace, self._settings, self._events = workspace, settings, events
        self._command, self._grace = command, grace_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._inside: dict[str, _Inside] = {}
        self._alone: deque[_Inside] = deque()
        self._started = 0.0
        self._ready = False
        self._start()  # imports take seconds: let them begin while the first model is fetched

    def free(self) -> int:
        """Return how many more jobs may be submitted now; none while suspects are run alone."""
        alone = self._alone or any(inside.deaths for inside in self._inside.values())
        return 0 if alone else WINDOW - len(self._inside)

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._put(_Inside(job))

    def handle(self, event: Event) -> list[Job]:
        """Take note of a message of the child, or of its death; return the jobs that have come to their end."""
        process, message = event
        if process is not self._process:  # of a child that was stopped
            return []
        if message is None:
            return self._after_death()
        if "ready" in message:
            self._ready = True
            return []
        inside = self._inside[message["id"]]
        if "phase" in message:
            now = monotonic()
            if inside.phase is not None:
                inside.spent += now - inside.since
            inside.phase, inside.since = message["phase"], now
            return []
        del self._inside[message["id"]]
        inside.job.attempt.fields |= message["fields"]
        self._next_alone()
        return [inside.job]

    def tick(self) -> list[Job]:
        """Stop the child when a model in it is past its deadline; return that model, its end booked."""
        now = monotonic()
        if not self._ready and self._inside and now - self._started > START_SECONDS:
            raise RuntimeError(f"the process that runs models did not start within {START_SECONDS:.0f} s")
        asked = [(inside, inside.overdue(self._settings, self._grace)) for inside in self._inside.values()]
        late = [(inside, reason) for inside, reason in asked if reason is not None]
        if not late:
            return []
        self._stop()
        for inside, reason in late:
            del self._inside[inside.job.attempt.stem]
            inside.job.attempt.fields["ended_in"] = inside.phase
            inside.job.attempt.end(ModelError(Status.TIMEOUT, reason))
        others = list(self._inside.values())
        self._inside.clear()
        self._start()
        for other in others:  # they did nothing: they are run again as they were
            self._put(_Inside(other.job, other.deaths))
        return [inside.job for inside, _ in late]

    def close(self) -> None:
        """End the child, whatever it is doing."""
        self._stop()

    def _after_death(self) -> list[Job]:
        how, ready = self._how_it_died(), self._ready
        suspects = list(self._inside.values())
        self._inside.clear()
        if not ready:
            raise RuntimeError(f"the process that runs models could not be started: {how}")
        ended: list[Job] = []
        for suspect in suspects:
            name = suspect.job.attempt.fields["repo_id"]
            suspect.deaths += 1
            _log.warning("%s was in a process that ended (%s), time %d of %d", name, how, suspect.deaths, TRIES)
            if suspect.deaths >= TRIES:
                reason = f"ended the process that ran it, {TRIES} times ({how})"
                suspect.job.attempt.fields["ended_in"] = suspect.phase
                suspect.job.attempt.end(ModelError(Status.CRASHED, reason))
                ended.append(suspect.job)
            else:
                self._alone.append(_Inside(suspect.job, suspect.deaths))
        self._start()
        self._next_alone()
        return ended

    def _next_alone(self) -> None:
        if self._alone and not self._inside:
            self._put(self._alone.popleft())

    def _put(self, inside: _Inside) -> None:
        job = inside.job
        self._inside[job.attempt.stem] = inside
        fields = {k: v for k, v in job.attempt.fields.items() if k != "started_at"}
        self._send({"fields": fields, "row": {k: job.row.get(k) for k in ROW_KEYS}, "folder": str(job.folder)})

    def _start(self) -> None:
        path = os.pathsep.join(p for p in [str(Path(__file__).parent.parent), *sys.path] if p)
        environment = {k: v for k, v in os.environ.items() if k not in SECRETS} | ENVIRONMENT | {"PYTHONPATH": path}
        self._ready, self._started = False, monotonic()
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        assert self._process.stdout is not None
        threading.Thread(
            target=_pump, args=(self._process, self._process.stdout, self._events), daemon=True, name="child"
        ).start()
        self._send({"root": str(self._workspace.root), "settings": asdict(self._settings)})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            _log.debug("the child is gone")  # its death is already on the queue, or will be

    def _stop(self) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        if process.stdin is not None:
            try:
                process.stdin.close()
            except BrokenPipeError:
                _log.debug("the child is gone")

    def _how_it_died(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self._stop()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, as the kernel does when memory runs out" if name == "SIGKILL" else name


def _pump(process: subprocess.Popen[bytes], stream: IO[bytes], events: queue.Queue[Event]) -> None:
    try:
        with stream:
            for line in stream:
                events.put((process, json.loads(line)))
    except (ValueError, OSError) as error:
        _log.debug("reading the child's answers: %r", error)
    events.put((process, None))
