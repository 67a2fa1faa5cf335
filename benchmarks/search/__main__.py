"""Speed and recall of search against what else could answer: ``python -m benchmarks.search [part ...]``.

Parts: ``gallery`` (all sides), ``filters``, ``batch``, ``append``, ``threads``, ``scale`` (codes alone, 100 k to 10 M),
or all. Each prints and appends one JSON line with machine and load to ``--log``.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.search import parts
from benchmarks.search.timing import bandwidth_gb_s, machine

PARTS = ("gallery", "filters", "batch", "append", "threads", "scale")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--rows", type=int, default=200_000, help="logits of the gallery")
    parser.add_argument("--probes", type=int, default=4_000)
    parser.add_argument("--k", type=int, default=64, help="probes compared")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale-to", type=int, default=10_000_000, help="largest gallery of the scale part")
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out: torch, lance, rq, faiss, duckdb")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder: 4 GB for 200,000 x 4,000")
    parser.add_argument("--log", type=Path, default=Path("benchmarks/search/results.jsonl"))
    options = parser.parse_args()
    for part in options.parts:
        before = machine()
        figures = getattr(parts, part)(options)
        settings = {name: getattr(options, name) for name in ("rows", "probes", "k", "seed")}
        line = {
            "part": part, "at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", **settings, "figures": figures,
            "machine": before, "load_after": machine()["load"], "bandwidth_gb_s": bandwidth_gb_s(),
        }  # fmt: skip
        text = json.dumps(line)
        sys.stdout.write(text + "\n")
        with options.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
