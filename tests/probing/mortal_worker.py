"""A worker whose models do to it what strangers' models may do, by the name of their folder; they compute nothing."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from probing import single, worker


def prepare(workspace: Any, folder: Path, attempt: Any, settings: Any) -> Any:
    if folder.name.startswith("faults"):
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    if folder.name.startswith("hangs"):
        with attempt.phase("preprocess" if folder.name.endswith("preprocess") else "load"):
            time.sleep(600)
    if folder.name.startswith("once"):
        mark = folder / "was-here"
        if not mark.exists():
            mark.touch()
            os._exit(3)


def execute(_: Any, prepared: Any, attempt: Any, settings: Any) -> str:
    time.sleep(0.05)
    attempt.fields["probes_run"] = settings.n_probes
    return "outputs"


if __name__ == "__main__":
    single.prepare = prepare
    single.execute = execute  # type: ignore[assignment]
    single.store = lambda *_: None  # type: ignore[assignment]
    worker.import_early = lambda: None
    worker.main()
