"""The gallery by itself: one query, filters, many at once, each against the exact answer."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import search
from benchmarks.search.data import World, write_workspace
from benchmarks.search.timing import milliseconds
from search.scan.scoring import Comparison, probelog
from search.store import versions
from workspace import Workspace


def root_of(options: Namespace) -> Path:
    """Return the workspace of these settings."""
    return Path(options.folder) / f"workspace-{options.rows}-{options.probes}-{options.seed}"


def opened(options: Namespace) -> tuple[World, Any]:
    """Return the factors and the open index, made when they are not there; ``build.json`` keeps what building took."""
    root = root_of(options)
    world = World.make(options.probes, options.seed)
    if not (root / "attempts").is_dir():
        write_workspace(root, world, 0, options.rows)
    workspace = Workspace.open(root)
    kept = root / "build.json"
    if not kept.exists() or json.loads(kept.read_text(encoding="utf-8")).get("format") != versions.FORMAT:
        summary = asdict(search.index(workspace, encoder="none", rebuild=True, progress=False))
        kept.write_text(json.dumps({**summary, "load": os.getloadavg(), "format": versions.FORMAT}), encoding="utf-8")
    return world, search.open(workspace)


def descriptors(index: Any, world: World, count: int) -> list[Any]:
    """Return text-like queries."""
    return [index.descriptor(query) for query in world.queries(count)]


def positive(index: Any, descriptor: Any, k: int) -> Comparison:
    """Return the cosine of squared positive responses, the kind of comparison that texts are searched with."""
    found: Comparison = index.gallery.compile(descriptor, "strong", k)
    return found


def recall(found: list[Any], truth: list[Any]) -> float:
    """Return the mean share of each true answer that was found."""
    return round(float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, truth, strict=True)])), 4)


def evict(folder: Path) -> None:
    """Ask the system to forget a folder's files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def gallery(options: Namespace) -> dict[str, Any]:
    """Scan and re-rank, end to end, and after eviction; recall against reading every fp16 value."""
    figures = _warm(options)
    root = root_of(options)
    evict(root / "index" / "versions")  # nothing has it open any more: mapped pages would stay
    cold = search.open(Workspace.open(root))
    (asked,) = descriptors(cold, World.make(options.probes, options.seed), 1)
    figures["first query after eviction from the page cache"] = milliseconds(
        lambda d: cold.search(d, k=options.k, scoring="probelog").limit(10).to_arrow(), [asked]
    )
    return figures


def _warm(options: Namespace) -> dict[str, Any]:
    world, index = opened(options)
    finder, k = index.gallery, options.k
    asked = descriptors(index, world, options.queries)
    kinds: dict[str, Callable[[Any], Comparison]] = {
        "differences": lambda d: probelog(d, k),
        "positive parts": lambda d: positive(index, d, k),
        "positive parts, 4k columns": lambda d: positive(index, d, 4 * k),
    }
    figures: dict[str, Any] = {}
    for name, compile_ in kinds.items():
        compiled = [compile_(d) for d in asked]
        finder.nearest(compiled[0], 10, None)
        figures[f"scan and re-rank, {name}"] = milliseconds(lambda c: finder.nearest(c, 10, None), compiled)
        some = compiled[:10]
        exact = [finder.nearest(c, 10, None, exact=True)[0].tolist() for c in some]
        found = [finder.nearest(c, 10, None)[0].tolist() for c in some]
        figures[f"recall@10, {name}"] = recall(found, exact)
        figures[f"the same order, {name}"] = found == exact
    figures["end to end with metadata"] = milliseconds(
        lambda d: index.search(d, k=k, scoring="probelog").limit(10).to_arrow(), asked
    )
    return figures


def filters(options: Namespace) -> dict[str, Any]:
    """The same query under filters of three selectivities, each compared with the unfiltered time around it."""
    world, index = opened(options)
    asked = descriptors(index, world, min(options.queries, 100))

    def ask(d: Any, where: str | None = None) -> Any:
        query = index.search(d, k=options.k, scoring="probelog").limit(10)
        return query if where is None else query.where(where)

    figures = {}
    for name, where in (("50 %", "downloads < 5000"), ("1 %", "downloads < 100"), ("0.01 %", "std < 0.0001")):
        started = time.perf_counter()
        ask(asked[0], where).to_arrow()
        first = (time.perf_counter() - started) * 1e3
        plain = milliseconds(lambda d: ask(d).to_arrow(), asked)
        filtered = milliseconds(lambda d, w=where: ask(d, w).to_arrow(), asked)
        both = [(ask(d, where), ask(d, where).exact()) for d in asked[:20]]
        keys = [[[(r["repo_id"], r["logit"]) for r in q.to_dicts()] for q in pair] for pair in both]
        figures[name] = {
            **filtered, "unfiltered_p50_ms": plain["p50_ms"], "unfiltered_min_ms": plain["min_ms"],
            "ratio": round(filtered["p50_ms"] / plain["p50_ms"], 2), "first_ms": round(first, 2),
            "recall@10": recall([a for a, _ in keys], [b for _, b in keys]),
        }  # fmt: skip
    return figures


def batch(options: Namespace) -> dict[str, Any]:
    """32 queries at once against one at a time, alternating; in wall and in processor time."""
    world, index = opened(options)
    asked = descriptors(index, world, 32)
    ask = {
        "end to end": (
            lambda: index.search_many(asked, k=options.k, scoring="probelog"),
            lambda: [index.search(d, k=options.k, scoring="probelog").limit(10).to_arrow() for d in asked],
        )
    }
    for name, k in (("differences", options.k), ("positive parts", options.k), ("positive parts, 4k", 4 * options.k)):
        compiled = [probelog(d, k) if name == "differences" else positive(index, d, k) for d in asked]
        ask[f"scan and re-rank, {name}"] = (
            lambda c=compiled: index.gallery.nearest_many(c, 10, [None] * 32),  # type: ignore[misc]
            lambda c=compiled: [index.gallery.nearest(one, 10, None) for one in c],  # type: ignore[misc]
        )
    figures: dict[str, Any] = {}
    for name, (together, alone) in ask.items():
        times: list[list[float]] = []
        same = [_plain(one) for one in together()] == [_plain(one) for one in alone()]
        for _ in range(10):
            row = []
            for call in (together, alone):
                wall, processor = time.perf_counter(), time.process_time()
                call()
                row += [time.perf_counter() - wall, time.process_time() - processor]
            times.append(row)
        median, least = np.median(times, axis=0) * 1e3, np.min(times, axis=0) * 1e3
        figures[name] = {
            "together_ms": round(median[0], 1), "one_by_one_ms": round(median[2], 1),
            "ratio": round(median[2] / median[0], 2), "ratio_of_fastest": round(least[2] / least[0], 2),
            "ratio_of_processor_time": round(median[3] / median[1], 2), "equal": same,
        }  # fmt: skip
    columns = [set(probelog(d, options.k).columns.tolist()) for d in asked]
    figures["columns"] = {"read": sum(map(len, columns)), "distinct": len(set().union(*columns))}
    return figures


def _plain(answer: Any) -> Any:
    return [part.tolist() for part in answer] if isinstance(answer, tuple) else answer.to_pylist()
