"""Start several prober processes on this machine through ``accelerate launch``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workspace.errors import HubprobeError

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
