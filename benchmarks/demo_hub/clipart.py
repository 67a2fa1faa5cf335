"""The openclipart drawings: which are used, what they show, and which belong to the probe set.

Source: Debian's package openclipart-png (public domain), 8,121 PNG files in 22 folders. Used are
those under `FOLDERS` whose name begins like a line of ``clipart_captions.txt``.
"""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.clipart_captions import captions

SIZE = 96
"""Pixels a side of every drawing, as for the emoji renders."""
MAXIMUM_PIXELS = 4_000_000
"""Larger files are refused before they are decoded: one file of the package is a decompression bomb."""
MINIMUM_SIDE = 24
PROBE_SHARE = 62
"""Percent of the drawings that may become probes; the rest may be trained on."""

FOLDERS = (
    "animals", "buildings", "computer/hardware", "containers", "education", "electronics", "food",
    "geography", "office", "people", "plants", "recreation", "science", "signs_and_symbols/clocks",
    "signs_and_symbols/money", "signs_and_symbols/weather", "tools", "transportation", "unsorted",
)  # fmt: skip
SKIPPED = (
    "people/clothing/pantyhose", "people/smilies", "people/stickmen", "recreation/games/cards",
    "transportation/aiga-symbols", "transportation/roadsigns", "unsorted/duplicates",
)  # fmt: skip
SKIPPED_TITLES = ("Road Signs", "AIGA")
"""Titles (PNG text chunk) of sign collections that lie among the vehicles."""


class Drawing(NamedTuple):
    """A clip-art drawing: path below the package's folder, caption, RGBA of shape (96, 96, 4) uint8."""

    path: str
    caption: str
    rgba: NDArray[np.uint8]


def folder() -> Path:
    """Return the unpacked package's image folder."""
    return sources.assets() / "deb" / "usr" / "share" / "openclipart" / "png"


def caption_of(stem: str, table: list[tuple[str, str]]) -> str | None:
    """Return the caption for a file stem, or None if the table says nothing about it."""
    plain = re.sub(r"\d", "", stem.lower()) + "."
    return next((caption for beginning, caption in table if plain.startswith(beginning)), None)


def fit(image: Image.Image, margin: int = 4) -> NDArray[np.uint8]:
    """Return an image as RGBA (96, 96, 4): cropped to what is opaque, aspect kept, centred, ``margin`` pixels free."""
    rgba = image.convert("RGBA")
    box = rgba.getchannel("A").getbbox()
    if box is not None:
        rgba = rgba.crop(box)
    inner = SIZE - 2 * margin
    scale = inner / max(rgba.size)
    size = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
    canvas = Image.new("RGBA", (SIZE, SIZE), (255, 255, 255, 0))
    canvas.paste(rgba.resize(size, Image.Resampling.LANCZOS), ((SIZE - size[0]) // 2, (SIZE - size[1]) // 2))
    return np.asarray(canvas)


def _files() -> Iterator[tuple[str, Path]]:
    root = folder()
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        if name.startswith(FOLDERS) and not name.startswith(SKIPPED):
            yield name, path


def drawings() -> list[Drawing]:
    """Return the captioned drawings, each once (the deepest of equal files), sorted by path."""
    table = captions()
    found: dict[str, Drawing] = {}
    for name, path in _files():
        caption = caption_of(path.stem, table)
        if caption is None:
            continue
        with Image.open(path) as image:
            title = str(image.info.get("Title", ""))
            large = image.width * image.height > MAXIMUM_PIXELS
            if large or min(image.size) < MINIMUM_SIDE or any(word in title for word in SKIPPED_TITLES):
                continue
            rgba = fit(image)
        digest = hashlib.sha256(rgba.tobytes()).hexdigest()
        if digest not in found or name.count("/") > found[digest].path.count("/"):
            found[digest] = Drawing(name, caption, rgba)
    return sorted(found.values(), key=lambda drawing: drawing.path)


def reserved(path: str) -> bool:
    """Return whether a drawing is kept for the probe set; it is then never trained on.

    The choice hangs on the file's name without digits, "bw" and author, so that a drawing and its
    black-and-white twin stay together.
    """
    stem = re.sub(r"_bw|\d|r?$", "", Path(path).stem.lower()).replace("_ganson", "")
    return int(hashlib.sha256(stem.encode()).hexdigest(), 16) % 100 < PROBE_SHARE
