"""Where models run: in this process, or in a child that may die of them. Both put what happens on one queue."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import IO, Any

import pyarrow as pa

from probing import attempts, inflight
from probing.child import walls
from probing.model.single import WINDOW, Job, Stages
from probing.settings import Settings
from workspace import ModelError, Status, Workspace, records
from workspace.text import printable

_log = logging.getLogger(__name__)

TRIES = 2
"""Deaths of the child after which a model is booked as crashed: the first may have been the machine's doing."""

START_SECONDS = 300.0
"""Longest start of a child: importing torch and transformers from a cold network disk."""

GRACE_SECONDS = 20.0
"""Time past its deadline that a model has to notice it by itself, between two batches, before it is killed."""

MAX_ANSWER = 1024**2
"""Longest message of a child, in bytes; the longest honest one is a few kilobytes."""

MAX_LINE = 4096
"""Longest line of a child's stderr that is taken for one, in bytes."""

LINES_PER_MINUTE = 60
"""Lines of a child's stderr that are logged: what a library says there may be a repository's text."""

ROW_KEYS = ("id2label",)
"""What the child needs of a catalog row."""

Event = Any
"""What a runner puts on the queue and takes back in ``handle``; whoever runs the loop need not look inside."""


class InProcess:
    """Runs models in this very process: quick to start and easy to debug, but a model's crash is ours."""

    def __init__(self, workspace: Workspace, settings: Settings, events: queue.Queue[Event]) -> None:
        self._inside = 0
        self._stages = Stages(workspace, settings, lambda _job, _phase: None, events.put)  # nobody watches

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
    that ends its process alone, too, is booked as ``crashed``. What the child says is a stranger's word, too: it is
    bounded, and only what can be booked is.

    A model that lies outside the workspace costs a start of the child, which may read nothing else but what it is told
    at its start.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        events: queue.Queue[Event],
        command: Sequence[str] = (sys.executable, "-m", "probing.child.worker"),
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        self._workspace, self._settings, self._events = workspace, settings, events
        self._command, self._grace = command, grace_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._home: tempfile.TemporaryDirectory[str] | None = None
        self._readable = [workspace.root.absolute()]
        self._inside: dict[str, _Inside] = {}
        self._alone: deque[_Inside] = deque()
        self._started = 0.0
        self._ready = False
        self._talk = _Talk()
        self._start()  # imports take seconds: let them begin while the first model is fetched

    def free(self) -> int:
        """Return how many more jobs may be submitted now; none while suspects are run alone."""
        alone = self._alone or any(inside.deaths for inside in self._inside.values())
        return 0 if alone else WINDOW - len(self._inside)

    def submit(self, job: Job) -> None:
        """Take a job."""
        folder = job.folder.absolute()
        if not any(folder.is_relative_to(known) for known in self._readable):
            self._readable.append(folder.parent)
            self._start_anew()
        self._put(_Inside(job))

    def handle(self, event: Event) -> list[Job]:
        """Take note of a message of the child, or of its death; return the jobs that have come to their end by it."""
        process, message = event
        if process is not self._process:  # of a child that was stopped
            return []
        if message is None:
            return self._after_death()
        if "ready" in message:
            self._ready = True
            _log.info("the models' process stands behind: %s", printable(message.get("walls"), 200))
            return []
        inside = self._inside.get(str(message.get("id")))
        if inside is None:
            _log.warning("the models' process spoke of a model that it was not given")
            return []
        if "phase" in message:
            now = monotonic()
            if inside.phase is not None:
                inside.spent += now - inside.since
            inside.phase, inside.since = _phase(message["phase"]), now
            return []
        del self._inside[inside.job.attempt.stem]
        _end(inside.job.attempt, message.get("fields"))
        self._next_alone()
        return [inside.job]

    def tick(self) -> list[Job]:
        """Stop the child when a model in it is past its deadline; return that model, its end booked."""
        now = monotonic()
        if not self._ready and self._inside and now - self._started > START_SECONDS:
            raise RuntimeError(f"the process that runs models did not start within {START_SECONDS:.0f} s")
        asked = [(inside, inside.overdue(self._settings, self._grace)) for inside in self._inside.values()]
        late = [(inside, reason) for inside, reason in asked if reason is not None]
        for inside, reason in late:
            del self._inside[inside.job.attempt.stem]
            inside.job.attempt.fields["ended_in"] = inside.phase
            inside.job.attempt.end(ModelError(Status.TIMEOUT, reason))
        if late:
            self._start_anew()
        return [inside.job for inside, _ in late]

    def _start_anew(self) -> None:
        """Stop the child and start another; the models inside did nothing, and are run again as they were."""
        self.close()
        others = list(self._inside.values())
        self._inside.clear()
        self._start()
        for other in others:
            self._put(_Inside(other.job, other.deaths))

    def _after_death(self) -> list[Job]:
        how, ready = self._how_it_died(), self._ready
        suspects = list(self._inside.values())
        self._inside.clear()
        if not ready:
            last = "".join(f"\n  {line}" for line in self._talk.last)
            raise RuntimeError(f"the process that runs models could not be started: {how}{last}")
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
        row = {k: job.row.get(k) for k in ROW_KEYS}
        self._send({"fields": fields, "row": row, "folder": str(job.folder.absolute())})

    def _start(self) -> None:
        self._home = tempfile.TemporaryDirectory(prefix="hubprobe-", ignore_cleanup_errors=True)
        self._ready, self._started, self._talk = False, monotonic(), _Talk()
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=walls.environment(os.environ, Path(self._home.name)),
        )
        process = self._process
        assert process.stdout is not None
        assert process.stderr is not None
        for work in ((_pump, process, process.stdout, self._events), (self._talk.listen, process.stderr)):
            threading.Thread(target=work[0], args=work[1:], daemon=True, name="child").start()
        first = {"root": str(self._workspace.root.absolute()), "settings": asdict(self._settings)}
        self._send(first | {"readable": [str(folder) for folder in self._readable], "parent": os.getpid()})

    def _send(self, message: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # its death is already on the queue, or will be
            self._process.stdin.write(json.dumps(message).encode() + b"\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """End the child, whatever it is doing."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        with suppress(BrokenPipeError):
            if process.stdin is not None:
                process.stdin.close()
        if self._home is not None:
            self._home.cleanup()
        inflight.sweep(self._workspace, process.pid)

    def _how_it_died(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            code = 0
        self.close()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, as the kernel does when memory runs out" if name == "SIGKILL" else name


def _pump(process: subprocess.Popen[bytes], stream: IO[bytes], events: queue.Queue[Event]) -> None:
    """Put the child's messages on the queue, and None at its end; one that says what cannot be read is ended."""
    try:
        with stream:
            while line := stream.readline(MAX_ANSWER):
                message = json.loads(line)
                if not isinstance(message, dict):
                    raise ValueError("not an object")
                events.put((process, message))
    except (ValueError, OSError, RecursionError) as error:
        _log.warning("the models' process answers what cannot be read (%s)", printable(error, 200))
        process.kill()
    events.put((process, None))


def _phase(value: object) -> str | None:
    return value if isinstance(value, str) and value in attempts.PHASES else None


def _end(attempt: attempts.Attempt, answered: object) -> None:
    """Book what the child says of an attempt; ``crashed`` where it is nothing that can be booked.

    Who the model is, and what was known before it was run, is not the child's to say.
    """
    before = dict(attempt.fields)
    try:
        told = dict(answered) if isinstance(answered, dict) else {}
        known = {k: v for k, v in told.items() if k in records.ATTEMPTS.names and k not in before}
        status = Status(str(told.get("status")))
        known |= {"status": status.value, "outcome": status.outcome.value, "ended_in": _phase(told.get("ended_in"))}
        known["reason"] = printable(told.get("reason") or "", attempts.MAX_REASON)
        attempts.table([before | known])
        attempt.fields |= known
    except (ArithmeticError, TypeError, ValueError, pa.ArrowException) as error:
        attempt.fields = before
        attempt.end(ModelError(Status.CRASHED, f"its process answered what cannot be booked ({error})"))


class _Talk:
    """What a child writes to its stderr: libraries' words, with a repository's own in them, disarmed and bounded."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=8)

    def listen(self, stream: IO[bytes]) -> None:
        """Log each line until the stream ends."""
        shown = left_out = 0
        since = monotonic()
        with stream:
            while part := stream.readline(MAX_LINE):
                if not (line := printable(part.decode("utf-8", "replace"), 400)):
                    continue
                self.last.append(line)
                if monotonic() - since > 60:
                    if left_out:
                        _log.info("the models' process said %d lines more", left_out)
                    shown, left_out, since = 0, 0, monotonic()
                if shown < LINES_PER_MINUTE:
                    _log.info("the models' process: %s", line)
                    shown += 1
                else:
                    left_out += 1
