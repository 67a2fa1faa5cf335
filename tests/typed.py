"""The command line, run in this process: a process of its own would spend a second and more on importing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from hubprobe.cli import main


def hubprobe(*words: str) -> subprocess.CompletedProcess[str]:
    """Do what ``hubprobe WORDS`` does, and return its exit code and what it wrote; all that it sets is taken back."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    told = signal.getsignal(signal.SIGTERM)
    try:
        with (
            patch.object(sys, "argv", ["hubprobe", *words]), patch.dict(os.environ),
            redirect_stdout(out), redirect_stderr(err),
        ):  # fmt: skip
            main()
    except SystemExit as end:
        code = end.code
    finally:
        signal.signal(signal.SIGTERM, told)
    said, complained = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return subprocess.CompletedProcess(list(words), int(code or 0), said, complained)
