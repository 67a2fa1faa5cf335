"""The one reader of strangers' images: those of probes, queries, uploads and releases are opened, checked and made RGB.

What a header says is checked before anything is decoded, and everything that is refused ends in one sentence that names
the image. The caps are about what comes next, too: a processor that resizes the shorter edge keeps the ratio of the
edges, so one pixel by 260,000 would grow to eleven gigabytes.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from workspace.errors import QueryError
from workspace.text import printable

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Formats decoded. Pillow knows more; some of them start other programs (EPS) or are rarely exercised parsers."""

MAX_BYTES = 64 * 1024 * 1024
"""Largest encoded image read, in bytes."""

MAX_PIXELS = 50 * 1024 * 1024
"""Largest image decoded, in pixels: a camera's 50 megapixels. Pillow keeps 4 bytes of each, and WebP needs four times
that while it is decoded: 0.8 GB."""

MAX_ASPECT = 20
"""Longest edge in shortest edges: what resizing the shortest to 224 pixels makes of it is 224 x 4,480."""

MAX_READS = 100_000
"""Pieces an encoded image is read in. Parsers take a step of Python for each chunk, comment or marker: a million empty
ones in 12 MB took 20 s. A PNG of 64 MB in libpng's chunks of 8 KB takes 33,000."""

MAX_SCANNED = 16 * MAX_PIXELS
"""Pixels times scans of a JPEG: each pass over the whole image may cost a few bytes of file and 0.2 s at 64 megapixels.
Progressive files have about 10 scans."""

_BAND = 1024  # rows turned to RGB at a time: bounds the copies
_ORIENTATION = 0x0112  # EXIF tag
_TILE, _ROWS = (0x0142, 0x0143), 0x0116  # TIFF tags: width and height of a tile; rows of a strip
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by its EXIF orientation."""

# What Pillow has to say of odd metadata and of sizes under its own limit is for the authors of files, not for ours.
# Once here, because `warnings.catch_warnings` is not made for several threads.
warnings.filterwarnings("ignore", module=r"PIL\b")


class Refusal(str, Enum):
    """Why an image is not used."""

    BROKEN = "broken"  # not an image of a known format, cut short, or damaged
    TOO_LARGE = "too_large"  # more bytes, pixels or pieces than are decoded, or too long for its width


class RefusedImageError(QueryError):
    """An image that is not used; ``refusal`` says why, the message is a sentence that names it."""

    def __init__(self, refusal: Refusal, sentence: str) -> None:
        super().__init__(sentence)
        self.refusal = refusal


def read_image(source: bytes | Path | Image.Image, name: str = "", *, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """Return ``source`` as an upright RGB image, transparency over white; of an animation the first frame.

    Args:
        source: the bytes of a file, the path of one, or an image that Pillow has opened.
        name: what messages call it; by default its file name.
        max_aspect: longest edge in shortest edges; infinite for a probe stored before there was a cap.

    Raises `RefusedImageError`, a `QueryError`, for what is no image, damaged, or larger than is read.
    """
    return to_rgb(open_image(source, name, max_aspect=max_aspect), name or _name(source))


def open_image(source: bytes | Path | Image.Image, name: str = "", *, max_aspect: float = MAX_ASPECT) -> Image.Image:
    """Return ``source`` opened and checked by its header, nothing decoded yet; raises `RefusedImageError`."""
    called = printable(name) or _name(source)
    if isinstance(source, Image.Image):
        _check_shape(source, called, max_aspect)
        return source
    encoded = source if isinstance(source, bytes) else file_bytes(source, called)
    if len(encoded) > MAX_BYTES:
        raise RefusedImageError(Refusal.TOO_LARGE, f"{called} has more than {MAX_BYTES:,} bytes: shrink it first")
    if encoded[:2] in (b"P1", b"P2", b"P3"):  # decoded in Python, a digit at a time: 7 s a megapixel
        raise RefusedImageError(Refusal.BROKEN, f"{called} cannot be read: PPM as text is not, save it as PNG")
    with _refusing(called):
        image = Image.open(_Pieces(encoded, called), formats=FORMATS)
        _check_shape(image, called, max_aspect)
        _check_scans(image, encoded, called, _parts(image, called))
    return image


def to_rgb(image: Image.Image, name: str = "the image") -> Image.Image:
    """Return an opened image decoded, upright, in 8-bit RGB: transparency over white, 16-bit grey in its full range.

    Raises `RefusedImageError`.
    """
    called = printable(name)
    with _refusing(called):
        image.load()
        upright = _UPRIGHT.get(orientation(image))
        wide: npt.NDArray[Any] | None = None
        if image.mode.startswith("I") or image.mode == "F":
            wide = np.asarray(image)
            if not np.isfinite(wide).all():
                raise RefusedImageError(Refusal.BROKEN, f"{called} holds values that are not finite")
        if image.mode != "RGB" or "transparency" in image.info:
            made = Image.new("RGB", image.size)
            top = 65535.0 if wide is not None and wide.max(initial=0) > 255 else 255.0
            for y in range(0, image.height, _BAND):
                box = (0, y, image.width, min(y + _BAND, image.height))
                made.paste(_rgb(image.crop(box)) if wide is None else _grey(wide[y : box[3]], top), (0, y))
            image = made
        return image if upright is None else image.transpose(upright)


def orientation(image: Image.Image) -> Any:
    """Return the EXIF orientation of an image: 1 is upright."""
    return image.getexif().get(_ORIENTATION, 1)


def file_bytes(path: Path, name: str = "") -> bytes:
    """Return the bytes of an image file, of one too large no more than shows that; raises `RefusedImageError`.

    Pipes and devices are no files: they may never end.
    """
    called = printable(name) or _name(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RefusedImageError(Refusal.BROKEN, f"{called} cannot be read: it is no regular file")
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        text = f"{called} cannot be read: {error.strerror or error}"
        raise RefusedImageError(Refusal.BROKEN, text) from error


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (255, 255, 255, 255)), over).convert("RGB")
    return image.convert("RGB")


def _grey(values: npt.NDArray[Any], top: float) -> Image.Image:
    scaled = (np.clip(values.astype(np.float64) / top, 0, 1) * 255).round()
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _check_shape(image: Image.Image, called: str, max_aspect: float) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise RefusedImageError(Refusal.BROKEN, f"{called} is empty: it has {width} x {height} pixels")
    if width * height > MAX_PIXELS:
        text = f"{called} has {width:,} x {height:,} pixels, at most {MAX_PIXELS:,} are read: shrink it first"
        raise RefusedImageError(Refusal.TOO_LARGE, text)
    if max(width, height) > max_aspect * min(width, height):
        text = (
            f"{called} has {width:,} x {height:,} pixels: one edge may be {max_aspect} times the other, crop it first"
        )
        raise RefusedImageError(Refusal.TOO_LARGE, text)


def _parts(image: Image.Image, called: str) -> int:
    """Return in how many tiles or strips an image is kept: 1 but for TIFF, whose tiles are as large as it says.

    A tile is decoded whole, whatever part of it lies in the image: one of 1.6 gigapixels in an image of 100 x 100.
    """
    tags: Any = getattr(image, "tag_v2", {})
    width, height = image.size
    tile = [_whole(tags.get(tag)) for tag in _TILE]
    if not all(tile):
        return -(-height // min(_whole(tags.get(_ROWS)) or height, height))
    across, down = -(-width // tile[0]), -(-height // tile[1])
    pixels = across * tile[0] * down * tile[1]
    if pixels > 2 * MAX_PIXELS:
        text = f"{called} is kept in tiles of {pixels:,} pixels, {width:,} x {height:,} of them seen: save it again"
        raise RefusedImageError(Refusal.TOO_LARGE, text)
    return across * down


def _whole(value: Any) -> int:
    value = value[0] if isinstance(value, tuple) and value else value
    return value if type(value) is int and value > 0 else 0


def _check_scans(image: Image.Image, encoded: bytes, called: str, parts: int) -> None:
    """Refuse a JPEG of many passes over each of its ``parts``. What starts one cannot occur inside its coded data."""
    if image.format not in ("JPEG", "MPO") and image.info.get("compression") not in ("jpeg", "tiff_jpeg"):
        return
    scans = encoded.count(b"\xff\xda") / parts  # a TIFF holds a JPEG a strip
    if scans * image.width * image.height > MAX_SCANNED:
        text = (
            f"{called} is a JPEG in {scans:,.0f} passes over {image.width:,} x {image.height:,} pixels: save it again"
        )
        raise RefusedImageError(Refusal.TOO_LARGE, text)


class _Pieces(io.BytesIO):
    """Encoded bytes that can be read in at most `MAX_READS` pieces."""

    def __init__(self, encoded: bytes, called: str) -> None:
        super().__init__(encoded)
        self._left, self._called = MAX_READS, called

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            text = f"{self._called} is cut into more than {MAX_READS:,} pieces: save it anew"
            raise RefusedImageError(Refusal.TOO_LARGE, text)
        return super().read(size)


def _name(source: bytes | Path | Image.Image) -> str:
    return printable(source.name) if isinstance(source, Path) else "the image"


@contextmanager
def _refusing(called: str) -> Iterator[None]:
    """Turn whatever a decoder raises into the sentence about this image."""
    try:
        yield
    except RefusedImageError:
        raise
    except (Image.DecompressionBombError, MemoryError) as error:
        raise RefusedImageError(Refusal.TOO_LARGE, f"{called} is too large to decode: shrink it first") from error
    except UnidentifiedImageError as error:
        text = f"{called} cannot be read: it is no image in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise RefusedImageError(Refusal.BROKEN, text) from error
    except Exception as error:
        reason = printable(error, 200) or type(error).__name__
        raise RefusedImageError(Refusal.BROKEN, f"{called} cannot be read as an image: {reason}") from error
