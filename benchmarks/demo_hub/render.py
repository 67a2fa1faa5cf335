"""Render the emoji drawings once: RGBA at 96 pixels, one array per style.

Run ``python -m benchmarks.demo_hub.render [style...]``. Writes, under the asset folder,
``renders/<style>.npy``, uint8 of shape (drawings, 96, 96, 4) with straight (not premultiplied)
alpha, and ``renders/<style>.json``, a list in the same order of
``{"glyph", "icon", "category", "emoji"}``. Every glyph without a skin tone that is no flag is
rendered, many more than the concepts need. ``renders/near_probe.json`` lists the pairs
``[style, glyph]`` that look like the probe style's drawing and must not be trained on.
"""

import io
import json
import logging
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.drawings import glyphs, icon_name, icon_set

SIZE = 96
"""Pixels a side."""
NEAR = 0.04
"""Mean absolute difference, of 0..1, under which two drawings count as the same."""

log = logging.getLogger("render")


def svg(data: dict[str, Any], icon: str) -> str:
    """Return one icon of an Iconify set as an SVG document of `SIZE` pixels."""
    body = data["icons"][icon]
    left, top = body.get("left", data.get("left", 0)), body.get("top", data.get("top", 0))
    width, height = body.get("width", data.get("width", 16)), body.get("height", data.get("height", 16))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{left} {top} {width} {height}">{body["body"]}</svg>'
    )


def rasterise(document: str) -> NDArray[np.uint8]:
    """Return an SVG document as RGBA, shape (96, 96, 4), dtype uint8."""
    import resvg_py  # PhotoHub, which imports this for what it trains with, draws nothing

    png = bytes(resvg_py.svg_to_bytes(svg_string=document, skip_system_fonts=True))
    image = Image.open(io.BytesIO(png)).convert("RGBA")
    return np.asarray(image.resize((SIZE, SIZE)) if image.size != (SIZE, SIZE) else image)


def render(style: str) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Render a style; see the module's text for the two results."""
    data = icon_set(style)
    images: list[NDArray[np.uint8]] = []
    names: list[dict[str, str]] = []
    for glyph in glyphs().values():
        icon = icon_name(style, glyph.name)
        if icon is None or glyph.category == "flags":
            continue
        try:
            image = rasterise(svg(data, icon))
        except ValueError as error:
            log.warning("%s: %s not rendered: %s", style, icon, error)
            continue
        if not image[..., 3].any():
            log.warning("%s: %s is empty", style, icon)
            continue
        images.append(image)
        names.append({"glyph": glyph.name, "icon": icon, "category": glyph.category, "emoji": glyph.emoji})
    return np.stack(images), names


def load(style: str) -> tuple[NDArray[np.uint8], list[dict[str, str]]]:
    """Return a rendered style: images (memory-mapped) and names."""
    folder = sources.assets() / "renders"
    names: list[dict[str, str]] = json.loads((folder / f"{style}.json").read_text("utf-8"))
    return np.load(folder / f"{style}.npy", mmap_mode="r"), names


def thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return drawings on white plus alpha, averaged to 24 pixels: (drawings, 24, 24, 4) in 0..1."""
    scaled = np.asarray(images, dtype=np.float32) / 255
    alpha = scaled[..., 3:]
    both = np.concatenate([scaled[..., :3] * alpha + 1 - alpha, alpha], axis=-1)
    means: NDArray[np.float32] = both.reshape(-1, 24, 4, 24, 4, 4).mean((2, 4))
    return means


def near_probe() -> list[tuple[str, str]]:
    """Return the (style, glyph) pairs drawn almost as in the probe style, not to be trained on.

    Noto kept a few of its old drawings. "Almost" is a mean absolute difference of the thumbnails
    under `NEAR`; the median over pairs is 0.16.
    """
    images, names = load(sources.PROBE_STYLE)
    probes = {name["glyph"]: small for name, small in zip(names, thumbnails(images), strict=True)}
    found = []
    for style in sources.STYLES:
        if style != sources.PROBE_STYLE:
            others, labels = load(style)
            for name, small in zip(labels, thumbnails(others), strict=True):
                probe = probes.get(name["glyph"])
                if probe is not None and np.abs(small - probe).mean() < NEAR:
                    found.append((style, name["glyph"]))
    return found


def main(styles: list[str]) -> None:
    """Render the named styles, or all."""
    folder = sources.assets() / "renders"
    folder.mkdir(exist_ok=True)
    for style in styles or list(sources.STYLES):
        images, names = render(style)
        np.save(folder / f"{style}.npy", images)
        (folder / f"{style}.json").write_text(json.dumps(names, ensure_ascii=False), "utf-8")
        log.info("%s: %d drawings", style, len(images))
    if not styles:
        (folder / "near_probe.json").write_text(json.dumps(near_probe()), "utf-8")
        (folder / "READY").write_text("all styles rendered\n", "utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main(sys.argv[1:])
