"""Cold preprocessing: every geometry of the demo hub's models over the same images, the prober's way and one by one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

from probing.images import inputs
from probing.images.processors import Processor, for_transformers
from workspace.images import read_image


def processors_of(repos: Mapping[str, Path]) -> list[Processor]:
    """Return one image processor for each distinct geometry of the transformers models in ``repos``."""
    from transformers import AutoConfig

    found: dict[str, Processor] = {}
    for folder in repos.values():
        processor = for_transformers(folder, AutoConfig.from_pretrained(str(folder), local_files_only=True))
        found.setdefault(processor.geometry, processor)
    return list(found.values())


def measure(workspace: Any, repos: Mapping[str, Path]) -> list[tuple[str, str, str]]:
    """Time both sides, processor time and wall, and check that they make the same numbers."""
    import torch

    torch.set_num_threads(1)
    chosen = processors_of(repos)
    cores = len(os.sched_getaffinity(0))
    encoded = [v["bytes"] for v in workspace.probes(["image"])["image"].to_pylist()]
    rows, kept = [], []
    for name in ("lists", "one by one"):
        shutil.rmtree(workspace.cache_dir / "inputs", ignore_errors=True)
        started, used = perf_counter(), process_time()
        for i, processor in enumerate(chosen):
            if name == "lists":
                made = inputs.prepare(workspace, workspace.probe_set, processor, threads=cores, max_edge=1024)
                kept.append(np.array(made.pixels[:256]))
            else:
                same = _one_by_one(processor, encoded)[:256]
                if same.dtype == kept[i].dtype and not np.array_equal(same, kept[i]):
                    raise SystemExit(f"{processor.name}: the two sides differ")
        wall, cpu = perf_counter() - started, process_time() - used
        each = 1000 * cpu / len(chosen) / len(encoded)
        rows.append((f"{len(chosen)} geometries x {len(encoded)} probes, {name}", f"{wall:.1f} s, {cpu:.1f} s of "
                     f"processor time", f"{each:.2f} ms an image"))  # fmt: skip
    return rows


def _one_by_one(processor: Processor, encoded: list[bytes]) -> Any:
    """What was done before lists: each image decoded, run through the whole processor, its pixels worked out."""
    made = []
    for content in encoded:
        picture = np.array(np.asarray(read_image(content)).transpose(2, 0, 1), order="C")
        array = processor.apply([picture])[0]
        pixels = inputs._pixels(array, processor.affine)
        made.append(array if pixels is None else pixels)
    return np.stack(made)
