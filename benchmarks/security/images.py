"""Odd pictures: every format, mode and shape, damaged, and with sizes in the header that the file does not hold."""

from __future__ import annotations

import io
import struct
import zlib
from random import Random

import numpy as np
from PIL import Image

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from workspace import QueryError
from workspace.images import MAX_PIXELS, read_image

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA", "ICO", "PCX", "EPS", "PDF", "SGI", "DDS", "IM")
MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F")
SIZES = ((1, 1), (1, 300), (300, 1), (40, 36), (224, 224), (1, 30_000), (3_000, 1_000), (2, 41))
HEAD = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n"


def run(count: int, seed: int) -> Report:
    """Try ``count`` pictures; return the report."""
    with watching("images", seed) as report:
        for number in range(seed, seed + count):
            raw = picture(Random(number))

            def read(raw: bytes = raw) -> None:
                made = read_image(raw, "a picture")
                if made.mode != "RGB" or made.width * made.height > MAX_PIXELS:
                    raise AssertionError(f"read as {made}")

            attempt(report, read, f"seed {number}: {raw[:60]!r}, {len(raw)} bytes", QueryError)
    return report


def picture(chance: Random) -> bytes:
    """Return the bytes of one odd picture."""
    if chance.random() < 0.1:
        return _announced(chance)
    if chance.random() < 0.03:
        return HEAD + chance.randbytes(100)
    width, height = chance.choice(SIZES)
    pixels = np.random.default_rng(chance.randrange(2**31)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    wanted, mode = chance.choice(FORMATS), chance.choice(MODES)
    buffer = io.BytesIO()
    try:
        made = image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)
        options = {"save_all": True, "append_images": [made] * 3} if chance.random() < 0.2 else {}
        made.save(buffer, wanted, **options)
    except (OSError, ValueError, KeyError, RuntimeError):  # a format that has no such mode, or no frames
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
    raw = buffer.getvalue()
    return odd.damaged(raw, chance) if chance.random() < 0.5 else raw


def _announced(chance: Random) -> bytes:
    """Return a PNG whose header announces what its data do not hold, or hold as a bomb of zeros."""
    width, height = (chance.choice((1, 20, 8_000, 260_000, 49_999_999, 2**31 - 1, 0)) for _ in range(2))
    kind = chance.choice((0, 2, 3, 4, 6, 9))
    rows = zlib.compress(bytes(chance.choice((0, 1_000, 20_000_000))))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, chance.choice((1, 8, 16)), kind, 0, 0, chance.choice((0, 1)))
    text = b"".join(chunk(b"zTXt", b"k\0\0" + rows) for _ in range(chance.choice((0, 0, 3, 500))))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + text + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
