"""Train PhotoHub's classifiers, keep them, and make repositories of them.

A head and a last block are learnt on features (`lite.train_features`), the small ones on photographs of 64 pixels.
Each leaves a record and its weights under ``$HUBPROBE_ASSETS/photohub/models``; one that has a record is left alone.
"""

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn import functional

from benchmarks.demo_hub import families, processors
from benchmarks.demo_hub.train import Data, Input, Recipe, batches, fit
from benchmarks.photohub import lite, photos
from benchmarks.photohub.plan import SEED, Spec, plan

PROCESSORS = ("vit", "vit_half", "beit")
"""Image processors of the small ones, in turn: all scale the photograph to a square, each normalises its own way."""
SIZE = 64
TESTED = 50
"""Photographs of a class that a small one is tested on: Tiny-ImageNet's last of each."""
GENTLE = {"vit", "swin", "levit"}

log = logging.getLogger("models")


def folder() -> Path:
    """Return where records and weights lie."""
    made = photos.root() / "models"
    made.mkdir(exist_ok=True)
    return made


def record(spec: Spec) -> dict[str, Any] | None:
    """Return what is known of a trained model, or None."""
    path = folder() / f"{spec.number:03d}.json"
    found: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.exists() else None
    return found


def trained() -> list[Spec]:
    """Return the models that are there."""
    return [spec for spec in plan() if record(spec) is not None]


def processor_of(spec: Spec) -> str:
    """Return the kind of image processor of a small model."""
    return PROCESSORS[spec.number % len(PROCESSORS)]


class Tail(torch.nn.Module):
    """An EfficientNet-Lite from its last block on."""

    def __init__(self, number: int, outputs: int) -> None:
        super().__init__()
        network = lite.timm.create_model(lite.architecture(number), pretrained=False)
        network.load_state_dict(lite.weights(number))
        self.block, self.conv, self.norm = network.blocks[-1], network.conv_head, network.bn2
        self.classifier = torch.nn.Linear(network.num_features, outputs)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return logits of maps ``[n, channels, 4, 4]``."""
        features: torch.Tensor = self.norm(self.conv(self.block(maps))).mean((2, 3))
        logits: torch.Tensor = self.classifier(features)
        return logits


def _learn(network: torch.nn.Module, inputs: torch.Tensor, targets: torch.Tensor, spec: Spec, rate: float) -> None:
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=spec.decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.steps)
    generator = torch.Generator().manual_seed(SEED + spec.number)
    for picked in batches(len(targets), min(64, len(targets)), spec.steps, generator):
        loss = functional.cross_entropy(network(inputs[picked]), targets[picked], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()


def _tuned(spec: Spec) -> tuple[dict[str, torch.Tensor], float]:
    """Train a head, or the last block too, on the kept features; return the weights and the accuracy held out."""
    _, labels, held = photos.training()
    place = {one: i for i, one in enumerate(spec.classes)}
    own = np.isin(labels, spec.classes)
    chance = np.random.default_rng(SEED + spec.number)
    rows = np.concatenate(
        [chance.choice(np.flatnonzero((labels == one) & ~held), spec.images, replace=False) for one in spec.classes]
    )
    tests = np.flatnonzero(own & held)
    targets = torch.tensor([place[int(labels[row])] for row in rows])
    torch.manual_seed(SEED + spec.number)
    if spec.kind == "head":
        every = lite.train_features(spec.base)
        network: torch.nn.Module = torch.nn.Linear(every.shape[1], len(place))
        torch.nn.init.zeros_(network.weight)
    else:
        every = np.load(photos.root() / "features" / f"train-maps-{spec.base}.npy", mmap_mode="r")
        network = Tail(spec.base, len(place)).eval()  # normalisation as it was, as is usual with few images
    _learn(
        network, torch.from_numpy(every[rows].astype(np.float32)), targets, spec, 1e-2 if spec.kind == "head" else 5e-4
    )
    with torch.inference_mode():
        said = network(torch.from_numpy(every[tests].astype(np.float32))).argmax(1).numpy()
    accuracy = float(np.mean([place[int(labels[row])] == one for row, one in zip(tests, said, strict=True)]))
    return network.state_dict(), accuracy


def photographs(classes: tuple[int, ...], first: int, last: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return training photographs of classes, uint8 ``[n, 64, 64, 3]``, and each one's place in ``classes``."""
    rows = photos.table("tiny_imagenet_train")
    labels = rows.column("label").to_numpy()
    data = rows.column("image").combine_chunks().field("bytes")
    chosen = [np.flatnonzero(labels == one)[first:last] for one in classes]
    taken = data.take(pa.array(np.concatenate(chosen)))
    images = np.stack([np.asarray(photos.picture(one.as_py())) for one in taken])
    return images, np.repeat(np.arange(len(classes)), [one.size for one in chosen])


def _scratch(spec: Spec) -> tuple[dict[str, torch.Tensor], float]:
    torch.manual_seed(SEED + spec.number)
    network = families.build(spec.family, len(spec.classes), 1.0, SIZE)
    norm = processors.normalisation(processor_of(spec))
    images, targets = photographs(spec.classes, 0, spec.images)
    recipe = Recipe(
        steps=spec.steps, batch=64, learning_rate=1.5e-3 if spec.family in GENTLE else 3e-3, seed=SEED + spec.number
    )
    shrinks = None if hasattr(network.config, "image_size") else 40
    data = Data(images, np.arange(len(images)), targets)
    network = fit(network, data, recipe, Input(SIZE, norm.mean, norm.std, norm.reversed_channels, shrinks))
    images, targets = photographs(spec.classes, 500 - TESTED, 500)
    said = run(network, spec, images).argmax(1)
    return network.state_dict(), float((said == targets).mean())


@torch.inference_mode()
def run(network: Any, spec: Spec, images: NDArray[np.uint8] | list[Any]) -> NDArray[np.float32]:
    """Return a small model's logits of photographs, through its own image processor."""
    processor, parts = processors.processor(processor_of(spec), SIZE), []
    for start in range(0, len(images), 250):
        pixels = processor(images=list(images[start : start + 250]), return_tensors="pt")["pixel_values"]
        parts.append(network(pixel_values=pixels).logits.float().numpy())
    return np.concatenate(parts)


def load_scratch(spec: Spec) -> Any:
    """Return a trained small model."""
    network = families.build(spec.family, len(spec.classes), 1.0, SIZE)
    network.load_state_dict(load_file(folder() / f"{spec.number:03d}.safetensors"))
    return network.eval()


def train(kinds: tuple[str, ...]) -> None:
    """Train every model of these kinds that is missing."""
    for spec in plan():
        if spec.kind not in kinds or record(spec) is not None:
            continue
        started = time.monotonic()
        tensors, accuracy = _scratch(spec) if spec.kind == "scratch" else _tuned(spec)
        save_file(
            {name: value.contiguous() for name, value in tensors.items()}, folder() / f"{spec.number:03d}.safetensors"
        )
        about = {"repo": spec.repo, "accuracy": round(accuracy, 4), "seconds": round(time.monotonic() - started, 1)}
        partial = folder() / f"partial-{spec.number:03d}"
        partial.write_text(json.dumps(about), "utf-8")
        partial.rename(folder() / f"{spec.number:03d}.json")
        log.info("%s: %.3f of %d classes, %.0f s", spec.repo, accuracy, len(spec.classes), about["seconds"])
