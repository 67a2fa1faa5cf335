"""What the measurements share: folders of models, a catalog that lists them, images, a fetch without a network."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from hubprobe.demo.server import HUB
from workspace import Workspace, records
from workspace.files import write_table
from workspace.seams import Fetched

SHA = "b" * 40
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def images(folder: Path, n: int, size: tuple[int, int] = (320, 240)) -> Path:
    """Write ``n`` distinct JPEG files of smooth noise, of the size of a small web photograph."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        path = folder / f"{i:05d}.jpg"
        if not path.exists():
            small = np.random.default_rng(i).integers(0, 256, (30, 40, 3), dtype=np.uint8)
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path, quality=90)
    return folder


def demo_models(count: int) -> dict[str, Path]:
    """Return ``count`` repositories: the demo hub's trained classifiers, over again under other names if need be."""
    folders = sorted(p.parent for p in HUB.rglob("model.safetensors"))
    return {f"{p.parent.name}/{p.name}-{i // len(folders)}": p for i, p in _cycle(folders, count)}


def _cycle(folders: list[Path], count: int) -> list[tuple[int, Path]]:
    return [(i, folders[i % len(folders)]) for i in range(count)]


def large_models(root: Path, copies: int) -> dict[str, Path]:
    """Return ``copies`` repositories of each of four usual sizes, with random weights: one file of each on disk."""
    import torch
    import transformers as tf

    torch.manual_seed(0)
    labels = {"num_labels": 1000}
    made = {
        "resnet-50": (tf.ResNetForImageClassification, tf.ResNetConfig(**labels), "ConvNextImageProcessor"),
        "vit-b16": (tf.ViTForImageClassification, tf.ViTConfig(**labels), "ViTImageProcessor"),
        "convnext-t": (tf.ConvNextForImageClassification, tf.ConvNextConfig(**labels), "ConvNextImageProcessor"),
        "swin-t": (tf.SwinForImageClassification, tf.SwinConfig(**labels), "ViTImageProcessor"),
    }
    repos: dict[str, Path] = {}
    for name, (kind, config, processor) in made.items():
        folder = root / name
        if not (folder / "model.safetensors").exists():
            kind(config).save_pretrained(folder)
            size = {"shortest_edge": 224} if processor.startswith("ConvNext") else {"height": 224, "width": 224}
            text = json.dumps({"image_processor_type": processor, "size": size, "do_normalize": True, **IMAGENET})
            (folder / "preprocessor_config.json").write_text(text)
        repos |= {f"bench/{name}-{i}": folder for i in range(copies)}
    return repos


def catalog(workspace: Workspace, repos: Mapping[str, Path]) -> None:
    """List ``repos`` as eligible."""
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    rows = [
        {
            "id": name,
            "sha": SHA,
            "eligibility": "eligible",
            "reason": "",
            "crawled_at": now,
            "weights_bytes": (folder / "model.safetensors").stat().st_size,
        }
        for name, folder in repos.items()
    ]
    filled = [{name: row.get(name) for name in records.CATALOG.names} for row in rows]
    write_table(workspace.catalog_dir / "rows.parquet", pa.Table.from_pylist(filled, schema=records.CATALOG))


class Folders:
    """A `Fetch` from folders."""

    def __init__(self, repos: Mapping[str, Path]) -> None:
        self.repos = repos

    def __call__(self, row: Mapping[str, Any]) -> Fetched:
        return Fetched(self.repos[row["id"]], int(row["weights_bytes"]), 0.0, lambda: None)


def machine() -> str:
    """Return the machine in words: processor, cores allowed, memory, load, libraries."""
    import torch
    import transformers

    cpu = platform.processor() or "?"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    load = os.getloadavg()[0]
    return (
        f"{cpu}, {cores} cores{gpu}; torch {torch.__version__}, transformers {transformers.__version__}; "
        f"load average {load:.1f} at the start"
    )
