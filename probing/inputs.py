"""The preprocessed probes: each geometry applied once per workspace, kept memory-mapped, shared by all processes.

``cache/inputs/<key>/`` holds ``pixels`` and ``meta.json``; ``key`` hashes the processor's geometry, the probe set and
the versions of the libraries that resize. Pixels are uint8 where ``(u - shift) / scale`` gives back what the processor
gives; else they are the processor's own float32.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing import cache
from probing.pictures import Picture, Pictures
from probing.processors import Affine, Arrays, Processor
from workspace import ModelError, Status, Workspace

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

GROUP = 64
"""Pictures given to a processor at once."""

CHECKED = 16
"""Pictures of the first group whose result in a list is compared with the result of each alone."""

TOLERANCE = 1e-5
"""Largest error of a pixel rebuilt from uint8, relative to the largest magnitude: rounding of float32 alone."""


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
    pictures = Pictures(workspace, probe_set, threads)
    for exact in (False, True):
        folder = root / cache.key(probe_set, processor.hash if exact else processor.geometry, exact)
        if not (folder / "meta.json").exists():
            with cache.making(folder) as temporary:
                if temporary is not None:
                    made = _make(pictures, processor, temporary, exact, threads, max_edge)
                    cache.finish(temporary, made, processor.name)
        found = cache.open_entry(folder)
        if found is None:  # 8-bit pixels cannot give back what the processor gave
            continue
        if not exact and (processor.affine is None or not _same(pictures, processor, found)):
            continue
        return Inputs(found, None if exact else processor.affine, folder.name)
    raise AssertionError("the exact path always ends in an array")


def _same(pictures: Pictures, processor: Processor, pixels: npt.NDArray[np.uint8]) -> bool:
    """Return whether cached pixels give what ``processor`` gives for the first probes: its last step is its own."""
    made = _one_by_one(processor, pictures[:2])
    assert processor.affine is not None
    return all(
        m.shape == p.shape and _error(m, p, processor.affine) <= TOLERANCE
        for m, p in zip(made, pixels[: len(made)], strict=True)
    )


def _make(
    pictures: Pictures, processor: Processor, folder: Path, exact: bool, threads: int, max_edge: int
) -> npt.NDArray[Any] | None:
    """Return all probes in a new array in ``folder``; None where 8-bit pixels were wanted and there are none."""
    first = _one_by_one(processor, pictures[:CHECKED])
    shape = first[0].shape
    if max(shape) > max_edge:
        raise ModelError(
            Status.IMAGE_TOO_LARGE, f"its processor makes images of {shape[1:]} pixels; at most {max_edge}"
        )
    for way in _exact_ways(processor) if exact else _pixel_ways(processor):
        if not _agrees(way, pictures[:GROUP], first, processor):
            continue
        out = cache.room_for(folder, "float32" if exact else "uint8", (len(pictures), *shape))
        if _fill(out, way, pictures, threads):
            return out
    return None


Way = Callable[[Sequence[Picture]], "Arrays | None"]
"""From pictures to what is kept of them; None where it is not to be had."""


def _exact_ways(processor: Processor) -> Iterator[Way]:
    """Yield how to get the processor's float32, the quickest way first."""
    if not processor.alone:
        yield processor.apply
    yield lambda pictures: _one_by_one(processor, pictures)


def _pixel_ways(processor: Processor) -> Iterator[Way]:
    """Yield how to get the 8-bit pixels: asked of the processor, or worked out from what it gives."""
    affine = processor.affine
    if affine is None:
        return
    if processor.pixels is not None and not processor.alone:
        yield lambda pictures: _checked_pixels(processor, pictures)
    for way in _exact_ways(processor):
        yield partial(_recovered, way, affine)


def _checked_pixels(processor: Processor, pictures: Sequence[Picture]) -> Arrays | None:
    """Return the pixels that the processor gives when asked for them, if they are those of its whole output, too.

    That is seen on the first picture of each list, and on more of the first list.
    """
    assert processor.pixels is not None
    assert processor.affine is not None
    try:
        made = processor.pixels(pictures)
    except Exception as error:  # noqa: BLE001 - a processor that does not know the request is asked in another way
        _log.debug("%s does not give its pixels: %r", processor.name, error)
        return None
    if len(made) != len(pictures) or any(m.dtype != np.uint8 for m in made):
        return None
    first = _one_by_one(processor, pictures[:1])[0]
    return made if first.shape == made[0].shape and _error(first, made[0], processor.affine) <= TOLERANCE else None


def _recovered(way: Way, affine: Affine, pictures: Sequence[Picture]) -> Arrays | None:
    found = [_pixels(array, affine) for array in way(pictures) or []]
    return None if any(f is None for f in found) else [f for f in found if f is not None]


def _agrees(way: Way, pictures: Sequence[Picture], first: Arrays, processor: Processor) -> bool:
    """Return whether ``way``, given a whole list, makes of its first pictures what the processor makes of each alone.

    float32 must be the same bits; 8-bit pixels must give it back to within rounding.
    """
    found = way(pictures)
    if found is None or len(found) != len(pictures):
        return False
    for one, other in zip(first, found, strict=False):
        if one.shape != other.shape:
            return False
        if other.dtype == np.uint8:
            assert processor.affine is not None
            if _error(one, other, processor.affine) > TOLERANCE:
                return False
        elif not np.array_equal(one, other, equal_nan=True):
            return False
    return True


def _fill(out: npt.NDArray[Any], way: Way, pictures: Pictures, threads: int) -> bool:
    """Write what ``way`` makes of all ``pictures`` to ``out``; False where it makes nothing of one of them."""

    def fill(start: int) -> bool:
        made = way(pictures[start : start + GROUP])
        if made is None:
            return False
        for i, array in enumerate(made, start):
            if array.shape != out.shape[1:]:
                text = f"its processor gives images of different shapes, {out.shape[1:]} and {array.shape}"
                raise ModelError(Status.PROCESSOR_ERROR, text)
            out[i] = array
        return True

    with ThreadPoolExecutor(threads) as pool:
        try:
            return all(pool.map(fill, range(0, len(pictures), GROUP)))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _one_by_one(processor: Processor, pictures: Sequence[Picture]) -> Arrays:
    made = [array for picture in pictures for array in processor.apply([picture])]
    for array in made:
        if array.ndim != 3:
            raise ModelError(
                Status.PROCESSOR_ERROR, f"its processor gives arrays of shape {array.shape}, not one image"
            )
    return made


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
