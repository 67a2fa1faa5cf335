"""Run some of PhotoHub's models as repositories through the real prober, and compare with the fast answers."""

import hashlib
import json
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

import crawler
from benchmarks.accuracy.collection import Model
from benchmarks.demo_hub import processors
from benchmarks.photohub import collection, lite, models, photos
from benchmarks.photohub.plan import Spec
from hubprobe.demo.repository import Repo
from hubprobe.demo.server import HubServer
from hubprobe.front import probe
from probing import probes as probe_sets
from workspace import Config, Workspace
from workspace.files import table_files

EACH = 1
"""Models of each kind that are checked, besides Lite0."""
PROBES = 300
"""Of ImageNet's photographs."""

log = logging.getLogger("check")


def _timm(
    folder: Path, number: int, tensors: dict[str, torch.Tensor], size: int, crop: float, names: list[str] | None
) -> None:
    count = len(tensors["classifier.bias"])
    about: dict[str, Any] = {
        "architecture": lite.architecture(number), "num_classes": count, "num_features": 1280,
        "pretrained_cfg": {
            "tag": "in1k" if count == 1000 else "tiny", "input_size": [3, size, size], "fixed_input_size": False,
            "interpolation": "bicubic", "crop_pct": crop, "crop_mode": "center", "mean": lite.MEAN, "std": lite.STD,
            "num_classes": count, "first_conv": "conv_stem", "classifier": "classifier",
        },
    }  # fmt: skip
    if names:
        about["label_names"] = names
    (folder / "config.json").write_text(json.dumps(about), "utf-8")
    save_file(
        {name: value.contiguous() for name, value in tensors.items()}, folder / "model.safetensors", {"format": "pt"}
    )


def assemble(spec: Spec, folder: Path) -> None:
    """Write a model as a repository."""
    own, names = load_file(models.folder() / f"{spec.number:03d}.safetensors"), spec.shown()
    folder.mkdir(parents=True)
    tags = "library_name: timm\n" if spec.base >= 0 else "library_name: transformers\n"
    (folder / "README.md").write_text(f"---\n{tags}pipeline_tag: image-classification\n---\n", "utf-8")
    if spec.kind == "scratch":
        network = models.load_scratch(spec)
        if names:
            network.config.id2label, network.config.label2id = (
                dict(enumerate(names)),
                {n: i for i, n in enumerate(names)},
            )
        network.save_pretrained(folder)
        processors.processor(models.processor_of(spec), models.SIZE).save_pretrained(folder)
        return
    tensors = lite.weights(spec.base)
    if spec.kind == "head":
        tensors |= {f"classifier.{name}": value for name, value in own.items()}
    else:
        last = max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
        places = {"block.": f"blocks.{last}.", "conv.": "conv_head.", "norm.": "bn2.", "classifier.": "classifier."}
        for name, value in own.items():
            start = next(prefix for prefix in places if name.startswith(prefix))
            tensors[places[start] + name.removeprefix(start)] = value
    _timm(folder, spec.base, tensors, lite.SMALL, 1.0, names)


def run() -> list[dict[str, Any]]:
    """Probe them and return, for each, the largest difference of a response in its logit's deviations."""
    root = photos.root() / "check"
    shutil.rmtree(root, ignore_errors=True)
    chosen = [
        s for kind in ("head", "block", "scratch") for s in [s for s in models.trained() if s.kind == kind][:EACH]
    ]
    for spec in chosen:
        assemble(spec, root / "hub" / spec.repo)
    (root / "hub" / collection.full_repo(0)).mkdir(parents=True)
    _timm(root / "hub" / collection.full_repo(0), 0, lite.weights(0), *lite.SIZES[0], None)
    (root / "hub" / collection.full_repo(0) / "README.md").write_text(
        "---\nlibrary_name: timm\npipeline_tag: image-classification\n---\n", "utf-8"
    )
    data = photos.probes().slice(0, PROBES)
    images = pa.array([{"bytes": one, "path": None} for one in data.column("bytes").to_pylist()])
    pq.write_table(pa.table({"image": images}), root / "probes.parquet")
    for name in ("NO_PROXY", "no_proxy"):  # the hub is on this machine
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    stored = Workspace.create(root / "workspace", Config())
    folders = sorted((root / "hub").glob("*/*"))
    with HubServer([Repo.from_folder(f"{f.parent.name}/{f.name}", f) for f in folders]) as server:
        workspace = Workspace(stored.root, replace(stored.config, endpoint=server.url))
        probe_sets.build(workspace, root / "probes.parquet", n=10 * PROBES, seed=0, progress=False)
        crawler.crawl(workspace, token="", progress=False)
        log.info("%s", probe(workspace, token="", progress=False, precision="float32", device="cpu"))
    return compare(workspace, chosen)


def compare(workspace: Workspace, chosen: list[Spec]) -> list[dict[str, Any]]:
    """Compare what a workspace holds with the fast answers; the probes are told apart by their bytes."""
    given = photos.probes().slice(0, PROBES).column("image_hash").to_pylist()
    place = {one: i for i, one in enumerate(given)}
    stored = workspace.probes(["image"]).column("image").to_pylist()
    columns = np.array([place[hashlib.sha256(one["bytes"]).hexdigest()] for one in stored])
    rows = []
    ours = {m.repo_id: m for m in _ours(chosen)}
    for path in table_files(workspace.responses_dir(workspace.probe_set)):
        table = pq.read_table(path)
        own = ours[table.column("repo_id")[0].as_py()].raw[table.column("logit").to_numpy()][:, columns]
        mean, std = table.column("mean").to_numpy()[:, None], table.column("std").to_numpy()[:, None]
        theirs = np.stack([one.values.to_numpy(zero_copy_only=False) for one in table.column("response")])
        apart = np.abs((own - mean) / std - theirs.astype(np.float32))
        worst = float(apart.max())
        rows.append(
            {
                "repo": table.column("repo_id")[0].as_py(),
                "logits": len(own),
                "largest difference, sd": round(worst, 4),
                "median": float(np.median(apart)),
            }
        )
    return rows


def _ours(chosen: list[Spec]) -> list[Model]:
    names = photos.classes()[0]
    full = Model(collection.full_repo(0), np.ascontiguousarray(lite.kept("whole", 0, PROBES).T), list(names))
    return [full, *(Model(s.repo, collection._answers(s, PROBES), [""] * len(s.classes)) for s in chosen)]
