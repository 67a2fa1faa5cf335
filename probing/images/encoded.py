"""Images of a probe set: hashed by their pixels, kept as they came or encoded anew."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from workspace.images import file_bytes, open_image, to_rgb

MAX_EDGE = 1024
"""Longest edge stored, in pixels: no model here reads more, and a camera's 12 megapixels times 4,000 would be 48 GB."""

KEEP_BYTES = 1024 * 1024
"""Encoded images up to this many bytes are kept as they came."""

_KEPT_FORMATS = {"JPEG", "PNG", "WEBP"}


@dataclass(frozen=True)
class Probe:
    """One image, ready to be stored: PNG, JPEG or WebP bytes that decode to upright RGB; and its `image_print`."""

    encoded: bytes
    image_hash: str
    print: NDArray[np.uint64]
    width: int
    height: int


def read(source: bytes | Path, name: str = "") -> Probe:
    """Return an encoded image, or the file of one, as a `Probe`; raises `workspace.images.RefusedImageError`."""
    encoded = source if isinstance(source, bytes) else file_bytes(source, name)
    image = open_image(encoded, name)
    rgb = to_rgb(image, name)
    as_it_came = rgb is image and image.format in _KEPT_FORMATS
    as_it_came = as_it_came and len(encoded) <= KEEP_BYTES and max(image.size) <= MAX_EDGE
    if max(rgb.size) > MAX_EDGE:
        rgb.thumbnail((MAX_EDGE, MAX_EDGE), Image.Resampling.LANCZOS)
    return Probe(encoded if as_it_came else _png(rgb), image_hash(rgb), image_print(rgb), rgb.width, rgb.height)


def image_hash(rgb: Image.Image) -> str:
    """Return the sha256 of an image's size and pixels, 64 hex digits: what two files of one picture share."""
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def image_print(rgb: Image.Image) -> NDArray[np.uint64]:
    """Return what copies of a picture share, uint64 ``[2]``: which way its brightness goes, across and down (dHash)."""
    grey = np.asarray(rgb.convert("L").resize((9, 9), Image.Resampling.BOX), np.int16)
    across, down = grey[:8, 1:] > grey[:8, :-1], grey[1:, :8] > grey[:-1, :8]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).view(np.uint64)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
