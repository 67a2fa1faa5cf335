"""Hostile inputs by the thousand, of every kind that a stranger can send.

::

    python -m benchmarks.security                       # every part, 20,000 inputs and more, about half an hour
    python -m benchmarks.security --only filters --count 2000 --seed 7

Each part runs in a process of its own, so that its memory is its own. Exit code 1 when any input ended in a traceback
or a 5xx, took more than 5 s, or made the process more than 1 GB larger than at its start.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

PARTS = {
    "configs": 2000, "processors": 2000, "headers": 5000, "images": 1500, "filters": 4500, "statements": 300,
    "workspaces": 800, "releases": 600, "routes": 8000,
}  # fmt: skip
"""Parts and how many inputs each tries by default; each is a module with ``run(count, seed) -> watch.Report``."""

RESULTS = Path(__file__).parent / "results.json"


def main() -> int:
    """Run the parts asked for; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=sorted(PARTS), help="a part; may be given more than once")
    parser.add_argument("--count", type=int, help="inputs of each part, in place of its own number")
    parser.add_argument("--seed", type=int, default=20261127)
    parser.add_argument("--write", action="store_true", help=f"keep the figures in {RESULTS.name}")
    parser.add_argument("--here", choices=sorted(PARTS), help=argparse.SUPPRESS)  # in this process: one part
    given = parser.parse_args()
    if given.here:
        report = import_module(f"benchmarks.security.{given.here}").run(given.count, given.seed)
        sys.stdout.write(json.dumps(asdict(report) | {"good": report.good}) + "\n")
        return 0
    reports = [_apart(part, given.count or PARTS[part], given.seed) for part in given.only or PARTS]
    for report in reports:
        sys.stdout.write(
            f"{report['part']:12} {report['inputs']:6,} inputs  {report['accepted']:6,} answered  "
            f"{report['refused']:6,} refused  {len(report['failures']):3} failed  slowest {report['slowest']:.2f} s  "
            f"memory +{report['growth'] / 1e6:.0f} MB  {report['seconds']:.0f} s  seed {report['seed']}\n"
        )
        for failure in report["failures"][:10]:
            sys.stderr.write(f"  {report['part']}: {failure}\n")
    if given.write:
        kept = [{k: round(v, 3) if isinstance(v, float) else v for k, v in report.items()} for report in reports]
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    return 0 if all(report["good"] for report in reports) else 1


def _apart(part: str, count: int, seed: int) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.security", "--here", part, "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        failure = f"the process that tried them ended with {done.returncode}"
        return {
            "part": part, "seed": seed, "inputs": 0, "accepted": 0, "refused": 0, "failures": [failure],
            "slowest": 0.0, "growth": 0, "seconds": 0.0, "good": False,
        }  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
