"""What a build and an append cost, and how a query grows with the gallery."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import search
from benchmarks.search import parts
from benchmarks.search.data import World, WorldEncoder, write_workspace
from benchmarks.search.scale import measure
from benchmarks.search.timing import bandwidth_gb_s, milliseconds
from search.scan.scoring import probelog
from search.store import versions
from workspace import Workspace


def build(options: Namespace) -> dict[str, Any]:
    """The gallery's own build from nothing, then one per cent more appended to a copy of hard links."""
    world, _ = parts.opened(options)
    root = parts.root_of(options)
    built = json.loads((root / "build.json").read_text(encoding="utf-8"))
    copy = root.with_name(f"append-{options.rows}-{options.probes}-{options.seed}")
    if copy.exists():
        shutil.rmtree(copy)
    versions.clone(root, copy)
    write_workspace(copy, world, 10_000_000, options.rows // 100)
    grown = search.index(Workspace.open(copy), encoder="none", progress=False)
    shutil.rmtree(copy)
    size = options.rows * options.probes * 2
    return {
        "build_s": round(built["seconds"], 2), "build_mb_s": round(size / built["seconds"] / 1e6, 1),
        "build_load": built.get("load"), "bytes_per_logit": round(built["bytes"] / options.rows),
        "append_1_percent_s": round(grown.seconds, 2), "append_mode": grown.mode, "appended": grown.added,
        "append_share_of_build": round(grown.seconds / built["seconds"], 4),
    }  # fmt: skip


def texts(options: Namespace) -> dict[str, Any]:
    """Build and append as `build` does, for text queries too: hubness of every logit, the bridge of all labels."""
    root = parts.root_of(Namespace(**{**vars(options), "folder": options.folder / "texts"}))
    world = World.make(options.probes, options.seed)
    encoder = WorldEncoder(world)
    workspace = write_workspace(root, world, 0, options.rows)
    built = search.index(workspace, encoder=encoder, rebuild=True, progress=False)
    plain = search.index(workspace, encoder="none", rebuild=True, progress=False)
    search.index(workspace, encoder=encoder, rebuild=True, progress=False)
    write_workspace(root, world, 10_000_000, options.rows // 100)
    grown = search.index(Workspace.open(root), encoder=encoder, progress=False)
    shutil.rmtree(root)
    return {
        "build_s": round(built.seconds, 2), "build_without_encoder_s": round(plain.seconds, 2),
        "append_1_percent_s": round(grown.seconds, 2), "append_mode": grown.mode, "appended": grown.added,
        "append_share_of_build": round(grown.seconds / built.seconds, 4),
    }  # fmt: skip


def scale(options: Namespace) -> dict[str, Any]:
    """Scan and selection alone, codes of 128 columns, from 100,000 logits on; see `benchmarks.search.scale`."""
    return measure(options.folder, options.k, options.scale_to, options.seed)


def million_root(options: Namespace) -> Path:
    """Return the workspace of a million logits."""
    return parts.root_of(Namespace(**{**vars(options), "rows": 1_000_000}))


def million(options: Namespace) -> dict[str, Any]:
    """A million logits over all probes: end to end, against the bytes it reads over the bandwidth measured now."""
    large = Namespace(**{**vars(options), "rows": 1_000_000})
    world, index = parts.opened(large)
    asked = parts.descriptors(index, world, options.queries)
    bandwidth = bandwidth_gb_s()
    floor = len(index) * options.k / bandwidth / 1e6
    figures: dict[str, Any] = {
        "build": json.loads((million_root(options) / "build.json").read_text(encoding="utf-8")),
        "bandwidth_gb_s": bandwidth, "floor_ms": round(floor, 2),
    }  # fmt: skip

    def whole(d: Any) -> Any:
        return index.search(d, k=options.k, scoring="probelog").limit(10).to_arrow()

    whole(asked[0])
    figures["end to end, first time each column is read"] = milliseconds(whole, asked)
    for name, call, given in (
        ("end to end", whole, asked),
        ("scan and re-rank", lambda c: index.gallery.nearest(c, 10, None), [probelog(d, options.k) for d in asked]),
        ("positive parts", lambda c: index.gallery.nearest(c, 10, None),
         [parts.positive(index, d, options.k) for d in asked]),
    ):  # fmt: skip
        figures[name] = milliseconds(call, given)
        figures[name]["p50_times_floor"] = round(figures[name]["p50_ms"] / floor, 2)
    some = [probelog(d, options.k) for d in asked[:3]]
    exact = [index.gallery.nearest(c, 10, None, exact=True)[0].tolist() for c in some]
    figures["recall@10"] = parts.recall([index.gallery.nearest(c, 10, None)[0].tolist() for c in some], exact)
    return figures
