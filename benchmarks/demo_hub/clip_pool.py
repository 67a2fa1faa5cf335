"""What the image tower is trained on: drawings, augmented once into one memory-mapped pool.

Run ``python -m benchmarks.demo_hub.clip_pool`` after ``render.py``. Sources: every emoji style but the
probe style, and the clip art that is not kept for probes. A drawing that looks like a probe is left out.
Writes ``pool.npy`` (n, 96, 96, 3) uint8, ``pool_caption.npy`` (n,) int32 (-1: no caption),
``pool_style.npy`` (n,) int8 (index into `STYLES`) and ``captions.json``.
"""

import json
import sys
import warnings
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from benchmarks.demo_hub import clipart, sources
from benchmarks.demo_hub.clip_targets import SEED, work
from benchmarks.demo_hub.probe_sources import CONCRETE, glyph_captions, renders
from benchmarks.demo_hub.probes import distances, fingerprint, select

SIZE = 96
STYLES = (*(style for style in sources.STYLES if style != sources.PROBE_STYLE), "openclipart")
TOO_NEAR = 0.05
"""Fingerprint distance to any probe below which a drawing is not trained on."""
COPIES = {"concrete": 7, "other": 2, "clipart": 10, "uncaptioned": 2}
"""Augmented copies of each drawing, by kind."""
UNCAPTIONED_LIMIT = 2_000
POOL_LIMIT = 32_768
"""Views kept, a random part of all: what the teacher can look at in the time."""
SPOKEN_FOR = (
    "man-", "woman-", "person-", "men-", "women-", "people-", "family", "couple", "kiss-", "keycap", "japanese-",
)  # fmt: skip
"""Beginnings of glyph names that differ too little from one another to be worth training on."""


class Item(NamedTuple):
    """A drawing to train on: RGBA (96, 96, 4) uint8, caption ("" if none), style, kind (a key of `COPIES`)."""

    rgba: NDArray[np.uint8]
    caption: str
    style: str
    kind: str


def emoji_items() -> list[Item]:
    """Return the emoji of all styles but the probe style."""
    captions = glyph_captions()
    found = []
    for style in STYLES[:-1]:
        for image, entry in zip(*renders(style), strict=True):
            kind = "concrete" if entry["category"] in CONCRETE else "other"
            if not entry["glyph"].startswith(SPOKEN_FOR):
                found.append(Item(np.asarray(image), captions[entry["glyph"]], style, kind))
    return found


def clipart_items() -> list[Item]:
    """Return the captioned clip art outside the probe share, and a seeded choice of the uncaptioned rest."""
    known = clipart.drawings()
    found = [Item(d.rgba, d.caption, "openclipart", "clipart") for d in known if not clipart.reserved(d.path)]
    taken = {d.path for d in known}
    root = clipart.folder()
    rest = [path for path in sorted(root.rglob("*.png")) if path.relative_to(root).as_posix() not in taken]
    rest = [path for path in rest if not path.relative_to(root).as_posix().startswith(("shapes", "special"))]
    order = np.random.default_rng(SEED).permutation(len(rest))[:UNCAPTIONED_LIMIT]
    for index in order:
        with Image.open(rest[index]) as image:
            if min(image.size) >= clipart.MINIMUM_SIDE and image.width * image.height <= clipart.MAXIMUM_PIXELS:
                found.append(Item(clipart.fit(image), "", "openclipart", "uncaptioned"))
    return found


def items() -> list[Item]:
    """Return everything to train on, without what looks like a probe."""
    probes = np.stack([fingerprint(probe.rgba) for probe in select()])
    everything = [*emoji_items(), *clipart_items()]
    nearest = distances(np.stack([fingerprint(item.rgba) for item in everything]), probes).min(1)
    kept = [item for item, distance in zip(everything, nearest, strict=True) if distance >= TOO_NEAR]
    sys.stderr.write(f"{len(kept)} drawings; {len(everything) - len(kept)} left out as too like a probe\n")
    return kept


def background(rng: np.random.Generator, others: list[Item]) -> Image.Image:
    """Return a random background: white, tinted, plain, a gradient, or another drawing out of focus."""
    kind = rng.random()
    if kind < 0.45:
        return Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    low = 215 if kind < 0.65 else 0
    first, second = rng.integers(low, 256, 3), rng.integers(low, 256, 3)
    if kind < 0.80:
        return Image.new("RGB", (SIZE, SIZE), tuple(int(v) for v in first))
    if kind < 0.92:
        ramp = np.linspace(0, 1, SIZE)[:, None, None] * (second - first) + first
        image = np.broadcast_to(ramp, (SIZE, SIZE, 3)).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(image if rng.random() < 0.5 else image.transpose(1, 0, 2)))
    canvas = Image.new("RGB", (SIZE, SIZE), tuple(int(v) for v in first))
    drawing = Image.fromarray(others[rng.integers(len(others))].rgba).resize((2 * SIZE, 2 * SIZE))
    canvas.paste(drawing, (-SIZE // 2, -SIZE // 2), drawing)
    return canvas.filter(ImageFilter.GaussianBlur(5))


def restyle(rgba: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the drawing as it is, or as a silhouette, outline, grey, recoloured or posterised one."""
    kind = rng.random()
    alpha = rgba.getchannel("A")
    colour = rgba.convert("RGB")
    if kind < 0.06:
        colour = Image.new("RGB", rgba.size, tuple(int(v) for v in rng.integers(0, 70, 3)))
    elif kind < 0.13:
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(colour, mask=alpha)
        grown = white.convert("L").filter(ImageFilter.GaussianBlur(0.6)).filter(ImageFilter.FIND_EDGES)
        colour = ImageOps.invert(grown.point(lambda v: min(255, 4 * v))).convert("RGB")
    elif kind < 0.23:
        colour = ImageOps.autocontrast(colour.convert("L")).convert("RGB")
    elif kind < 0.38:
        hsv = np.asarray(colour.convert("HSV")).copy()
        hsv[..., 0] = hsv[..., 0] + rng.integers(-40, 41)
        colour = Image.fromarray(hsv, "HSV").convert("RGB")
    elif kind < 0.45:
        colour = ImageOps.posterize(colour, int(rng.integers(1, 4)))
    if rng.random() < 0.6:
        colour = ImageEnhance.Color(colour).enhance(float(rng.uniform(0.3, 1.6)))
        colour = ImageEnhance.Brightness(colour).enhance(float(rng.uniform(0.7, 1.3)))
    colour.putalpha(alpha)
    return colour


def augment(item: Item, rng: np.random.Generator, others: list[Item]) -> NDArray[np.uint8]:
    """Return one augmented view, uint8 (96, 96, 3)."""
    image = restyle(Image.fromarray(item.rgba), rng)
    if rng.random() < 0.5:
        image = ImageOps.mirror(image)
    if rng.random() < 0.7:
        image = image.rotate(float(rng.normal(0, 10)), Image.Resampling.BILINEAR)
    scale = rng.uniform(0.62, 1.18)
    width = max(24, round(SIZE * scale * rng.uniform(0.85, 1.15)))
    height = max(24, round(SIZE * scale))
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    canvas = background(rng, others)
    slack_x, slack_y = (SIZE - width) // 2, (SIZE - height) // 2
    shift = rng.uniform(-0.8, 0.8, 2)
    left, top = slack_x + round(float(shift[0]) * abs(slack_x)), slack_y + round(float(shift[1]) * abs(slack_y))
    canvas.paste(image, (left, top), image)
    if rng.random() < 0.12:
        canvas = canvas.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.4))))
    return np.asarray(canvas)


def build() -> None:
    """Write the pool and what belongs to it."""
    kept = items()
    names = sorted({item.caption for item in kept} - {""})
    index = {name: i for i, name in enumerate(names)} | {"": -1}
    jobs = [item for item in kept for _ in range(COPIES[item.kind])]
    rng = np.random.default_rng(SEED)
    order = rng.permutation(len(jobs))[:POOL_LIMIT]
    shape = (len(order), SIZE, SIZE, 3)
    pool = np.lib.format.open_memmap(work() / "pool.npy", mode="w+", dtype=np.uint8, shape=shape)
    for row, job in enumerate(order):
        pool[row] = augment(jobs[job], rng, kept)
    pool.flush()
    np.save(work() / "pool_caption.npy", np.array([index[jobs[job].caption] for job in order], dtype=np.int32))
    np.save(work() / "pool_style.npy", np.array([STYLES.index(jobs[job].style) for job in order], dtype=np.int8))
    (work() / "captions.json").write_text(json.dumps(names), "utf-8")
    sys.stderr.write(f"{len(order)} views of {len(kept)} drawings, {len(names)} captions\n")


if __name__ == "__main__":
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    build()
