"""Train MiniHub's bases: one model per architecture, which its classifiers start from.

Run ``python -m benchmarks.minihub.bases [family...]`` after ``pool.py``; a base that has a record is left
alone. Every base learns its own random three quarters of the concepts (slow families 15 %), from scratch and from
labels alone, so many classifiers are asked for concepts that their base never saw. Writes, under
``$HUBPROBE_ASSETS/minihub/bases``, a folder and a record for each.
"""

import json
import logging
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.demo_hub import families, processors
from benchmarks.demo_hub.models import accuracy
from benchmarks.demo_hub.train import Data, Input, Recipe, fit
from benchmarks.minihub import pool
from benchmarks.minihub.concepts import load

SIZE = 48
SHARE = 0.75
"""Of the concepts, which a base is trained on."""
FEW = 0.15
"""The same for families that do not get off the ground on more: a MobileNet V1 and an EfficientNet were right on
4 and 2 % of 280 concepts after as much training as gave a ResNet 37 %; a PVT, on 4 %, was given up."""
SEED = 31
PROCESSOR = "vit_half"
BATCH = 64

log = logging.getLogger("bases")


@dataclass(frozen=True)
class Base:
    """How a family's base is trained: 60 to 100 s each.

    ``share`` of the concepts is what it learns; ``resizable`` whether the family takes other sizes than `SIZE`.
    """

    steps: int
    rate: float = 3e-3
    share: float = SHARE
    resizable: bool = True

    @property
    def slow(self) -> bool:
        """Whether the family learns little in this time, so that it is asked for fewer concepts."""
        return self.share < SHARE


BASES: dict[str, Base] = {
    "resnet": Base(1600),
    "regnet_x": Base(1300),
    "poolformer": Base(2200),
    "convnext": Base(1100),
    "resnet_bottleneck": Base(1000),
    "efficientnet": Base(1000, share=FEW),
    "bit": Base(1200),
    "mobilenet_v1": Base(1100, share=FEW),
    "regnet": Base(900),
    "levit": Base(1700, 2e-3, FEW, resizable=False),
    "convnextv2": Base(1000),
    "swin": Base(900, 2e-3, FEW, resizable=False),
    "focalnet": Base(750, 2e-3, FEW, resizable=False),
    "vit": Base(1100, 1.5e-3, FEW, resizable=False),
}
"""In the order of training: if time runs out, the later ones are missing."""


def folder_of(family: str) -> Path:
    """Return where a family's base lies; its record lies beside it."""
    return pool.root() / "bases" / family


def subset(family: str) -> list[str]:
    """Return the keys of the concepts that a family's base is trained on, drawn with a seed."""
    keys = [concept["key"] for concept in load()]
    chance = random.Random(f"{SEED} {family}")
    return sorted(chance.sample(keys, round(BASES[family].share * len(keys))))


def train(family: str) -> dict[str, Any]:
    """Train and store one base; returns its record."""
    started, base, keys = time.monotonic(), BASES[family], subset(family)
    seed = SEED + list(BASES).index(family)
    torch.manual_seed(seed)
    model = families.build(family, len(keys), 1.0, SIZE)
    norm = processors.normalisation(PROCESSOR)
    recipe = Recipe(steps=base.steps, batch=BATCH, learning_rate=base.rate, seed=seed, distil=0.0)
    rows, targets = pool.rows_of(keys)
    model = fit(model, Data(pool.pool_images(), rows, targets), recipe, Input(SIZE, norm.mean, norm.std))
    seconds = time.monotonic() - started
    folder = folder_of(family)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model.save_pretrained(folder)
    processors.processor(PROCESSOR, SIZE).save_pretrained(folder)
    images, classes = pool.heldout(keys)
    top1 = accuracy(folder, images, classes)
    log.info("%s: %.3f of %d, %.0f s", family, top1, len(images), seconds)
    return {
        "family": family, "model_type": model.config.model_type, "concepts": keys, "steps": base.steps,
        "seed": seed, "seconds": round(seconds), "heldout_top1": round(top1, 4), "heldout_images": len(images),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }  # fmt: skip


def record_of(family: str) -> dict[str, Any] | None:
    """Return a base's record, or None if it has not been trained."""
    path = folder_of(family).with_suffix(".json")
    if not path.exists():
        return None
    record: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return record


def main(wanted: list[str]) -> None:
    """Train the named families' bases, or all that have no record yet."""
    for family in wanted or list(BASES):
        if wanted or record_of(family) is None:
            record = train(family)
            folder_of(family).with_suffix(".json").write_text(json.dumps(record, indent=1), "utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    torch.set_num_threads(1)
    main(sys.argv[1:])
