"""Example images of queries: strangers' files, checked before they are decoded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workspace import QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 50_000_000
"""Of an example image: 150 MB once decoded. A decompression bomb announces more and is refused unread."""


def read_image(source: Path | Image) -> Image:
    """Return ``source`` as an RGB image, transparency over white.

    Raises `QueryError` for a file that is no image, an image of more than `MAX_PIXELS`, an empty one, or one of
    floating-point values that are not finite.
    """
    from PIL import Image as Pillow

    try:
        image = Pillow.open(source) if isinstance(source, Path) else source
        if image.width * image.height > MAX_PIXELS:
            raise QueryError(f"the image has {image.width} x {image.height} pixels, at most {MAX_PIXELS} are read")
        if image.width == 0 or image.height == 0:
            raise QueryError("the image is empty")
        if image.mode == "F" and not np.isfinite(np.asarray(image)).all():
            raise QueryError("the image holds values that are not finite")
        return over_white(image)
    except (OSError, SyntaxError, ValueError, Pillow.DecompressionBombError) as error:
        if isinstance(error, QueryError):
            raise
        raise QueryError(f"the query image cannot be read: {printable(error, 200)}") from error


def over_white(image: Image) -> Image:
    """Return ``image`` in RGB, its transparent parts over white."""
    from PIL import Image as Pillow

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = Pillow.new("RGBA", image.size, (255, 255, 255, 255))
        over.alpha_composite(image.convert("RGBA"))
        image = over
    return image.convert("RGB")
