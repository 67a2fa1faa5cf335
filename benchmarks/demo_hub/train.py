"""Training: one loop for the teacher and for every classifier of the demo hub.

Run ``python -m benchmarks.demo_hub.train`` to train the teacher, one larger ResNet over all
concepts, and to store its logits on the pool. The tiny classifiers learn from the labels and from
the teacher's logits, restricted to their own concepts (Hinton et al. 2015, temperature 2).
"""

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from benchmarks.demo_hub import families, sources
from benchmarks.demo_hub.augment import PER_CONCEPT
from benchmarks.demo_hub.concepts import load

TEMPERATURE = 2.0
FIRST_PART = 0.7
SETTLING = 24
TEACHER_SEED = 7
TEACHER_STEPS = 1000
TEACHER_WIDTH = 2.0

log = logging.getLogger("train")


@dataclass(frozen=True)
class Recipe:
    """How one model is trained; every field is written into the table of the demo hub."""

    steps: int = 600
    batch: int = 96
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    smoothing: float = 0.05
    distil: float = 0.6
    """Weight of the teacher's part of the loss, 0 to 1."""
    seed: int = 0


@dataclass(frozen=True)
class Data:
    """Training images with their targets.

    ``images`` is uint8 (n, h, w, 3); ``rows`` the indices into it that are used; ``targets`` int64,
    one class per row; ``teacher`` float32 (rows, classes), or None; ``mirror`` whether a mirrored
    image still shows the same thing.
    """

    images: NDArray[np.uint8]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]
    teacher: NDArray[np.float32] | None = None
    mirror: bool = True


def jitter(images: Tensor, generator: torch.Generator, mirror: bool) -> Tensor:
    """Return float images (n, 3, h, w) in 0..1, shifted by up to a sixteenth, half of them mirrored."""
    flips = torch.rand(len(images), generator=generator) < (0.5 if mirror else 0.0)
    images = torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)
    most = images.shape[3] // 16
    shift = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
    images = torch.roll(images, shifts=shift, dims=(2, 3))
    gain = 0.85 + 0.3 * torch.rand(len(images), 1, 1, 1, generator=generator)
    return (images * gain).clamp(0, 1)


@dataclass(frozen=True)
class Input:
    """What a model's image processor makes of an image, for training to imitate."""

    size: int
    mean: list[float]
    std: list[float]
    reversed_channels: bool = False
    first_size: int | None = None
    """Pixels for the first `FIRST_PART` of the steps, to be faster; None for ``size`` throughout."""

    def prepare(self, data: Data, picked: NDArray[np.int64], size: int, generator: torch.Generator) -> Tensor:
        """Return the picked training images, jittered, as the model takes them: (n, 3, size, size)."""
        images = torch.from_numpy(data.images[data.rows[picked]]).permute(0, 3, 1, 2).float() / 255
        images = jitter(images, generator, data.mirror)
        if images.shape[2] != size:
            images = functional.interpolate(images, size=(size, size), mode="bilinear", antialias=True)
        if self.reversed_channels:
            images = images.flip(1)
        centre, spread = torch.tensor(self.mean).view(1, 3, 1, 1), torch.tensor(self.std).view(1, 3, 1, 1)
        return ((images - centre) / spread).contiguous(memory_format=torch.channels_last)


def batches(count: int, size: int, steps: int, generator: torch.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield ``steps`` arrays of ``size`` row numbers, shuffled anew for every pass over the rows."""
    order, at = torch.randperm(count, generator=generator), 0
    for _ in range(steps):
        if at + size > count:
            order, at = torch.randperm(count, generator=generator), 0
        yield order[at : at + size].numpy()
        at += size


@torch.no_grad()
def settle(model: PreTrainedModel, data: Data, wanted: Input, generator: torch.Generator) -> None:
    """Measure the batch normalisation's means and variances anew over `SETTLING` batches.

    Needed where a class's momentum (MobileNet: 0.9997) remembers little but the last batch.
    """
    layers = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None
    if layers:
        for picked in batches(len(data.rows), 96, SETTLING, generator):
            model(pixel_values=wanted.prepare(data, picked, wanted.size, generator))


def fit(model: PreTrainedModel, data: Data, recipe: Recipe, wanted: Input) -> PreTrainedModel:
    """Train ``model`` and return it in evaluation mode."""
    generator = torch.Generator().manual_seed(recipe.seed)
    torch.manual_seed(recipe.seed)
    model = model.train().to(memory_format=torch.channels_last)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=recipe.steps, pct_start=0.2
    )
    started, total = time.monotonic(), 0.0
    for step, picked in enumerate(batches(len(data.rows), recipe.batch, recipe.steps, generator)):
        small = wanted.first_size is not None and step < FIRST_PART * recipe.steps
        size = wanted.first_size if small and wanted.first_size else wanted.size
        logits = model(pixel_values=wanted.prepare(data, picked, size, generator)).logits
        loss = functional.cross_entropy(
            logits, torch.from_numpy(data.targets[picked]), label_smoothing=recipe.smoothing
        )
        if data.teacher is not None and recipe.distil:
            taught = functional.softmax(torch.from_numpy(data.teacher[picked]) / TEMPERATURE, dim=1)
            told = functional.cross_entropy(logits / TEMPERATURE, taught) * TEMPERATURE
            loss = (1 - recipe.distil) * loss + recipe.distil * told
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 2.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if (step + 1) % 100 == 0:
            log.info("step %d loss %.3f, %.0f s", step + 1, total / 100, time.monotonic() - started)
            total = 0.0
    settle(model, data, wanted, generator)
    return model.eval().to(memory_format=torch.contiguous_format)


def pool_images() -> NDArray[np.uint8]:
    """Return the shared pool (n, 64, 64, 3), memory-mapped; a concept's images lie side by side."""
    images: NDArray[np.uint8] = np.load(sources.assets() / "pool" / "images.npy", mmap_mode="r")
    return images


@torch.inference_mode()
def predict(model: PreTrainedModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return logits (n, classes) of 64 pixel images normalised to mean 0.5 and deviation 0.5."""
    parts = []
    for at in range(0, len(images), 256):
        batch = torch.from_numpy(images[at : at + 256]).permute(0, 3, 1, 2).float() / 255
        parts.append(model(pixel_values=((batch - 0.5) / 0.5).contiguous(memory_format=torch.channels_last)).logits)
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def teacher() -> None:
    """Train the teacher and write ``pool/teacher.npy``, float16 logits (pool images, concepts)."""
    count = len(load())
    images = pool_images()
    targets = np.repeat(np.arange(count), PER_CONCEPT)
    torch.manual_seed(TEACHER_SEED)
    model = families.build("resnet", count, TEACHER_WIDTH)
    recipe = Recipe(steps=TEACHER_STEPS, batch=128, seed=TEACHER_SEED, smoothing=0.05)
    data = Data(images, np.arange(len(images)), targets)
    model = fit(model, data, recipe, Input(64, [0.5] * 3, [0.5] * 3))
    folder = sources.assets() / "pool"
    model.save_pretrained(folder / "teacher")
    logits = predict(model, images)
    np.save(folder / "teacher.npy", logits.astype(np.float16))
    log.info("teacher: %.3f of the pool right", float((logits.argmax(1) == targets).mean()))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    teacher()
