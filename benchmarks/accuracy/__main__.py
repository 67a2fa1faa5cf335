"""Run the accuracy studies and write their rows.

    python -m benchmarks.accuracy imagenet minihub probe_sets partial_imagenet partial_minihub
    python -m benchmarks.accuracy report

Each study is one command, seeded, and writes ``benchmarks/accuracy/results/<study>.json``; ``report`` makes
``RESULTS.md`` and its pictures of them. Data: ``benchmarks/minihub/README.md``.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path

import torch

from benchmarks.accuracy import partial, report, studies
from benchmarks.accuracy.collection import load
from benchmarks.demo_hub import sources
from workspace.runs import versions

RESULTS = Path(__file__).with_name("results")
STUDIES = {
    "imagenet": studies.imagenet,
    "minihub": studies.minihub,
    "probe_sets": studies.probe_sets,
    "partial_imagenet": partial.imagenet,
    "partial_minihub": partial.minihub,
    "methods": partial.methods,
}


def main() -> None:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="*", choices=[*STUDIES, "report"], help="which; all and the report when none")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    logging.basicConfig(level=logging.WARNING)
    RESULTS.mkdir(exist_ok=True)
    for name in asked.studies or [*STUDIES, "report"]:
        if name == "report":
            report.write(RESULTS)
            continue
        started = time.monotonic()
        collection = load()
        rows = STUDIES[name](collection, sources.assets() / "accuracy" / f"workspace-{name}")
        about = {
            "study": name, "seconds": round(time.monotonic() - started), "load": round(os.getloadavg()[0], 1),
            "machine": platform.machine(), "cores": os.cpu_count(), "models": len(collection.models),
            "logits": sum(len(model.raw) for model in collection.models), "probes": collection.probes.num_rows,
            "versions": versions(),
        }  # fmt: skip
        lines = ",\n".join(json.dumps(row) for row in rows)
        (RESULTS / f"{name}.json").write_text(f'{{"about": {json.dumps(about)},\n"rows": [\n{lines}\n]}}\n', "utf-8")


if __name__ == "__main__":
    main()
