"""The process of one pick: `hubprobe.pick` on a visitor's images, with questions and answers as lines of JSON.

It reads the request from stdin, then an answer for each question; on stdout it asks, and tells what was found. The
parent keeps stdin open: when it is closed, or the parent is gone, the pick ends as on Ctrl-C.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

NICE = 5
"""How much the pick gives way to searches."""


def main() -> None:
    """Answer the one request on stdin."""
    from hubprobe.cli.options import local_offline
    from workspace import HubprobeError

    sink = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not end up among the lines
    if hasattr(os, "nice"):
        os.nice(NICE)
    local_offline()
    request = json.loads(sys.stdin.readline())
    answers: queue.Queue[int | None] = queue.Queue()
    threading.Thread(target=_listen, args=(answers,), daemon=True).start()

    def tell(**message: Any) -> None:
        sink.write(json.dumps(message) + "\n")
        sink.flush()

    def ask(source: str, _encoded: bytes, _concepts: Sequence[str]) -> int | None:
        tell(ask=source)
        return answers.get()

    try:
        tell(done=_picked(request, ask))
    except HubprobeError as error:
        tell(error=str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _picked(request: dict[str, Any], ask: Any) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from hubprobe.pick import pick
    from workspace import Workspace

    stored = Workspace.open(request["workspace"])
    workspace = Workspace(stored.root, replace(stored.config, endpoint=request["endpoint"]))
    folder = Path(request["folder"])
    found = pick(workspace, ask=ask, folder=folder, **request["options"])
    told = {name: getattr(found, name) for name in ("models", "failed", "sure", "labelled", "notes")}
    return told | {"images": pq.read_table(folder / "images.parquet").to_pylist()}


def _listen(answers: queue.Queue[int | None]) -> None:
    for line in sys.stdin:
        answers.put(json.loads(line))
    _thread.interrupt_main()
    answers.put(None)


if __name__ == "__main__":
    main()
