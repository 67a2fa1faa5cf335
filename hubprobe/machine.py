"""What scripts and schedulers rely on: exit codes, and stderr as a JSON object a line."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from datetime import datetime, timezone
from enum import IntEnum
from typing import Any

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
