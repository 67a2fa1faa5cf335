"""Tiny models made from configs, in the files a repository has, a catalog that lists them, and a Fetch from folders."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import probing
from probing.settings import Settings
from workspace import Workspace, records
from workspace.files import write_table
from workspace.seams import Fetched

SHA = "a" * 40
EDGE = 32  # pixels: the input of the tiny models


def png(seed: int, size: tuple[int, int] = (40, 36), mode: str = "RGB") -> bytes:
    """Return a smooth random picture, so that resizing it has something to do."""
    random = np.random.default_rng(seed)
    small = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.BICUBIC).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 70 distinct images of several sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    for i in range(70):
        (folder / f"{i:03d}.png").write_bytes(png(i, (30 + i % 5, 44 - i % 7)))
    return folder


def vit_config(**changes: Any) -> dict[str, Any]:
    labels = changes.pop("labels", ("ant", "bee", "cat", "dog", "elk"))
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "image_size": EDGE,
        "patch_size": 8,
        "num_channels": 3,
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
    } | changes


PROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "size": {"height": EDGE, "width": EDGE},
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "rescale_factor": 1 / 255,
    "resample": 2,
}


@pytest.fixture(scope="session")
def vit_tensors() -> Callable[..., dict[str, Any]]:
    """Random weights of a `vit_config`, by name."""

    def make(seed: int = 0, **changes: Any) -> dict[str, Any]:
        import torch
        from transformers import ViTConfig, ViTForImageClassification

        torch.manual_seed(seed)
        config = vit_config(**changes)
        model = ViTForImageClassification(ViTConfig.from_dict(config))
        with torch.no_grad():
            model.classifier.weight.normal_(0, 1)
        return {k: v.contiguous() for k, v in model.state_dict().items()}

    return make


def write_model(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Any] | None, processor: Mapping[str, Any] | None
) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if tensors is not None:
        save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return folder


class Repos:
    """Repositories in a folder, the catalog rows that list them, and a `Fetch` that counts."""

    def __init__(self, root: Path, vit_tensors: Callable[..., dict[str, Any]]) -> None:
        self.root, self._vit_tensors = root, vit_tensors
        self.rows: list[dict[str, Any]] = []
        self.fetched: list[str] = []
        self.released: list[str] = []

    def vit(self, name: str, seed: int = 0, processor: Mapping[str, Any] | None = PROCESSOR, **changes: Any) -> Path:
        folder = write_model(self.root / name, vit_config(**changes), self._vit_tensors(seed, **changes), processor)
        self.list(name)
        return folder

    def list(self, name: str, eligibility: str = "eligible", reason: str = "", **changes: Any) -> None:
        weights = self.root / name / "model.safetensors"
        row = {
            "id": name,
            "sha": SHA,
            "eligibility": eligibility,
            "reason": reason,
            "crawled_at": datetime(2026, 1, 1, tzinfo=timezone.utc),
            "weights_bytes": weights.stat().st_size if weights.exists() else None,
        }
        self.rows.append(row | changes)

    def write_catalog(self, workspace: Workspace) -> None:
        rows = [{name: row.get(name) for name in records.CATALOG.names} for row in self.rows]
        write_table(workspace.catalog_dir / "rows.parquet", pa.Table.from_pylist(rows, schema=records.CATALOG))

    def fetch(self, row: Mapping[str, Any]) -> Fetched:
        name = str(row["id"])
        self.fetched.append(name)
        return Fetched(self.root / name, 100, 0.001, lambda: self.released.append(name))


@pytest.fixture
def repos(tmp_path: Path, vit_tensors: Callable[..., dict[str, Any]]) -> Repos:
    return Repos(tmp_path / "repos", vit_tensors)


@pytest.fixture
def workspace(tmp_path: Path, pictures: Path) -> Workspace:
    """A workspace with a probe set of 70 images."""
    made = Workspace.create(tmp_path / "work")
    probing.probes.build(made, pictures, n=100, progress=False)
    return made


@pytest.fixture(scope="session")
def _probed(
    tmp_path_factory: pytest.TempPathFactory, pictures: Path, vit_tensors: Callable[..., dict[str, Any]]
) -> Callable[[int], Path]:
    """Returns a folder with the repositories ``model-0`` and on, and a workspace in which they were probed, once."""

    @cache
    def make(models: int) -> Path:
        folder = tmp_path_factory.mktemp("probed")
        repos, workspace = Repos(folder / "repos", vit_tensors), Workspace.create(folder / "work")
        probing.probes.build(workspace, pictures, n=100, progress=False)
        for i in range(models):
            repos.vit(f"model-{i}", seed=i)
        repos.write_catalog(workspace)
        probing.probe(workspace, repos.fetch, progress=False, isolate=False)
        return folder

    return make


@pytest.fixture
def probe_once(_probed: Callable[[int], Path], tmp_path: Path, repos: Repos) -> Callable[[int], Workspace]:
    """Gives a test a copy of such a workspace, and puts the repositories where it has its own."""

    def copy(models: int) -> Workspace:
        shutil.copytree(_probed(models), tmp_path, dirs_exist_ok=True)
        for i in range(models):
            repos.list(f"model-{i}")
        return Workspace.open(tmp_path / "work")

    return copy


@pytest.fixture
def settings(workspace: Workspace) -> Settings:
    return Settings(
        probe_set=workspace.probe_set,
        n_probes=70,
        batch_size=16,
        device="cpu",
        threads=2,
        seconds_per_model=60.0,
        max_parameters=10_000_000,
        max_labels=1000,
        max_image_size=256,
        probes_per_model=70,
    )


def by_repo(rows: Iterable[Mapping[str, Any]], column: str) -> dict[str, Any]:
    return {row["repo_id"]: row[column] for row in rows}
