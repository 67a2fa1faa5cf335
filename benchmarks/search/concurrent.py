"""Ten thousand mixed queries from 8 threads while another process appends: answers compared, memory watched."""

from __future__ import annotations

import multiprocessing
import shutil
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import search
from benchmarks.search.data import LOGITS_PER_MODEL, World, write_workspace
from benchmarks.search.parts import descriptors, opened, root_of
from search.store import versions
from workspace import Workspace

QUERIES, STEPS = 10_000, 10


def measure(options: Namespace) -> dict[str, Any]:
    """Answers are compared with those given alone before; memory is read after every thousand queries."""
    world, index = opened(options)
    root = root_of(options).with_name(f"threads-{options.rows}-{options.probes}-{options.seed}")
    if root.exists():
        shutil.rmtree(root)
    versions.clone(root_of(options), root)  # hard links: appends must not change the gallery of the other parts
    index = search.open(Workspace.open(root))
    asked = descriptors(index, world, 50)
    wheres = (None, "downloads < 5000", "std < 0.01")
    scorings = ("probelog", "strong")

    def ask(i: int) -> list[Any]:
        query = index.search(asked[i % 50], k=options.k, scoring=scorings[i % 2]).limit(10)
        where = wheres[i % 3]
        table = (query if where is None else query.where(where)).to_arrow()
        found: list[Any] = table.select(["repo_id", "logit", "distance"]).to_pylist()
        return found

    expected = [ask(i) for i in range(300)]
    spawn = multiprocessing.get_context("spawn")
    stop, appended = spawn.Event(), spawn.Value("i", 0)
    writer = spawn.Process(target=_grow, args=(root, options.probes, options.seed, stop, appended))
    memory, wrong, seconds = [_private_mb()], 0, 0.0
    writer.start()
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(STEPS):
                started = time.perf_counter()
                answers = list(pool.map(ask, range(QUERIES // STEPS)))
                seconds += time.perf_counter() - started
                wrong += sum(answer != expected[i % 300] for i, answer in enumerate(answers))
                del answers
                memory.append(_private_mb())
    finally:
        stop.set()
        writer.join()
    newest = len(search.open(Workspace.open(root)))
    shutil.rmtree(root)
    return {
        "queries": QUERIES, "wrong": wrong, "appends": appended.value, "logits_appended": newest - len(index),
        "writer_exit": writer.exitcode, "queries_per_s": round(QUERIES / seconds), "private_mb": memory,
    }  # fmt: skip


def _grow(root: Path, probes: int, seed: int, stop: Any, appended: Any) -> None:
    world, number = World.make(probes, seed), 20_000_000
    while not stop.is_set():
        workspace = write_workspace(root, world, number, 20 * LOGITS_PER_MODEL)
        search.index(workspace, encoder="none", progress=False)
        appended.value += 1
        number += 20


def _private_mb() -> float:
    """Return this process's private memory in MB: mapped tiles, which the page cache owns, are left out."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return round(int(line.split()[1]) / 1e3, 1)
    return 0.0
