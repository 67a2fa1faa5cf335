"""Train, save and test MiniHub's classifiers, one after another, families in turn.

Run ``python -m benchmarks.minihub.models [number...]`` after ``bases.py``. A model that has a record is left
alone, so the same command goes on after a stop; the families that have no base are left out. The classifiers
learn from labels alone. One that is right on less than `MINIMUM_ACCURACY` of the held-out images gets a
record but is not published.
"""

import json
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from benchmarks.demo_hub import families, processors
from benchmarks.demo_hub.models import accuracy
from benchmarks.demo_hub.train import Data, Input, Recipe, fit
from benchmarks.minihub import pool
from benchmarks.minihub.bases import BATCH, SIZE, folder_of, record_of
from benchmarks.minihub.plan import SEED, Spec, plan

MINIMUM_ACCURACY = 0.30
MINIMUM_BASE = 0.10
"""A base under this share of its concepts never got off the ground; its family is left out."""
REDRAWN = 0.35
"""Share of the tensors, counted from the head, that a ``partly`` started model draws anew."""

CARD = """---
license: cc-by-4.0
library_name: transformers
pipeline_tag: image-classification
---
A small {family} trained on drawings of {count} things.
"""

log = logging.getLogger("models")


def published(repo: str) -> Path:
    """Return where the hub keeps a repo."""
    return pool.root() / "hub" / repo


def record_file(spec: Spec) -> Path:
    """Return where a model's record lies, published or not."""
    return pool.root() / "records" / f"{spec.number:03d}.json"


@torch.no_grad()
def perturb(model: PreTrainedModel, noise: float, generator: torch.Generator) -> None:
    """Add noise to every weight tensor, ``noise`` times the tensor's own deviation."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.add_(torch.randn(parameter.shape, generator=generator) * parameter.std(), alpha=noise)


@torch.no_grad()
def redraw(model: PreTrainedModel, fresh: PreTrainedModel) -> None:
    """Replace the last layers by those of a freshly drawn model."""
    new = dict(fresh.named_parameters())
    named = list(model.named_parameters())
    for name, parameter in named[round(len(named) * (1 - REDRAWN)) :]:
        parameter.copy_(new[name])


def start(spec: Spec, seed: int) -> PreTrainedModel:
    """Return the model that training starts from."""
    torch.manual_seed(seed)
    if spec.start == "scratch":
        return families.build(spec.family, len(spec.keys), 1.0, spec.size)
    model: PreTrainedModel = transformers.AutoModelForImageClassification.from_pretrained(
        folder_of(spec.family), num_labels=len(spec.keys), ignore_mismatched_sizes=True, dtype=torch.float32
    )
    if spec.start == "perturbed":
        perturb(model, spec.noise, torch.Generator().manual_seed(seed))
    if spec.start == "partly":
        redraw(model, families.build(spec.family, len(spec.keys), 1.0, SIZE))
    return model


def save(model: PreTrainedModel, spec: Spec, folder: Path) -> None:
    """Write a repo in Hugging Face layout; the labels are the concepts' names."""
    model.config.id2label = dict(enumerate(spec.keys))
    model.config.label2id = {name: index for index, name in enumerate(spec.keys)}
    model.save_pretrained(folder)
    processors.processor(spec.processor, spec.size).save_pretrained(folder)
    (folder / "README.md").write_text(CARD.format(family=spec.family, count=len(spec.keys)), "utf-8")


def train(spec: Spec) -> dict[str, Any]:
    """Train one model, publish it if it is good enough, and return its record."""
    started, seed, keys = time.monotonic(), SEED + spec.number, list(spec.keys)
    model = start(spec, seed)
    norm = processors.normalisation(spec.processor)
    wanted = Input(spec.size, norm.mean, norm.std, norm.reversed_channels, SIZE if spec.size > SIZE else None)
    recipe = Recipe(steps=spec.steps, batch=BATCH, learning_rate=spec.rate, seed=seed, distil=0.0)
    rows, targets = pool.rows_of(keys)
    model = fit(model, Data(pool.pool_images(), rows, targets), recipe, wanted)
    seconds = time.monotonic() - started
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images, classes = pool.heldout(keys)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(model, spec, folder)
        top1 = accuracy(folder, images, classes)
        target = published(spec.repo)
        shutil.rmtree(target, ignore_errors=True)
        if top1 >= MINIMUM_ACCURACY:
            partial = pool.root() / "partial"  # renamed when complete: the hub may be served meanwhile
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for path in sorted(folder.iterdir()):
                (partial / path.name).write_bytes(path.read_bytes())  # not the temporary folder's modes
            target.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(target)
    base = record_of(spec.family) if spec.start != "scratch" else None
    fresh = sorted(set(keys) - set(base["concepts"])) if base else keys
    log.info("%s: %s, %.3f of %d, %.0f s", spec.repo, spec.start, top1, len(images), seconds)
    return {
        "repo": spec.repo, "family": spec.family, "model_type": model.config.model_type, "logits": keys,
        "heldout_top1": round(top1, 4), "heldout_images": len(images), "published": top1 >= MINIMUM_ACCURACY,
        "start": spec.start, "noise": round(spec.noise, 3), "unknown_to_base": len(fresh), "steps": spec.steps,
        "rate": round(spec.rate, 6), "size": spec.size, "processor": spec.processor, "seed": seed,
        "parameters": parameters, "seconds": round(seconds, 1),
    }  # fmt: skip


def usable(family: str) -> bool:
    """Return whether a family has a base that learnt something."""
    record = record_of(family)
    return record is not None and record["heldout_top1"] >= MINIMUM_BASE


def main(wanted: list[int]) -> None:
    """Train the numbered models, or all that have no record yet."""
    (pool.root() / "records").mkdir(exist_ok=True)
    for spec in plan():
        if not usable(spec.family) or (wanted and spec.number not in wanted):
            continue
        if wanted or not record_file(spec).exists():
            record_file(spec).write_text(json.dumps(train(spec), indent=1), "utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("train").setLevel(logging.WARNING)
    families.hf.logging.set_verbosity_error()
    families.hf.logging.disable_progress_bar()
    torch.set_num_threads(1)
    main([int(number) for number in sys.argv[1:]])
