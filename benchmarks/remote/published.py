"""The 200,000-logit index of ``benchmarks.search`` on a web server of this machine, with 50 ms before every answer."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import search
from benchmarks.remote.web import serving
from benchmarks.search.data import World, WorldEncoder
from hubprobe.sync import checked_index
from workspace import Workspace
from workspace.published import Published
from workspace.remote import Remote

LATENCY_S = 0.05
QUERIES = 10
KINDS: dict[str, dict[str, Any]] = {
    "probelog, 64 probes": {"scoring": "probelog"},
    "strong, 64 probes": {"scoring": "strong"},
    "strong, 512 probes": {"scoring": "strong", "k": 512},
    "texts": {},
}


def measure(folder: Path) -> dict[str, Any]:
    """Publish the index of ``folder/workspace-200000-4000-0``, open it, ask ten queries of every kind.

    It is built anew with an encoder where it has none, for texts, which are asked as by ``hubprobe search``.
    """
    local = Workspace.open(folder / "workspace-200000-4000-0")
    encoder = WorldEncoder(World.make(4_000, 0))
    if search.open(local).gallery.manifest["encoder"] is None:
        search.index(local, encoder=encoder, rebuild=True, progress=False)
    remote = folder / "published"
    Remote(Workspace(local.root, remote=remote.absolute().as_uri())).push("index")
    world, here = World.make(4_000, 0), search.open(local, encoder=encoder)
    vectors: list[Any] = list(world.queries(QUERIES))
    words: list[Any] = [f"concept {i}" for i in range(0, 37 * QUERIES, 37)]
    figures: dict[str, Any] = {"logits": len(here), "latency_ms": 1e3 * LATENCY_S}
    codes = len(here) * here.gallery.n_probes
    with serving(remote, LATENCY_S) as address:
        for name, options in KINDS.items():
            os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
            shutil.rmtree(folder / "cache", ignore_errors=True)
            started = time.perf_counter()
            there = Published(address, check=checked_index)
            index = search.open(there.workspace, source=there, encoder=encoder)
            opened = {"open_s": round(time.perf_counter() - started, 2), "open_requests": there.store.requests}
            seconds, read, equal, requests = [], [], [], []
            for query in words if name == "texts" else vectors:
                before, asked = there.bytes_read, there.store.requests
                started = time.perf_counter()
                found = index.search(query, **options).limit(10).to_arrow()
                seconds.append(round(time.perf_counter() - started, 3))
                read.append(round((there.bytes_read - before) / codes, 4))
                requests.append(there.store.requests - asked)
                equal.append(found.equals(here.search(query, **options).limit(10).to_arrow()))
            figures[name] = opened | {"seconds": seconds, "share_of_codes_read": read, "requests": requests,
                                      "as_local": all(equal)}  # fmt: skip
    return figures
