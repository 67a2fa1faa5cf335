"""What the tests of processes run in processes of their own: ``python runs.py WORKSPACE REPOS [FRACTION]``, chosen."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import probing
from workspace import Workspace
from workspace.seams import Fetched


def run(root: str, repos: str, seconds: float = 0.0, isolate: bool = False, **options: Any) -> None:
    """Probe the workspace at ``root``, noting each fetch in ``fetched.txt``; fetching takes ``seconds``."""

    def fetch(row: Mapping[str, Any]) -> Fetched:
        time.sleep(seconds)
        with Path(root, "fetched.txt").open("a", encoding="utf-8") as log:
            log.write(f"{row['id']}\n")
        return Fetched(Path(repos, row["id"]), 100, seconds, lambda: None)

    probing.probe(Workspace.open(root), fetch, progress=False, isolate=isolate, batch_size=16, **options)


if __name__ == "__main__":
    share = {"adaptive": True, "fraction": float(sys.argv[3])} if len(sys.argv) > 3 else {}
    run(sys.argv[1], sys.argv[2], **share)
