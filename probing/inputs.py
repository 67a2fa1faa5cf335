"""The preprocessed probes: each geometry applied once per workspace, kept memory-mapped, shared by all processes.

``cache/inputs/<key>/`` holds ``pixels`` and ``meta.json``; ``key`` hashes the processor's geometry, the probe set and
the versions of the libraries that resize. Pixels are uint8 where ``(u - shift) / scale`` gives back what the processor
gave, checked for every image; else they are the processor's own float32.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from probing.images import decode
from probing.processors import Affine, Processor
from workspace import ModelError, Status, Workspace, runs
from workspace.files import TEMPORARY_PREFIX, canonical_json, short_hash, write_json

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

MAX_CACHE_BYTES = 64 * 1024**3
"""Preprocessed probes kept on disk, in bytes: about 100 geometries of 4,000 probes at 224 pixels. Oldest use goes."""

TOLERANCE = 1e-5
"""Largest error of a pixel rebuilt from uint8, relative to the largest magnitude: rounding of float32 alone."""

_LIBRARIES = ("pillow", "timm", "torchvision", "transformers")


@dataclass(frozen=True)
class Inputs:
    """What a model reads: ``pixels`` [probes, channels, height, width], uint8 with ``affine`` or float32 without."""

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    affine: Affine | None
    key: str = ""

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, ids: Sequence[int] | npt.NDArray[np.int32], device: str = "cpu") -> torch.Tensor:
        """Return probes ``ids`` as float32 [len(ids), channels, height, width] on ``device``.

        uint8 travels; it is scaled and shifted where the model runs.
        """
        import torch

        chosen = np.asarray(ids)
        resident = None if device == "cpu" else self._resident(device)
        if resident is None:
            taken = torch.from_numpy(np.ascontiguousarray(self.pixels[chosen])).to(device)
        elif len(chosen) and int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen):  # a slice copies no indices
            taken = resident[int(chosen[0]) : int(chosen[-1]) + 1]
        else:
            taken = resident[torch.from_numpy(chosen.astype(np.int64)).to(device)]
        x = taken.to(torch.float32, copy=resident is not None)  # a model may write to its input
        if self.affine is None:
            return x
        shift, scale = _on_device(self.affine, str(x.device))
        return x.sub_(shift).div_(scale)

    def _resident(self, device: str) -> torch.Tensor | None:
        """Return all pixels on ``device``, kept there for the next models of this geometry; None when too large.

        The copy of one geometry is kept at a time: most models share a few.
        """
        import torch

        if self.pixels.nbytes > RESIDENT_BYTES:
            return None
        with _resident_lock:
            held = _resident.get(device)
            if held is None or held[0] != self.key:
                _resident.pop(device, None)
                del held
                held = _resident[device] = (self.key, torch.from_numpy(np.array(self.pixels)).to(device))
            return held[1]


@lru_cache(maxsize=64)
def _on_device(affine: Affine, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return shift and scale [channels, 1, 1]: kept, because a copy to a GPU for each batch would wait for it."""
    import torch

    shift, scale = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in _columns(affine))
    return shift.to(device), scale.to(device)


_resident: dict[str, tuple[str, torch.Tensor]] = {}
_resident_lock = threading.Lock()

RESIDENT_BYTES = 4 * 1024**3
"""Preprocessed probes kept on an accelerator, in bytes: 4,000 probes of 224 pixels as uint8 are 0.6 GB."""


def prepare(workspace: Workspace, probe_set: str, processor: Processor, *, threads: int, max_edge: int) -> Inputs:
    """Return the probes as ``processor`` gives them, from the cache, or made now and kept there.

    Raises `ModelError`: ``image_too_large`` when an edge is over ``max_edge`` pixels, ``processor_error`` when the
    processor fails, or gives images of different shapes.
    """
    root = workspace.cache_dir / "inputs"
    for exact in (False, True):
        folder = root / _key(probe_set, processor, exact)
        if not (folder / "meta.json").exists():
            with _lock(root, folder.name):
                if not (folder / "meta.json").exists():
                    _make(workspace, probe_set, processor, folder, exact, threads, max_edge)
        found = _open(folder)
        if found is None:  # 8-bit pixels cannot give back what the processor gave
            continue
        if found.dtype == np.uint8:
            if processor.affine is None or not _same(workspace, probe_set, processor, found):
                continue
            return Inputs(found, processor.affine, folder.name)
        return Inputs(found, None, folder.name)
    raise AssertionError("the exact path always ends in an array")


def _key(probe_set: str, processor: Processor, exact: bool) -> str:
    versions = {k: v for k, v in runs.versions().items() if k in _LIBRARIES}
    return short_hash(canonical_json([probe_set, processor.hash if exact else processor.geometry, exact, versions]))


def _open(folder: Path) -> npt.NDArray[Any] | None:
    meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
    if meta["dtype"] == "none":
        return None
    os.utime(folder)  # the time of last use: what is evicted first
    return np.memmap(folder / "pixels", dtype=meta["dtype"], mode="r", shape=tuple(meta["shape"]))


def _same(workspace: Workspace, probe_set: str, processor: Processor, pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether cached pixels give what ``processor`` gives for the first probes: its last step is its own."""
    images = next(_images(workspace, probe_set, processor.mode, 2))
    made = [_array(processor, image) for image in images[:2]]
    assert processor.affine is not None
    return all(
        m.shape == p.shape and _error(m, p, processor.affine) <= TOLERANCE
        for m, p in zip(made, pixels[: len(made)], strict=True)
    )


def _make(
    workspace: Workspace, probe_set: str, processor: Processor, folder: Path, exact: bool, threads: int, max_edge: int
) -> None:
    shape: tuple[int, ...] | None = None
    total = pq.read_metadata(workspace.probes_dir(probe_set) / "probes.parquet").num_rows
    temporary = folder.with_name(f"{TEMPORARY_PREFIX}{folder.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    kind = "float32" if exact else "uint8"
    out: npt.NDArray[Any] | None = None
    done = 0
    try:
        with ThreadPoolExecutor(threads) as pool:
            for images in _images(workspace, probe_set, processor.mode):
                for made in pool.map(lambda image: _array(processor, image), images):
                    if out is None:
                        shape = _checked_shape(made, max_edge)
                        _evict(folder.parent, total * made.size * (4 if exact else 1))
                        out = _room_for(temporary / "pixels", kind, (total, *shape))
                    if made.shape != shape:
                        raise ModelError(
                            Status.PROCESSOR_ERROR,
                            f"its processor gives images of different shapes, {shape} and {made.shape}",
                        )
                    value = made if exact else _pixels(made, processor.affine)
                    if value is None:
                        kind, out = "none", None
                        break
                    out[done] = value
                    done += 1
                if kind == "none":
                    break
        if out is not None and hasattr(out, "flush"):
            out.flush()
        if kind == "none":
            (temporary / "pixels").unlink(missing_ok=True)
        write_json(temporary / "meta.json", {"dtype": kind, "shape": [total, *(shape or ())], "name": processor.name})
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _room_for(path: Path, kind: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Return a new file as an array, its blocks allocated: a map over a full disk would fault, not raise `OSError`."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, int(np.prod(shape)) * np.dtype(kind).itemsize)
    return np.memmap(path, dtype=kind, mode="r+" if hasattr(os, "posix_fallocate") else "w+", shape=shape)


def _array(processor: Processor, image: Any) -> npt.NDArray[np.float32]:
    made = processor.apply(image)
    if made.ndim != 3:
        raise ModelError(Status.PROCESSOR_ERROR, f"its processor gives arrays of shape {made.shape}, not one image")
    return made


def _checked_shape(made: npt.NDArray[np.float32], max_edge: int) -> tuple[int, ...]:
    if max(made.shape) > max_edge:
        raise ModelError(
            Status.IMAGE_TOO_LARGE, f"its processor makes images of {made.shape[1:]} pixels; at most {max_edge}"
        )
    return made.shape


def _columns(affine: Affine) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return affine.shift, affine.scale


def _pixels(made: npt.NDArray[np.float32], affine: Affine | None) -> npt.NDArray[np.uint8] | None:
    """Return the 8-bit pixels that ``affine`` turns into ``made``; None when there are none."""
    if affine is None or len(affine.shift) != len(made):
        return None
    shift, scale = (np.asarray(v, np.float32)[:, None, None] for v in _columns(affine))
    rounded = np.rint(made * scale + shift)
    if not np.isfinite(rounded).all() or rounded.min() < 0 or rounded.max() > 255:
        return None
    found = rounded.astype(np.uint8)
    return found if _error(made, found, affine) <= TOLERANCE else None


def _error(made: npt.NDArray[np.float32], pixels: npt.NDArray[np.uint8], affine: Affine) -> float:
    shift, scale = (np.asarray(v, np.float32)[:, None, None] for v in _columns(affine))
    if len(shift) != len(pixels):
        return float("inf")
    rebuilt = (pixels.astype(np.float32) - shift) / scale
    return float(np.abs(rebuilt - made).max() / max(float(np.abs(made).max()), 1e-6))


def _images(workspace: Workspace, probe_set: str, mode: str, rows: int = 256) -> Iterator[list[Any]]:
    """Yield the probes in order, decoded, in lists: the whole set is never in memory."""
    path = workspace.probes_dir(probe_set) / "probes.parquet"
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows, columns=["image"]):
            yield [decode(value["bytes"]).convert(mode) for value in batch.column("image").to_pylist()]


def _evict(root: Path, wanted: int) -> None:
    """Delete the entries used longest ago until ``wanted`` bytes fit under the cap. Open maps stay readable."""
    entries = [p for p in root.iterdir() if p.is_dir() and (p / "pixels").exists()] if root.is_dir() else []
    sizes = {p: (p / "pixels").stat().st_size for p in entries}
    for path in sorted(entries, key=lambda p: p.stat().st_mtime):
        if sum(sizes.values()) + wanted <= MAX_CACHE_BYTES:
            return
        _log.info("evicting preprocessed probes %s (%d bytes)", path.name, sizes.pop(path))
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _lock(root: Path, name: str) -> Iterator[None]:
    """Hold a lock that its owner's death releases: two ranks must not make the same pixels."""
    root.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # pragma: no cover - Windows: both make them, one rename wins
        yield
        return
    with (root / f".lock-{name}").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
