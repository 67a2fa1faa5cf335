"""Start several prober processes on this machine through ``accelerate launch``."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workspace.errors import HubprobeError

OUR_RANK = "RANK"
"""Set by the launcher in every process it starts; unset in a process started by hand."""


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

    Args:
        workspace: folder of the workspace.
        workers: processes on this machine; one per GPU is the rule.
        arguments: further options of ``hubprobe probe``.
        **environment: variables to set, such as ``HF_ENDPOINT``.

    Raises `HubprobeError` when a process ended with an error; what it committed stays.

    """
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(workers), "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", "0", "--module", "hubprobe", "probe", "--workspace", str(workspace), *arguments]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": _threads(workers), **environment}, check=False)
    if done.returncode != 0:
        raise HubprobeError(
            f"a prober process ended with exit code {done.returncode}; what was committed stays: "
            f"run 'hubprobe probe --workspace {workspace} --workers {workers}' again to go on"
        )


def _threads(workers: int) -> str:
    """Share the cores among the processes, so that they do not fight for them."""
    return str(max(1, (os.cpu_count() or 1) // workers))
