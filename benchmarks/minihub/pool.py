"""MiniHub's training pool and its held-out images, made like the demo hub's (``demo_hub/augment.py``).

Run ``python -m benchmarks.minihub.pool``. Writes, under ``$HUBPROBE_ASSETS/minihub/pool``, ``images.npy``
(uint8, (concepts x PER_CONCEPT, 64, 64, 3), a concept's images in one block, in the order of
``concepts.json``), ``heldout.npy`` (uint8, (n, 96, 96, 3)) and ``heldout.json`` (the key of each). The
drawings to train on come from `sources.TRAINING_STYLES` only: neither the probe set's style nor the
held-out one is in the pool.
"""

import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.demo_hub import render, sources
from benchmarks.demo_hub.augment import (
    as_bytes,
    backgrounds,
    disturb,
    drawings_of,
    premultiplied,
    transform,
)
from benchmarks.minihub.concepts import load

PER_CONCEPT = 120
SIZE = 64
HELDOUT_VARIANTS = 4
"""A held-out drawing is tested on white, and three times moved a little on a plain light colour."""
SEED = 20261124

log = logging.getLogger("pool")


def root() -> Path:
    """Return the folder of everything that MiniHub's scripts produce."""
    folder = sources.assets() / "minihub"
    folder.mkdir(exist_ok=True)
    return folder


def write_pool(folder: Path) -> None:
    """Write the training images."""
    groups = drawings_of(load(), sources.TRAINING_STYLES)
    partial = folder / "images.partial.npy"
    images = np.lib.format.open_memmap(partial, "w+", np.uint8, (len(groups) * PER_CONCEPT, SIZE, SIZE, 3))
    generator = torch.Generator().manual_seed(SEED)
    for index, group in enumerate(groups):
        order = np.resize(np.arange(len(group)), PER_CONCEPT)
        flat = transform(premultiplied(group[order]), generator, SIZE)
        scene = flat[:, :3] + backgrounds(generator, len(order), SIZE) * (1 - flat[:, 3:])
        images[index * PER_CONCEPT : (index + 1) * PER_CONCEPT] = as_bytes(disturb(scene, generator))
    images.flush()
    partial.rename(folder / "images.npy")


def write_heldout(folder: Path) -> None:
    """Write the evaluation style's images and, for each, its concept's key."""
    generator = torch.Generator().manual_seed(SEED + 1)
    images, keys = [], []
    groups = drawings_of(load(), (sources.EVALUATION_STYLE,))
    for concept, group in zip(load(), groups, strict=True):
        flat = premultiplied(group)
        images.append(as_bytes(flat[:, :3] + 1 - flat[:, 3:]))
        for _ in range(HELDOUT_VARIANTS - 1):
            moved = transform(flat, generator, render.SIZE, strength=0.4)
            light = 1 - 0.4 * torch.rand(len(flat), 3, 1, 1, generator=generator)
            images.append(as_bytes(moved[:, :3] + light * (1 - moved[:, 3:])))
        keys += [concept["key"]] * len(group) * HELDOUT_VARIANTS
    np.save(folder / "heldout.npy", np.concatenate(images))
    (folder / "heldout.json").write_text(json.dumps(keys), "utf-8")


def pool_images() -> NDArray[np.uint8]:
    """Return the pool, memory-mapped."""
    images: NDArray[np.uint8] = np.load(root() / "pool" / "images.npy", mmap_mode="r")
    return images


def rows_of(keys: list[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pool's rows of the concepts and, for each row, the concept's place in ``keys``."""
    positions = {concept["key"]: index for index, concept in enumerate(load())}
    chosen = np.array([positions[key] for key in keys])
    rows = (chosen[:, None] * PER_CONCEPT + np.arange(PER_CONCEPT)).ravel()
    return rows, np.repeat(np.arange(len(keys)), PER_CONCEPT)


def heldout(keys: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the held-out images of the concepts and their places in ``keys``."""
    of_image = json.loads((root() / "pool" / "heldout.json").read_text("utf-8"))
    place = {key: index for index, key in enumerate(keys)}
    rows = [row for row, key in enumerate(of_image) if key in place]
    images = np.load(root() / "pool" / "heldout.npy", mmap_mode="r")[rows]
    return images, np.array([place[of_image[row]] for row in rows])


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    started = time.monotonic()
    (root() / "pool").mkdir(exist_ok=True)
    write_pool(root() / "pool")
    write_heldout(root() / "pool")
    log.info("%d concepts, pool and held-out images in %.0f s", len(load()), time.monotonic() - started)
