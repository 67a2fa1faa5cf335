"""Untrusted images: opened under caps, turned upright and to RGB, hashed by their pixels, kept or re-encoded."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from enum import Enum

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 64 * 1024 * 1024
"""Largest image decoded, in pixels: 192 MiB as RGB. A decompression bomb says more, in its header."""

MAX_BYTES = 64 * 1024 * 1024
"""Largest encoded image read, in bytes."""

MAX_EDGE = 1024
"""Longest edge stored, in pixels: no model here reads more, and a camera's 12 megapixels times 4,000 would be 48 GB."""

KEEP_BYTES = 1024 * 1024
"""Encoded images up to this many bytes are kept as they came."""

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats decoded. Pillow knows more; some of them start other programs (EPS) or are rarely exercised parsers."""

_KEPT_FORMATS = {"JPEG", "PNG", "WEBP"}
_ORIENTATION = 0x0112  # EXIF tag


class Refusal(str, Enum):
    """Why an image is not used."""

    BROKEN = "broken"  # not an image of a known format, cut short, or damaged
    TOO_LARGE = "too_large"  # more pixels or bytes than are decoded


class RefusedImageError(Exception):
    """An image that is not used; `refusal` says why."""

    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal


@dataclass(frozen=True)
class Probe:
    """One image, ready to be stored: PNG, JPEG or WebP bytes that decode to upright RGB."""

    encoded: bytes
    image_hash: str
    width: int
    height: int


def read(encoded: bytes) -> Probe:
    """Return the image in ``encoded`` as a `Probe`; raises `RefusedImageError`.

    The pixel count is read from the header and checked before anything is decoded.
    """
    if len(encoded) > MAX_BYTES:
        raise RefusedImageError(Refusal.TOO_LARGE, f"{len(encoded)} bytes, more than {MAX_BYTES}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # our cap, below, decides; Pillow's warning is about a looser one
            image = Image.open(io.BytesIO(encoded), formats=FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise RefusedImageError(Refusal.TOO_LARGE, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
        return _prepared(image, encoded)
    except (Image.DecompressionBombError, MemoryError) as error:
        raise RefusedImageError(Refusal.TOO_LARGE, str(error) or "too large to decode") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError) as error:
        raise RefusedImageError(Refusal.BROKEN, str(error) or type(error).__name__) from error


def decode(encoded: bytes) -> Image.Image:
    """Return a stored probe as an RGB image, under the same cap as when it was read."""
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise RefusedImageError(Refusal.TOO_LARGE, f"{image.width} x {image.height} pixels, more than {MAX_PIXELS}")
    return image.convert("RGB")


def _prepared(image: Image.Image, encoded: bytes) -> Probe:
    plain = (
        image.mode == "RGB"
        and image.format in _KEPT_FORMATS
        and image.getexif().get(_ORIENTATION, 1) == 1
        and "transparency" not in image.info
        and len(encoded) <= KEEP_BYTES
        and max(image.size) <= MAX_EDGE
    )
    image.load()
    rgb = image if plain else _rgb(ImageOps.exif_transpose(image) or image)
    if max(rgb.size) > MAX_EDGE:
        rgb.thumbnail((MAX_EDGE, MAX_EDGE), Image.Resampling.LANCZOS)
    pixels = rgb.tobytes()
    digest = hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + pixels).hexdigest()
    return Probe(encoded if plain else _png(rgb), digest, rgb.width, rgb.height)


def _rgb(image: Image.Image) -> Image.Image:
    """Return 8-bit RGB; transparency is laid over white, 16-bit grey keeps its range."""
    if image.mode.startswith("I") or image.mode == "F":
        grey = np.asarray(image, dtype=np.float64)
        top = 65535.0 if grey.max(initial=0.0) > 255 else 255.0
        return Image.fromarray((np.clip(grey / top, 0, 1) * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        white = Image.new("RGBA", over.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, over).convert("RGB")
    return image.convert("RGB")


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
