"""The gallery against every other side, one after the other in one process."""

from __future__ import annotations

import time
from argparse import Namespace
from typing import Any

import numpy as np

from benchmarks.search import parts, sides
from benchmarks.search.timing import milliseconds
from search.scan.scoring import probelog


def measure(options: Namespace) -> dict[str, Any]:
    """Every side answers the same queries; recall is against reading every fp16 value. Ours first and again last."""
    world, index = parts.opened(options)
    finder = index.gallery
    asked = parts.descriptors(index, world, 20)
    compiled = [probelog(d, options.k) for d in asked]
    vectors = np.concatenate([np.asarray(tile.exact).view(np.float16) for tile in finder.tiles])
    exact = [finder.nearest(c, 10, None, exact=True)[0].tolist() for c in compiled]
    figures: dict[str, Any] = {"ours": milliseconds(lambda c: finder.nearest(c, 10, None), compiled * 5)}
    figures["ours"]["recall@10"] = parts.recall([finder.nearest(c, 10, None)[0].tolist() for c in compiled], exact)

    def take(name: str, answer: sides.Answer | None, count: int = 20) -> None:
        if answer is None:
            return
        answer(asked[0].vector, compiled[0])
        found: list[Any] = []
        pairs = list(zip(asked, compiled, strict=True))[:count]
        figures[name] = milliseconds(lambda pair: found.append(answer(pair[0].vector, pair[1]).tolist()), pairs)
        figures[name]["recall@10"] = parts.recall(found, exact[: len(found)])
        figures[name]["times_ours"] = round(figures[name]["p50_ms"] / figures["ours"]["p50_ms"], 1)
        figures[name]["times_ours_fastest"] = round(figures[name]["min_ms"] / figures["ours"]["min_ms"], 1)

    take("numpy over rows", sides.numpy_rows(vectors))
    if "torch" not in options.without:
        take("torch over rows", sides.torch_rows(vectors))
    if "duckdb" not in options.without:
        few = 20_000
        take(f"DuckDB array_inner_product, {few} rows only", sides.duckdb_arrays(vectors, few), 3)
    if "faiss" not in options.without:
        take("FAISS flat, whole descriptors", sides.faiss_flat(vectors), 10)
    if "lance" not in options.without:
        started = time.perf_counter()
        table = sides.write_lance(options.folder / "lance", vectors)
        figures["LanceDB write s"] = round(time.perf_counter() - started, 1)
        take("LanceDB flat, whole descriptors", sides.lance(table, vectors, candidates=None), 5)
        if "rq" not in options.without:
            started = time.perf_counter()
            sides.build_rq(table)
            figures["LanceDB IVF_RQ build s"] = round(time.perf_counter() - started, 1)
            take("LanceDB IVF_RQ, 1,000 re-ranked", sides.lance(table, vectors, candidates=1_000))
    figures["ours, again"] = milliseconds(lambda c: finder.nearest(c, 10, None), compiled * 5)
    return figures
