"""Train, save and test the demo hub's classifiers, one after another.

Run ``python -m benchmarks.demo_hub.models [repo...]`` after ``train.py``. A repo that has a record under
the asset folder's ``trained/`` is left alone; name it to train it again. A model that is right on
less than `MINIMUM_ACCURACY` of the unseen images is not put into the hub.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, PreTrainedModel

from benchmarks.demo_hub import cards, datasets_small, families, labels, processors, sources
from benchmarks.demo_hub.augment import PER_CONCEPT
from benchmarks.demo_hub.concepts import Concept, load
from benchmarks.demo_hub.plan import MODELS, SEED, Spec, assignment
from benchmarks.demo_hub.train import Data, Input, Recipe, fit, pool_images

HUB = Path(__file__).parents[2] / "hubprobe" / "demo" / "hub" / "models"
MINIMUM_ACCURACY = 0.6
MAXIMUM_BYTES = 400_000
FIRST_SIZE = 48
"""Pixels at which convolutional models begin, to be faster."""

log = logging.getLogger("models")


def kept(repo: str) -> Path:
    """Return where a model lies under the asset folder, healthy or not, for others to start from."""
    return sources.assets() / "trained" / repo.replace("/", "--")


def training_data(spec: Spec, keys: list[str]) -> Data:
    """Return a model's training images: its concepts' part of the pool, or a small data set."""
    if spec.data == "fashion":
        return Data(*datasets_small.fashion("train"))
    if spec.data == "digits":
        return Data(*datasets_small.digits("train"), mirror=False)
    positions = {concept["key"]: index for index, concept in enumerate(load())}
    chosen = np.array([positions[key] for key in keys])
    rows = (chosen[:, None] * PER_CONCEPT + np.arange(PER_CONCEPT)).ravel()
    teacher = np.load(sources.assets() / "pool" / "teacher.npy", mmap_mode="r")[rows][:, chosen]
    targets = np.repeat(np.arange(len(keys)), PER_CONCEPT)
    return Data(pool_images(), rows, targets, teacher.astype(np.float32))


def unseen(spec: Spec, keys: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Return test images (n, h, w, 3), their classes, and what they are called in the truth."""
    if spec.data == "fashion":
        images, _, targets = datasets_small.fashion("t10k")
        return images, targets, "fashion-mnist test"
    if spec.data == "digits":
        images, _, targets = datasets_small.digits("test")
        return images, targets, "mnist held out"
    folder = sources.assets() / "pool"
    of_image = json.loads((folder / "heldout.json").read_text())
    place = {key: index for index, key in enumerate(keys)}
    rows = [index for index, key in enumerate(of_image) if key in place]
    images = np.load(folder / "heldout.npy")[rows]
    return images, np.array([place[of_image[row]] for row in rows]), sources.EVALUATION_STYLE


@torch.inference_mode()
def accuracy(folder: Path, images: NDArray[np.uint8], targets: NDArray[np.int64]) -> float:
    """Return top-1 accuracy of a saved repo, through its own image processor, in float32."""
    model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    right = 0
    for at in range(0, len(images), 64):
        pictures = [Image.fromarray(image).convert("RGB") for image in images[at : at + 64]]
        logits = model(pixel_values=processor(images=pictures, return_tensors="pt")["pixel_values"]).logits
        right += int((logits.argmax(1).numpy() == targets[at : at + 64]).sum())
    return right / len(images)


def save(model: PreTrainedModel, spec: Spec, names: list[str], number: int, folder: Path) -> None:
    """Write a repo in Hugging Face layout: weights, configuration, processor and card."""
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: index for index, name in enumerate(names)}
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if spec.dtype == "float16":
        model = model.half()
    model.save_pretrained(folder)
    processors.processor(spec.processor, spec.size).save_pretrained(folder)
    (folder / "README.md").write_text(cards.card(spec, names, parameters, number), "utf-8")


def train(spec: Spec, keys: list[str], number: int, concepts: dict[str, Concept]) -> dict[str, Any]:
    """Train one model, publish it if it is good enough, and return its record."""
    started = time.monotonic()
    seed = SEED + number
    torch.manual_seed(seed)
    if spec.parent:
        model = AutoModelForImageClassification.from_pretrained(
            kept(spec.parent), num_labels=len(keys), ignore_mismatched_sizes=True, dtype=torch.float32
        )
    else:
        model = families.build(spec.family, len(keys), spec.width, spec.size)
    shrinks = spec.size > FIRST_SIZE and not hasattr(model.config, "image_size")
    norm = processors.normalisation(spec.processor)
    recipe = Recipe(steps=spec.steps, batch=spec.batch, learning_rate=spec.rate, seed=seed)
    first_size = FIRST_SIZE if shrinks else None
    wanted = Input(spec.size, norm.mean, norm.std, norm.reversed_channels, first_size)
    model = fit(model, training_data(spec, keys), recipe, wanted)
    seconds = time.monotonic() - started
    parameters = sum(parameter.numel() for parameter in model.parameters())
    names = labels.labels(spec, keys, concepts, seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(model, spec, names, number, folder)
        images, targets, style = unseen(spec, keys)
        top1 = accuracy(folder, images, targets)
        size = (folder / "model.safetensors").stat().st_size
        healthy = top1 >= MINIMUM_ACCURACY and size <= MAXIMUM_BYTES
        for target in (kept(spec.repo), HUB / spec.repo):
            shutil.rmtree(target, ignore_errors=True)
            if target.is_relative_to(HUB) and not healthy:
                continue
            target.mkdir(parents=True)
            for path in sorted(folder.iterdir()):
                (target / path.name).write_bytes(path.read_bytes())  # not the temporary folder's modes
    log.info("%s: %.3f of %d, %d bytes, %.0f s", spec.repo, top1, len(images), size, seconds)
    return {
        "repo": spec.repo, "model_type": model.config.model_type, "family": spec.family, "logits": keys,
        "labels": spec.labels, "parent": spec.parent, "size": spec.size, "parameters": parameters, "bytes": size,
        "dtype": spec.dtype,
        "steps": spec.steps, "seed": seed, "seconds": round(seconds), "heldout_top1": round(top1, 4),
        "heldout_style": style, "heldout_images": len(images), "healthy": healthy,
    }  # fmt: skip


def main(wanted: list[str]) -> None:
    """Train the named repos, or all that have no record yet."""
    folder = sources.assets() / "trained"
    folder.mkdir(exist_ok=True)
    concepts = {concept["key"]: concept for concept in load()}
    chosen = assignment()
    numbers = {spec.repo: number for number, spec in enumerate(MODELS)}
    parents_first = sorted(numbers, key=lambda repo: bool(MODELS[numbers[repo]].parent))
    for repo in wanted or parents_first:
        record = kept(repo).with_suffix(".json")
        if record.exists() and not wanted:
            continue
        result = train(MODELS[numbers[repo]], chosen[repo], numbers[repo], concepts)
        record.write_text(json.dumps(result, indent=1, ensure_ascii=False), "utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    main(sys.argv[1:])
