"""Images of a probe set: hashed by their pixels, kept as they came or encoded anew; and decoded.

They are decoded once per workspace, kept as 8-bit pixels, shared by all image processors and processes.

Decoding a photograph takes as long as resizing it, and a workspace has as many resizings as its models have geometries.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray
from PIL import Image

from probing.images import cache
from workspace import Workspace, WorkspaceError
from workspace.files import batches, read_file
from workspace.images import RefusedImageError, file_bytes, open_image, read_image, to_rgb

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
    if not as_it_came:
        rgb.save(buffer := io.BytesIO(), "PNG")
        encoded = buffer.getvalue()
    return Probe(encoded, image_hash(rgb), image_print(rgb), rgb.width, rgb.height)


def image_hash(rgb: Image.Image) -> str:
    """Return the sha256 of an image's size and pixels, 64 hex digits: what two files of one picture share."""
    return hashlib.sha256(f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()).hexdigest()


def image_print(rgb: Image.Image) -> NDArray[np.uint64]:
    """Return what copies of a picture share, uint64 ``[2]``: which way its brightness goes, across and down (dHash)."""
    grey = np.asarray(rgb.convert("L").resize((9, 9), Image.Resampling.BOX), np.int16)
    across, down = grey[:8, 1:] > grey[:8, :-1], grey[1:, :8] > grey[:-1, :8]
    return np.packbits(np.concatenate([across.ravel(), down.ravel()])).view(np.uint64)


Picture = npt.NDArray[np.uint8]
"""One decoded probe: RGB, uint8 [3, height, width]."""

MAX_DECODED_BYTES = 16 * 1024**3
"""Decoded probes kept on disk, in bytes: 4,000 of the largest size are 13 GB, COCO's 4 GB. More are decoded anew."""

_ROWS = 256  # images read at once: the encoded set is never in memory whole


class Pictures(Sequence[Picture]):
    """The probes in order, each as a `Picture`, a copy that may be written to.

    Attributes:
        refused: probes that cannot be decoded, and why: stored before there was a cap on shapes, or damaged.
        ratios: float64 [probes], longest edge over shortest.
    """

    def __init__(self, workspace: Workspace, probe_set: str, threads: int) -> None:
        self._path = workspace.probes_dir(probe_set) / "probes.parquet"
        sizes = read_file(self._path, columns=["width", "height"])
        width, height = (sizes.column(name).to_numpy().astype(np.int64) for name in ("width", "height"))
        self._shapes = np.stack([np.full_like(width, 3), height, width], axis=1)
        self._ends = np.cumsum(3 * width * height)
        self._flat: npt.NDArray[Any] | None = None
        self._encoded: list[bytes] = []
        self.refused: dict[int, str] = {}
        self.ratios = np.maximum(width, height) / np.maximum(1, np.minimum(width, height))
        if int(self._ends[-1]) > MAX_DECODED_BYTES:
            self._encoded = [v["bytes"] for v in read_file(self._path, columns=["image"])["image"].to_pylist()]
            return
        folder = workspace.cache_dir / "inputs" / f"decoded-{cache.key(probe_set)}"
        if not (folder / "meta.json").exists():
            with cache.making(folder) as temporary:
                if temporary is not None:
                    flat = cache.room_for(temporary, "uint8", (int(self._ends[-1]),))
                    refused = self._decode(flat, threads)
                    cache.finish(temporary, "uint8", flat.shape, name="decoded", refused=refused)
        self._flat, meta = cache.open_entry(folder)
        self.refused = {int(i): why for i, why in meta.get("refused", {}).items()}

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        if not 0 <= i < len(self):
            raise IndexError(i)
        if self._flat is None:
            return _planar(self._encoded[i], i)
        shape = self._shapes[i]
        return np.array(self._flat[self._ends[i] - int(np.prod(shape)) : self._ends[i]].reshape(shape))

    def _decode(self, flat: npt.NDArray[Any], threads: int) -> dict[int, str]:
        """Write all decoded probes to ``flat``; return those that cannot be, and why."""
        refused: dict[int, str] = {}

        def decode(task: tuple[int, bytes]) -> None:
            i, encoded = task
            try:
                picture = _planar(encoded, i)
            except RefusedImageError as error:
                refused[i] = str(error)
                return
            if picture.shape != tuple(self._shapes[i]):
                raise WorkspaceError(f"probe {i} of {self._path} has another size than its row says")
            flat[self._ends[i] - picture.size : self._ends[i]] = picture.ravel()

        done = 0
        with ThreadPoolExecutor(threads) as pool:
            for batch in batches(self._path, _ROWS, ["image"]):
                encoded = [value["bytes"] for value in batch.column("image").to_pylist()]
                list(pool.map(decode, enumerate(encoded, done)))
                done += len(encoded)
        return refused


def _planar(encoded: bytes, probe: int) -> Picture:
    image = read_image(encoded, f"probe {probe}")
    return np.array(np.asarray(image).transpose(2, 0, 1), order="C")
