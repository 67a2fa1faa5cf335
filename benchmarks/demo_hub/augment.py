"""The shared training pool: every training drawing augmented many times, once, for all models.

Run ``python -m benchmarks.demo_hub.augment``. Writes, under the asset folder,
``pool/images.npy`` (uint8, (concepts x PER_CONCEPT, 64, 64, 3)) with a concept's images in one
block, in the order of ``concepts.json``; and ``pool/heldout.npy`` with ``pool/heldout.json``: the
evaluation style's drawings, four times each, at 96 pixels, as the classifiers are tested.
"""

import json
import logging
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from benchmarks.demo_hub import render, sources
from benchmarks.demo_hub.concepts import Concept, load

PER_CONCEPT = 160
SIZE = 64
"""Pixels a side of a pool image."""
HELDOUT_VARIANTS = 4
"""A held-out drawing is tested on white, and three times shifted on a plain light colour."""
SEED = 20261122

log = logging.getLogger("augment")


def drawings_of(concepts: list[Concept], styles: tuple[str, ...]) -> list[NDArray[np.uint8]]:
    """Return each concept's drawings in the styles, arrays of shape (drawings, 96, 96, 4)."""
    banned = {tuple(pair) for pair in json.loads((sources.assets() / "renders" / "near_probe.json").read_text())}
    by_glyph: dict[str, list[NDArray[np.uint8]]] = {}
    for style in styles:
        images, names = render.load(style)
        for image, name in zip(images, names, strict=True):
            if (style, name["glyph"]) not in banned or style == sources.EVALUATION_STYLE:
                by_glyph.setdefault(name["glyph"], []).append(np.asarray(image))
    return [np.stack([image for glyph in c["glyphs"] for image in by_glyph.get(glyph, [])]) for c in concepts]


def uniform(generator: torch.Generator, n: int, low: float, high: float) -> Tensor:
    """Return ``n`` uniform float32 numbers."""
    return torch.rand(n, generator=generator) * (high - low) + low


def transform(images: Tensor, generator: torch.Generator, size: int, strength: float = 1.0) -> Tensor:
    """Return premultiplied RGBA images (n, 4, h, w) after a random affine map, (n, 4, size, size)."""
    n = len(images)
    angle = uniform(generator, n, -0.45, 0.45) * strength
    scale = 1 / (1 + uniform(generator, n, -0.42, 0.3) * strength)
    aspect = 1 + uniform(generator, n, -0.18, 0.22) * strength
    shear = uniform(generator, n, -0.2, 0.2) * strength
    flip = torch.where(uniform(generator, n, 0, 1) < 0.4, -1.0, 1.0)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    matrix = torch.zeros(n, 2, 3)
    matrix[:, 0, 0], matrix[:, 0, 1] = cos * flip * aspect, -sin + shear
    matrix[:, 1, 0], matrix[:, 1, 1] = sin * flip, cos / aspect
    matrix[:, :, 2] = torch.stack([uniform(generator, n, -0.22, 0.22) for _ in "xy"], 1) * strength
    grid = functional.affine_grid(matrix, [n, 4, size, size], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def backgrounds(generator: torch.Generator, n: int, size: int) -> Tensor:
    """Return (n, 3, size, size) in 0..1: white, plain, gradients and soft noise."""
    kind = uniform(generator, n, 0, 1)
    coarse = torch.rand(n, 3, 4, 4, generator=generator)
    cloud = functional.interpolate(coarse, size=(size, size), mode="bicubic", align_corners=False)
    corners = torch.rand(n, 3, 2, 2, generator=generator)
    gradient = functional.interpolate(corners, size=(size, size), mode="bilinear", align_corners=True)
    plain = torch.rand(n, 3, 1, 1, generator=generator).expand(-1, -1, size, size)
    result = torch.ones(n, 3, size, size)
    for low, high, field in ((0.35, 0.55, plain), (0.55, 0.75, gradient), (0.75, 1.0, cloud)):
        chosen = (kind >= low) & (kind < high)
        result[chosen] = field[chosen]
    return result.clamp(0, 1)


def disturb(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return (n, 3, h, w) images after colour, blur, noise and erasing, each for some of them."""
    n, _, size, _ = images.shape
    mix = torch.eye(3) + 0.16 * torch.randn(n, 3, 3, generator=generator)
    mix[uniform(generator, n, 0, 1) < 0.12] = torch.tensor([0.3, 0.59, 0.11]).expand(3, 3)
    mix = mix / mix.sum(2, keepdim=True).clamp(min=0.5)
    gain = uniform(generator, n, 0.7, 1.3).view(n, 1, 1, 1)
    images = torch.einsum("nij,njhw->nihw", mix, images)
    images = (images - 0.5) * gain + 0.5 + uniform(generator, n, -0.15, 0.15).view(n, 1, 1, 1)
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    soft = uniform(generator, n, 0, 1) < 0.25
    images[soft] = blurred[soft]
    images = images + 0.04 * uniform(generator, n, 0, 1).view(n, 1, 1, 1) * torch.randn(
        images.shape, generator=generator
    )
    for index in torch.nonzero(uniform(generator, n, 0, 1) < 0.25).flatten().tolist():
        height, width = torch.randint(size // 8, size // 3, (2,), generator=generator).tolist()
        top = int(torch.randint(0, size - height, (1,), generator=generator))
        left = int(torch.randint(0, size - width, (1,), generator=generator))
        images[index, :, top : top + height, left : left + width] = torch.rand(3, 1, 1, generator=generator)
    return images.clamp(0, 1)


def premultiplied(images: NDArray[np.uint8]) -> Tensor:
    """Return RGBA uint8 (n, h, w, 4) as premultiplied float32 (n, 4, h, w) in 0..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    return torch.cat([tensor[:, :3] * tensor[:, 3:], tensor[:, 3:]], 1)


def as_bytes(images: Tensor) -> NDArray[np.uint8]:
    """Return (n, 3, h, w) in 0..1 as uint8 (n, h, w, 3)."""
    array: NDArray[np.uint8] = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return array


def pool(concepts: list[Concept]) -> None:
    """Write the training pool."""
    folder = sources.assets() / "pool"
    folder.mkdir(exist_ok=True)
    groups = drawings_of(concepts, sources.TRAINING_STYLES)
    partial = folder / "images.partial.npy"
    shape = (len(groups) * PER_CONCEPT, SIZE, SIZE, 3)
    images = np.lib.format.open_memmap(partial, "w+", np.uint8, shape)
    generator = torch.Generator().manual_seed(SEED)
    for index, group in enumerate(groups):
        order = np.resize(np.arange(len(group)), PER_CONCEPT)
        flat = transform(premultiplied(group[order]), generator, SIZE)
        scene = flat[:, :3] + backgrounds(generator, len(order), SIZE) * (1 - flat[:, 3:])
        images[index * PER_CONCEPT : (index + 1) * PER_CONCEPT] = as_bytes(disturb(scene, generator))
    images.flush()
    partial.rename(folder / "images.npy")


def heldout(concepts: list[Concept]) -> None:
    """Write the evaluation style's images and, for each, its concept's key."""
    folder = sources.assets() / "pool"
    generator = torch.Generator().manual_seed(SEED + 1)
    images, keys = [], []
    groups = drawings_of(concepts, (sources.EVALUATION_STYLE,))
    for concept, group in zip(concepts, groups, strict=True):
        flat = premultiplied(group)
        images.append(as_bytes(flat[:, :3] + 1 - flat[:, 3:]))
        for _ in range(HELDOUT_VARIANTS - 1):
            moved = transform(flat, generator, render.SIZE, strength=0.4)
            light = 1 - 0.4 * torch.rand(len(flat), 3, 1, 1, generator=generator)
            images.append(as_bytes(moved[:, :3] + light * (1 - moved[:, 3:])))
        keys += [concept["key"]] * len(group) * HELDOUT_VARIANTS
    np.save(folder / "heldout.npy", np.concatenate(images))
    (folder / "heldout.json").write_text(json.dumps(keys), "utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    started = time.monotonic()
    pool(load())
    heldout(load())
    log.info("pool and held-out images written in %.0f s", time.monotonic() - started)
