"""Processor seconds of the main steps, children included, to hold one commit against another.

In each checkout, in turns, on the same machine in the same hour::

    python -m benchmarks.steps search    # index of 16,000 x 1,000, then queries
    python -m benchmarks.steps probe     # probe set, crawl and probing of the demo hub

To measure a commit that lacks this file, copy it there. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import crawler
import search
from benchmarks.search import parts
from benchmarks.search.data import World, write_workspace
from hubprobe.demo import run
from hubprobe.demo.server import serve_demo
from hubprobe.front import probe
from probing import probes
from workspace import Config, SearchConfig, Workspace

TOOK: dict[str, float] = {}


@contextmanager
def step(name: str) -> Iterator[None]:
    started = spent()
    yield
    TOOK[name] = round(spent() - started, 2)


def spent() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def probing_steps(folder: Path) -> None:
    with serve_demo() as server:
        workspace = Workspace.create(folder, Config(endpoint=server.url, search=SearchConfig(encoder="none")))
        with step("probe set"):
            probes.build(workspace, run.PROBES, n=200, seed=0, progress=False)
        with step("crawl of the demo hub"):
            crawler.crawl(workspace, token="", progress=False)
        with step("8 models, 200 probes"):
            probe(workspace, token="", limit=8, progress=False)


def search_steps(folder: Path) -> None:
    options = Namespace(folder=folder, rows=16_000, probes=1_000, seed=0, k=64)
    world = World.make(options.probes, options.seed)
    workspace = write_workspace(parts.root_of(options), world, 0, options.rows)
    with step("index of 16,000 x 1,000"):
        search.index(workspace, encoder="none", rebuild=True, progress=False)
    index = search.open(workspace)
    queries = parts.descriptors(index, world, 200)
    for query in queries[:20]:  # what is compiled once
        index.search(query, k=64, scoring="probelog").limit(10).to_arrow()
    for scoring in ("probelog", "strong"):
        with step(f"1,000 queries, {scoring}"):
            for query in queries * 5:
                index.search(query, k=64, scoring=scoring).limit(10).to_arrow()
    with step("100 queries, filtered, by model"):
        for query in queries[:100]:
            index.search(query, k=64).where("downloads > 1000").by("model").limit(10).to_arrow()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        (search_steps if sys.argv[1] == "search" else probing_steps)(Path(made) / "w")
    sys.stdout.write(json.dumps(TOOK) + "\n")
