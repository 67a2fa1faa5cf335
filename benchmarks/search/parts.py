"""What is measured, part by part."""

from __future__ import annotations

import os
import time
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np

import search
from benchmarks.search import sides
from benchmarks.search.data import LOGITS_PER_MODEL, World, write_workspace
from benchmarks.search.timing import milliseconds
from search.scoring import probelog
from workspace import Workspace


def _opened(options: Namespace) -> tuple[World, Any]:
    root = options.folder / f"workspace-{options.rows}-{options.probes}-{options.seed}"
    world = World.make(options.probes, options.seed)
    if not (root / "attempts").is_dir():
        write_workspace(root, world, 0, options.rows)
    workspace = Workspace.open(root)
    if not (root / "index" / "current.json").exists():
        search.index(workspace, encoder="none", progress=False)
    return world, search.open(workspace)


def _descriptors(index: Any, world: World, count: int) -> list[Any]:
    return [index.descriptor(query) for query in world.queries(count)]


def _recall(found: list[Any], truth: list[Any]) -> float:
    return round(float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])), 4)


def _evict(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def gallery(options: Namespace) -> dict[str, Any]:
    """Ours against every other side, one after the other in one process, recall against fp16 exact."""
    world, index = _opened(options)
    finder, k = index.gallery, options.k
    asked = _descriptors(index, world, options.queries)
    compiled = [probelog(d, k) for d in asked]

    def ours(c: Any) -> Any:
        return finder.nearest(c, 10, None)[0]

    def whole(d: Any) -> Any:
        return index.search(d, k=k).limit(10).to_arrow()

    ours(compiled[0])
    figures: dict[str, Any] = {
        "scan and re-rank": milliseconds(ours, compiled),
        "end to end with metadata": milliseconds(whole, asked),
    }
    some = compiled[:20]
    vectors = (
        np.concatenate([np.asarray(t.exact).view(np.float16) for t in finder.tiles])
        if options.rows <= 400_000
        else None
    )
    if vectors is not None:
        exact = [finder.nearest(c, 10, None, exact=True)[0].tolist() for c in some]
        figures["recall@10 of ours"] = _recall([ours(c).tolist() for c in some], exact)
        figures |= _others(options, vectors, asked[:20], some, exact)
    figures["scan and re-rank, again at the end"] = milliseconds(ours, compiled)
    _evict(finder.folder)
    cold = search.open(index.workspace)
    figures["first query after eviction from the page cache"] = milliseconds(
        lambda d: cold.search(d, k=k).limit(10).to_arrow(), asked[:1]
    )
    return figures


def _others(
    options: Namespace, vectors: Any, asked: list[Any], compiled: list[Any], exact: list[Any]
) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    answers: dict[str, Any] = {"numpy over rows": sides.numpy_rows(vectors)}
    if "torch" not in options.without:
        answers["torch over rows"] = sides.torch_rows(vectors)
    if "lance" not in options.without:
        started = time.perf_counter()
        table = sides.write_lance(options.folder / "lance", vectors)
        figures["lance write s"] = round(time.perf_counter() - started, 1)
        answers["LanceDB flat"] = sides.lance(table, vectors, candidates=None)
    if "rq" not in options.without:
        from lancedb.index import IvfRq

        started = time.perf_counter()
        table.create_index("vector", config=IvfRq(distance_type="cosine", num_partitions=64))
        figures["IVF_RQ build s"] = round(time.perf_counter() - started, 1)
        answers["LanceDB IVF_RQ, 1,000 re-ranked"] = sides.lance(table, vectors, candidates=1000)
    if "faiss" not in options.without:
        answers["FAISS flat"] = sides.faiss_flat(vectors)
    for name, answer in answers.items():
        if answer is None:
            continue
        found: list[Any] = []
        pairs = list(zip(asked, compiled, strict=True))
        answer(pairs[0][0].vector, pairs[0][1])
        figures[name] = milliseconds(
            lambda pair, a=answer, f=found: f.append(a(pair[0].vector, pair[1]).tolist()),
            pairs[: 5 if name == "LanceDB flat" else 20],
        )
        figures[name]["recall@10"] = _recall(found, exact[: len(found)])
    if "duckdb" not in options.without:
        answer = sides.duckdb_arrays(vectors, 20_000)
        figures["DuckDB array_inner_product, 20,000 rows only"] = milliseconds(
            lambda pair: answer(pair[0].vector, pair[1]), pairs[:3]
        )
    return figures


def filters(options: Namespace) -> dict[str, Any]:
    """The same query under filters of three selectivities, each compared with the unfiltered time around it."""
    world, index = _opened(options)
    asked = _descriptors(index, world, options.queries)
    figures = {}
    for name, where in (("50 %", "downloads < 5000"), ("1 %", "downloads < 100"), ("0.01 %", "std < 0.0001")):
        started = time.perf_counter()
        index.search(asked[0], k=options.k).where(where).to_arrow()
        first = (time.perf_counter() - started) * 1e3
        plain = milliseconds(lambda d: index.search(d, k=options.k).limit(10).to_arrow(), asked)
        with_filter = milliseconds(lambda d, w=where: index.search(d, k=options.k).where(w).limit(10).to_arrow(), asked)
        hits = [index.search(d, k=options.k).where(where).limit(10) for d in asked[:20]]
        keys = [[[(r["repo_id"], r["logit"]) for r in q.to_dicts()] for q in (h, h.exact())] for h in hits]
        figures[name] = {
            **with_filter, "unfiltered_p50_ms": plain["p50_ms"],
            "ratio": round(with_filter["p50_ms"] / plain["p50_ms"], 2),
            "first_ms": round(first, 2), "recall@10": _recall([a for a, _ in keys], [b for _, b in keys]),
        }  # fmt: skip
    return figures


def batch(options: Namespace) -> dict[str, Any]:
    """32 queries at once against one at a time, alternating."""
    world, index = _opened(options)
    asked = _descriptors(index, world, 32)
    index.search_many(asked, k=options.k)
    together, alone = [], []
    for _ in range(10):
        started = time.perf_counter()
        tables = index.search_many(asked, k=options.k)
        together.append(time.perf_counter() - started)
        started = time.perf_counter()
        singles = [index.search(d, k=options.k).limit(10).to_arrow() for d in asked]
        alone.append(time.perf_counter() - started)
    same = all(a.equals(b) for a, b in zip(tables, singles, strict=True))
    a, b = float(np.median(together)) * 1e3, float(np.median(alone)) * 1e3
    return {"together_ms": round(a, 1), "one_by_one_ms": round(b, 1), "ratio": round(b / a, 2), "equal": same}


def append(options: Namespace) -> dict[str, Any]:
    """A build from nothing, then one per cent more, on a copy of its own."""
    rows = options.rows
    root = options.folder / f"append-{rows}-{options.probes}-{options.seed}"
    world = World.make(options.probes, options.seed)
    workspace = write_workspace(root, world, 0, rows)
    built = search.index(workspace, encoder="none", progress=False)
    write_workspace(root, world, 10_000_000, rows // 100)
    grown = search.index(workspace, encoder="none", progress=False)
    size = rows * options.probes * 2
    return {
        "build_s": round(built.seconds, 2), "build_mb_s": round(size / built.seconds / 1e6, 1),
        "bytes_per_logit": round(built.bytes / rows), "append_1_percent_s": round(grown.seconds, 2),
        "append_share_of_build": round(grown.seconds / built.seconds, 4), "appended": grown.added,
    }  # fmt: skip


def threads(options: Namespace) -> dict[str, Any]:
    """Ten thousand mixed queries from 8 threads while models are appended; answers compared with those given alone."""
    world, index = _opened(options)
    asked = _descriptors(index, world, 50)
    wheres = [None, "downloads < 5000", "std < 0.01"]

    def ask(i: int) -> list[Any]:
        query = index.search(asked[i % 50], k=options.k).limit(10)
        where = wheres[i % 3]
        table = (query if where is None else query.where(where)).to_arrow()
        return table.column("distance").to_pylist()

    expected = [ask(i) for i in range(150)]
    stop, versions = Event(), []

    def grow() -> None:
        number = 20_000_000
        while not stop.is_set():
            write_workspace(index.workspace.root, world, number, 20 * LOGITS_PER_MODEL)
            versions.append(search.index(index.workspace, encoder="none", progress=False).version)
            number += 20

    before = _resident()
    writer = Thread(target=grow)
    writer.start()
    started = time.perf_counter()
    wrong = 0
    try:
        with ThreadPoolExecutor(8) as pool:
            for i, answer in enumerate(pool.map(lambda i: ask(i % 150), range(10_000))):
                wrong += answer != expected[i % 150]
    finally:
        stop.set()
        writer.join()
    seconds = time.perf_counter() - started
    return {
        "queries": 10_000, "wrong": wrong, "appends": len(versions), "queries_per_s": round(10_000 / seconds),
        "private_mb_before": before, "private_mb_after": _resident(),
    }  # fmt: skip


def scale(options: Namespace) -> dict[str, Any]:
    """Scan and selection alone, codes of 128 columns, from 100,000 logits on; see `benchmarks.search.scale`."""
    from benchmarks.search.scale import measure

    return measure(options.folder, options.k, options.scale_to, options.seed)


def _resident() -> float:
    """Return this process's private memory in MB: mapped tiles, which the page cache owns, are left out."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("RssAnon"):
            return round(int(line.split()[1]) / 1e3, 1)
    return 0.0
