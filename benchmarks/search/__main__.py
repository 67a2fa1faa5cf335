"""Speed and recall of search against what else could answer: ``python -m benchmarks.search [part ...] --folder F``.

Without a part: ``build``, ``texts``, ``gallery``, ``others``, ``filters``, ``batch``, ``threads`` on 200,000 logits
(about ten minutes and 10 GB on two quiet cores). Long ones by name: ``scale`` (codes alone, to ten million: 1.3 GB),
``million`` (a million logits over 4,000 probes: 22 GB, deleted with ``--clean``). Each prints a JSON line with machine
and load and appends it to ``--log``. What the folder holds already is not made again, and a part that is done there is
left out, so the same command goes on where it was stopped; ``--again`` measures anew.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

from benchmarks.search import concurrent, growth, others, parts
from benchmarks.search.timing import bandwidth_gb_s, machine

USUAL = {
    "build": growth.build, "texts": growth.texts, "gallery": parts.gallery, "others": others.measure,
    "filters": parts.filters, "batch": parts.batch, "threads": concurrent.measure,
}  # fmt: skip
LONG = {"scale": growth.scale, "million": growth.million}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(USUAL), help=", ".join([*USUAL, *LONG]))
    parser.add_argument("--rows", type=int, default=200_000, help="logits of the gallery")
    parser.add_argument("--probes", type=int, default=4_000)
    parser.add_argument("--k", type=int, default=64, help="probes compared")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scale-to", type=int, default=10_000_000, help="largest gallery of the scale part")
    parser.add_argument("--without", nargs="*", default=[], help="sides to leave out: torch, lance, rq, faiss, duckdb")
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder on a local disk")
    parser.add_argument("--log", type=Path, default=Path("benchmarks/search/results.jsonl"))
    parser.add_argument("--again", action="store_true", help="measure parts again that are done in the folder")
    parser.add_argument("--clean", action="store_true", help="delete the million's gallery when it is measured")
    options = parser.parse_args()
    for name in options.parts:
        settings = {key: getattr(options, key) for key in ("rows", "probes", "k", "seed")}
        done = options.folder / f"done-{name}-{'-'.join(map(str, settings.values()))}.json"
        if done.exists() and not options.again:
            sys.stderr.write(f"{name}: done before, see {done}\n")
            continue
        before, started = machine(), time.perf_counter()
        figures = {**USUAL, **LONG}[name](options)
        line = {
            "part": name, "at": f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ}", **settings, "figures": figures,
            "machine": before, "load_after": machine()["load"], "bandwidth_gb_s": bandwidth_gb_s(),
            "seconds": round(time.perf_counter() - started),
        }  # fmt: skip
        text = json.dumps(line)
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
        with options.log.open("a", encoding="utf-8") as file:
            file.write(text + "\n")
        done.write_text(text, encoding="utf-8")
        if name == "million" and options.clean:
            shutil.rmtree(growth.million_root(options))


if __name__ == "__main__":
    main()
