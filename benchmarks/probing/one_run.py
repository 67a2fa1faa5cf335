"""One run over the models that ``models.json`` in the workspace names: ``one_run.py WORKSPACE [LIMIT]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import probing
from benchmarks.probing.setting import Folders
from workspace import Workspace

if __name__ == "__main__":
    made = Workspace.open(sys.argv[1])
    repos = {k: Path(v) for k, v in json.loads((made.root / "models.json").read_text()).items()}
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else None
    probing.probe(made, Folders(repos), limit=limit, progress=False)
