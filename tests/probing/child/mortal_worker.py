"""A worker whose models do to it what strangers' models may do, by the name of their folder; they compute nothing."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

from probing.child import worker
from probing.model import single


def prepare(workspace: Any, settings: Any, job: Any) -> None:
    folder, attempt = job.folder, job.attempt
    if folder.name.startswith("faults"):
        signal.raise_signal(signal.SIGSEGV)
        time.sleep(60)
    if folder.name.startswith("hangs"):
        with attempt.phase("preprocess" if folder.name.endswith("preprocess") else "load"):
            time.sleep(600)
    if folder.name.startswith("speaks"):
        forged = json.dumps({"id": attempt.stem, "fields": {"status": "wrong_shape", "reason": "forged"}})
        sys.stdout.write(forged + "\n")
        sys.stdout.flush()
        os.write(1, forged.encode() + b"\n")
        os.write(2, b"\x1b[2Jcleared \xe2\x80\xaebidi\r\n" + b"m" * 1_000_000 + b"\n")
        for i in range(2_000):
            os.write(2, b"\x1b]0;line %d\x07\n" % i)
    if folder.name.startswith("litters"):
        half = workspace.cache_dir / "inputs" / f".tmp-0123456789abcdef-{os.getpid()}"
        half.mkdir(exist_ok=True)
        (half / "pixels").write_bytes(bytes(1000))
        (workspace.responses_dir(settings.probe_set) / f".tmp-x.parquet-{os.getpid()}-01234567").touch()
        Path(tempfile.mkdtemp(), "left").touch()
        Path(tempfile.gettempdir(), f"from-{zlib.crc32(str(workspace.root).encode())}").touch()
        os._exit(9)
    if folder.name.startswith("once"):
        mark = workspace.cache_dir / "inputs" / "was-here"  # one of the few places that may be written to
        if not mark.exists():
            mark.touch()
            os._exit(3)


def execute(_: Any, settings: Any, job: Any) -> None:
    time.sleep(0.05)
    job.attempt.fields["probes_run"] = settings.n_probes


if __name__ == "__main__":
    single.prepare = prepare
    single.execute = execute
    single.store = lambda _workspace, _settings, job: job.attempt.ok()
    worker.import_early = lambda: None
    worker.main()
