"""The accuracy studies' probe set: 4,000 stamps, clip-art drawings and emoji with captions.

Run ``python -m benchmarks.accuracy.probes`` after ``benchmarks.demo_hub.sources`` and ``.render``. Writes
``accuracy/probes.parquet`` under the asset folder. The images stay there: they are not shipped, so the licences of
the packages (GPL-2 stamps, public-domain clip art, Apache-2.0 emoji) need no notice here.

``source`` begins with ``emoji:`` for drawings in the style that MiniHub's concepts are drawn in (though in a set that
no model is trained on), with ``stamp:`` or ``clipart:`` otherwise: the studies leave the first out where they say so.
"""

from __future__ import annotations

import io
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import resvg_py
from PIL import Image

from benchmarks.demo_hub import clipart, sources
from benchmarks.demo_hub.clipart_captions import captions
from benchmarks.demo_hub.drawings import icon_name, icon_set
from benchmarks.demo_hub.probe_sources import glyph_captions, renders
from benchmarks.demo_hub.render import svg

SIZE = 224
"""Pixels a side: what ImageNet models take."""
COUNT = 4_000
SEED = 0
PER_CAPTION = 8
"""At most so many clip-art drawings share a caption."""

_UNTOLD = ("man-", "woman-", "family", "couple", "kiss-", "japanese-", "keycap")
"""Emoji that differ from others by a detail no caption tells, and ideograms."""
_SKIPPED = (
    "shapes", "logos", "special", "computer/icons", "signs_and_symbols/flags", "recreation/games/cards",
    "people/stickmen", "people/clothing/pantyhose", "transportation/roadsigns", "unsorted/duplicates",
    "signs_and_symbols/map_symbols",
)  # fmt: skip
_AUTHOR = re.compile(r"(_|\b)(\d+\w?|bw|r|p|f|ganson|architetto|francesco|rollandi|gerald_g|simple|outline)\b|_+\d*$")


class Picture(NamedTuple):
    """A candidate: its source, its caption, and the drawing on white, RGB, `SIZE` pixels a side."""

    source: str
    caption: str
    image: Image.Image


def on_white(image: Image.Image) -> Image.Image:
    """Return the drawing cropped to what is opaque, its aspect kept, centred on a white square."""
    rgba = image.convert("RGBA")
    rgba = rgba.crop(rgba.getchannel("A").getbbox() or (0, 0, *rgba.size))
    scale = (SIZE - 16) / max(rgba.size)
    rgba = rgba.resize(
        (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale))), Image.Resampling.LANCZOS
    )
    canvas = Image.new("RGB", (SIZE, SIZE), (255, 255, 255))
    canvas.paste(rgba, ((SIZE - rgba.width) // 2, (SIZE - rgba.height) // 2), rgba)
    return canvas


def emoji() -> Iterator[Picture]:
    """Yield the drawings of the probe style, which no model was trained on."""
    named, data = glyph_captions(), icon_set(sources.PROBE_STYLE)
    for entry in renders(sources.PROBE_STYLE)[1]:
        glyph = entry["glyph"]
        icon = icon_name(sources.PROBE_STYLE, glyph)
        if icon is None or glyph.startswith(_UNTOLD) or "oclock" in glyph or "thirty" in glyph:
            continue
        drawn = bytes(resvg_py.svg_to_bytes(svg_string=svg(data, icon), skip_system_fonts=True, width=SIZE))
        yield Picture(f"emoji:{glyph}", named[glyph], on_white(Image.open(io.BytesIO(drawn))))


def stamps() -> Iterator[Picture]:
    """Yield the stamps that have an English description: its first sentence is the caption."""
    folder = sources.assets() / "deb" / "usr" / "share" / "tuxpaint" / "stamps"
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        if text.exists() and (lines := text.read_text("utf-8", errors="replace").splitlines()):
            with Image.open(path) as image:
                yield Picture(
                    f"stamp:{path.relative_to(folder)}", lines[0].split(".")[0].strip().lower(), on_white(image)
                )


def clip_art() -> Iterator[Picture]:
    """Yield clip art in seeded order: first what has a caption written by hand, then by file name."""
    table, root = captions(), clipart.folder()
    known: list[tuple[Path, str]] = []
    told: list[tuple[Path, str]] = []
    for path in sorted(root.rglob("*.png")):
        name = path.relative_to(root).as_posix()
        if name.startswith(_SKIPPED):
            continue
        caption = clipart.caption_of(path.stem, table)
        words = _AUTHOR.sub(" ", path.stem.lower()).replace("_", " ").split()[:3]
        if caption:
            known.append((path, caption))
        elif words:
            told.append((path, " ".join(words)))
    chance = random.Random(SEED)
    chance.shuffle(known)
    chance.shuffle(told)
    taken: Counter[str] = Counter()
    for path, caption in [*known, *told]:
        with Image.open(path) as image:
            if image.width * image.height > clipart.MAXIMUM_PIXELS or min(image.size) < clipart.MINIMUM_SIDE:
                continue
            if taken[caption] < PER_CAPTION:
                taken[caption] += 1
                yield Picture(f"clipart:{path.relative_to(root)}", caption, on_white(image))


def small(image: Image.Image) -> bytes:
    """Return what tells copies apart: the drawing at 12 pixels, in 32 grey levels."""
    grey = np.asarray(image.convert("L").resize((12, 12), Image.Resampling.BOX), dtype=np.uint8)
    return bytes((grey // 8).tobytes())


def main() -> None:
    """Write the Parquet file and say what is in it."""
    Image.MAX_IMAGE_PIXELS = None  # sizes are read from the header; large files are refused before they are decoded
    seen: set[bytes] = set()
    rows = []
    for picture in (p for make in (stamps, emoji, clip_art) for p in make()):
        if len(rows) == COUNT:
            break
        mark = small(picture.image)
        if mark in seen:
            continue
        seen.add(mark)
        buffer = io.BytesIO()
        picture.image.save(buffer, "WEBP", quality=90, method=4)
        source = {"caption": picture.caption, "source": picture.source, "license": "not shipped"}
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, **source})
    random.Random(SEED).shuffle(rows)
    folder = sources.assets() / "accuracy"
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "probes.parquet", row_group_size=256)
    counts = Counter(row["source"].partition(":")[0] for row in rows)
    size = (folder / "probes.parquet").stat().st_size / 1e6
    sys.stdout.write(f"{len(rows)} probes, {len({row['caption'] for row in rows})} captions, {size:.1f} MB: {counts}\n")


if __name__ == "__main__":
    main()
