from __future__ import annotations

import io

import numpy as np
from PIL import Image

from probing.images import pictures
from tests.probing.conftest import png
from workspace.images import read_image


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_plain_bytes_are_kept_and_others_stored_as_what_they_show() -> None:
    plain = png(1)
    assert pictures.read(plain).encoded == plain
    rotated = _encoded(Image.open(io.BytesIO(plain)), "JPEG", exif=_orientation(6))
    kept = pictures.read(rotated)
    assert (kept.width, kept.height) == (36, 40), "turned upright"
    assert pictures.read(kept.encoded).image_hash == kept.image_hash
    clear = Image.new("RGBA", (4, 4), (200, 0, 0, 0))
    assert read_image(pictures.read(_encoded(clear)).encoded).getpixel((0, 0)) == (255, 255, 255)
    deep = Image.fromarray(np.linspace(0, 65535, 16).reshape(4, 4).astype(np.uint16))
    shown = np.asarray(read_image(pictures.read(_encoded(deep)).encoded))
    assert shown.min() == 0
    assert shown.max() == 255
    large = pictures.read(_encoded(Image.new("RGB", (2048, 512))))
    assert (large.width, large.height) == (1024, 256)


def test_the_hash_is_of_pixels_not_of_bytes() -> None:
    image = Image.open(io.BytesIO(png(2)))
    assert pictures.read(_encoded(image)).image_hash == pictures.read(_encoded(image, compress_level=0)).image_hash
    assert pictures.read(png(2)).image_hash != pictures.read(png(3)).image_hash


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif
