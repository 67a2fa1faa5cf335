"""Probe repositories of every kind and compare each response with what transformers or timm itself answers.

``python -m benchmarks.zoo classes|modules|odd [--only NAME,...] [--part 1/8]``: a tiny random model of every class in
transformers' mapping of image classifiers, the smallest of every module of timm's, or repositories that are odd.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from benchmarks.zoo import classes, compare, modules, odd
from benchmarks.zoo.repositories import Case


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("kind", choices=("classes", "modules", "odd"))
    parser.add_argument("--only", default="", help="names, or parts of them, with commas between")
    parser.add_argument("--part", default="1/1", help="such as 2/8: the second eighth of them")
    parser.add_argument("--folder", type=Path, help="where to write repositories and the workspace")
    parser.add_argument("--pictures", type=int, default=9, help="how many, at most 9")
    parser.add_argument("--no-isolate", action="store_true")
    parser.add_argument("--out", type=Path, help="write the results to this file, a line of JSON each")
    args = parser.parse_args()
    wanted = [part for part in args.only.split(",") if part]
    chosen = [c for c in _cases(args.kind) if not wanted or any(part in c.name for part in wanted)]
    part, parts = map(int, args.part.split("/"))
    chosen = chosen[part - 1 :: parts]
    with tempfile.TemporaryDirectory() as made:
        folder = args.folder or Path(made)
        results = compare.run(
            chosen,
            folder,
            count=args.pictures,
            isolate=not args.no_isolate,
            say=lambda text: sys.stderr.write(f"{text}\n"),
        )
    right = sum(result.right for result in results)
    sys.stdout.write(f"{compare.table(results)}\n\n{right} of {len(results)} as they must be\n")
    if args.out:
        compare.dump(results, args.out)
    sys.exit(right < len(results))


def _cases(kind: str) -> Iterable[Case]:
    if kind == "classes":
        return classes.cases()
    if kind == "modules":
        return modules.cases()
    return odd.cases()


if __name__ == "__main__":
    main()
