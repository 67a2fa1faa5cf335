"""What scripts and schedulers rely on: exit codes, signals, stderr as a JSON object a line, several processes."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from enum import IntEnum
from pathlib import Path
from typing import Any

from workspace.errors import HubprobeError

LOG_FORMAT = "HUBPROBE_LOG_FORMAT"
"""Variable that says how stderr is written; set by ``--log-format``, so that processes started by a verb follow."""

BAR_SECONDS = 10.0
"""Between two lines about one bar."""


class Exit(IntEnum):
    """How a command ended. The same command goes on, or does nothing when there is nothing left to do."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Exit:  # noqa: PYI034 - Self needs Python 3.11
        """Return the member of ``value``."""
        made = int.__new__(cls, value)
        made._value_, made.meaning = value, meaning
        return made

    DONE = 0, "done; `doctor` and `run --dry-run`: nothing fails"
    FAILED = 1, "a failure, in one sentence on stderr that says what to do; `doctor`: something fails"
    USAGE = 2, "wrong usage: an unknown verb, option or value"
    INTERRUPTED = 130, "Ctrl-C (SIGINT); what was committed stays"
    TERMINATED = 143, "SIGTERM, as schedulers send it; what was committed stays"


def wants_json() -> bool:
    """Return whether stderr is to be JSON lines."""
    return os.environ.get(LOG_FORMAT) == "json"


def say(event: str, **fields: Any) -> None:
    """Write one line to stderr: ``time`` (UTC), ``event``, and what belongs to it."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": now, "event": event, **fields}, default=str) + "\n")
    sys.stderr.flush()


class Lines(logging.Handler):
    """Writes what is logged as JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record; ``event`` is ``log``."""
        fields = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            fields["traceback"] = logging.Formatter().formatException(record.exc_info)
        say("log", **fields)


def bars_as_lines() -> None:
    """Have every progress bar write lines in place of drawing: ``what``, ``done``, ``total``, ``unit``, ``seconds``."""
    from tqdm import std

    bar: Any = std.tqdm
    begin = bar.__init__

    def begin_lines(self: Any, *args: Any, **options: Any) -> None:
        ours = {"file": io.StringIO(), "mininterval": BAR_SECONDS, "maxinterval": BAR_SECONDS, "leave": True}
        if options.get("disable") is None:  # which means: unless stderr is a terminal
            ours["disable"] = False
        begin(self, *args, **options | ours)

    def line(self: Any, *_: Any, **__: Any) -> None:
        state = self.format_dict
        if state["n"] or self.total:
            note = {"note": state["postfix"]} if state["postfix"] else {}
            seconds = round(state["elapsed"], 1)
            what = (self.desc or "").rstrip(": ")
            say("progress", what=what, done=state["n"], total=self.total, unit=state["unit"], seconds=seconds, **note)

    bar.__init__, bar.display = begin_lines, line


OUR_RANK = "RANK"
"""Set by the launcher in every process it starts; unset in a process started by hand."""

STOP_SECONDS = 60.0
"""What the processes may take to put their work away when they are told to end."""


class TerminatedError(KeyboardInterrupt):
    """The process was told to end (SIGTERM): put away as on Ctrl-C, and run again to go on."""


def end_as_on_interrupt() -> None:
    """Have SIGTERM, which schedulers and container runtimes send, end a verb as Ctrl-C does. Once: a second is lost."""

    def terminate(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise TerminatedError

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def is_first_process() -> bool:
    """Return whether this process speaks for all: the only one, or rank 0 of several."""
    return os.environ.get(OUR_RANK, "0") == "0"


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Return options as a command line: None and False are left out, True is a flag."""
    arguments: list[str] = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, str(value)]
    return arguments


def probe_with_workers(workspace: Path, workers: int, arguments: Sequence[str] = (), **environment: str) -> None:
    """Run ``hubprobe probe`` in ``workers`` processes and wait for them; rank 0 writes to our stdout.

    ``--multi_gpu`` is right without a GPU too: with ``--cpu``, accelerate silently starts a single process.
    ``arguments`` are further options, ``environment`` variables to set, such as ``HF_ENDPOINT``.

    Raises `HubprobeError` when a process ended with an error; what it committed stays.
    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(workers), "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "--module", "hubprobe", "probe", "--workspace", str(workspace), *arguments]
    # the cores are shared among the processes, so that they do not fight for them
    own = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // workers))}
    process = subprocess.Popen(command, env=own | environment)
    try:
        code = process.wait()
    except KeyboardInterrupt as error:
        if isinstance(error, TerminatedError):  # Ctrl-C reaches them by the terminal
            process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    if code != 0:
        raise HubprobeError(
            f"a prober process ended with exit code {code}; what was committed stays: "
            f"run 'hubprobe probe --workspace {workspace} --workers {workers}' again to go on"
        )
