"""The preprocessed probes: each geometry applied once per workspace, kept memory-mapped, shared by all processes.

``cache/inputs/<key>/`` holds ``pixels`` and ``meta.json``; ``key`` hashes the processor's geometry, the probe set and
the versions of the libraries that resize. Pixels are uint8 where ``(u - shift) / scale`` gives back what the processor
gives; else they are the processor's own numbers. A processor that gives images of several shapes has them kept one
after the other, and its model is run on one image at a time, as transformers' pipeline runs it.

A probe that a processor fails on is not among those its model is run on; all others are.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing.attempts import is_out_of_memory
from probing.images import cache
from probing.images.pictures import Picture, Pictures
from probing.images.processors import Affine, Arrays, Processor, check_settings, numbers
from workspace import ModelError, Status, Workspace
from workspace.text import printable

if TYPE_CHECKING:
    import torch

_log = logging.getLogger(__name__)

GROUP = 64
"""Pictures given to a processor at once."""

GROUP_PIXELS = 64 * 1024**2
"""Pixels that a group may come to while it is resized, in pixels: long thin images are given in smaller groups."""

CHECKED = 16
"""Pictures whose result in a list is compared with the result of each alone: the first that can be prepared."""

TOLERANCE = 1e-5
"""Largest error of a pixel rebuilt from uint8, relative to the largest magnitude: rounding of float32 alone."""

MAX_OTHERS = 1024**3
"""Bytes of further inputs for all probes: they are in memory at once. Masks of 256 patches are 8 MB for 4,000."""

MAX_REASON = 200  # characters kept of why a probe is refused


@dataclass(frozen=True)
class Inputs:
    """What a model reads."""

    # [probes, channels, height, width], uint8 with ``affine``, or without it the processor's own numbers. Where the
    # images are of several shapes: all of them flat, one after the other.
    pixels: npt.NDArray[Any]
    affine: Affine | None  # what makes float32 of uint8
    key: str = ""  # name of the cache's entry
    # probes that could not be prepared, and why; their pixels mean nothing
    refused: Mapping[int, str] = field(default_factory=dict)
    # int64 [probes, 3], where the images are of several shapes; then one is read at a time
    shapes: npt.NDArray[np.int64] | None = None
    # further inputs by the names of the model's arguments, each with one row a probe
    others: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.pixels) if self.shapes is None else len(self.shapes)

    @property
    def one_at_a_time(self) -> bool:
        """Whether a batch can hold one image only."""
        return self.shapes is not None or bool(self.others)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image, of the largest where they differ."""
        if self.shapes is None:
            return tuple(self.pixels.shape[1:])
        return tuple(int(n) for n in self.shapes[np.argmax(self.shapes.prod(axis=1))])

    def batch(self, ids: Sequence[int] | npt.NDArray[np.int32], device: str = "cpu") -> torch.Tensor:
        """Return probes ``ids`` as float32 [len(ids), channels, height, width] on ``device``; whole numbers as int64.

        uint8 travels; it is scaled and shifted where the model runs.
        """
        import torch

        chosen = np.asarray(ids)
        resident = None if device == "cpu" or self.shapes is not None else self._resident(device)
        if self.shapes is not None:
            (i,) = chosen
            end = int(self.shapes[: i + 1].prod(axis=1).sum())
            one = self.pixels[end - int(self.shapes[i].prod()) : end].reshape(1, *self.shapes[i])
            taken = torch.from_numpy(np.array(one)).to(device)
        elif resident is None:
            taken = torch.from_numpy(np.ascontiguousarray(self.pixels[chosen])).to(device)
        elif len(chosen) and int(chosen[-1]) - int(chosen[0]) + 1 == len(chosen):  # a slice copies no indices
            taken = resident[int(chosen[0]) : int(chosen[-1]) + 1]
        else:
            taken = resident[torch.from_numpy(chosen.astype(np.int64)).to(device)]
        if self.affine is None and not taken.is_floating_point():
            return taken.to(torch.int64)
        x = taken.to(torch.float32, copy=resident is not None)  # a model may write to its input
        if self.affine is None:
            return x
        shift, scale = _on_device(self.affine, str(x.device))
        return x.sub_(shift).div_(scale)

    def beside(self, ids: Sequence[int] | npt.NDArray[np.int32], device: str = "cpu") -> dict[str, torch.Tensor]:
        """Return the further inputs of probes ``ids``, by the names of the model's arguments."""
        import torch

        return {
            name: torch.from_numpy(np.array(rows[np.asarray(ids)])).to(device) for name, rows in self.others.items()
        }

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

    shift, scale = (torch.tensor(v, dtype=torch.float32)[:, None, None] for v in (affine.shift, affine.scale))
    return shift.to(device), scale.to(device)


_resident: dict[str, tuple[str, torch.Tensor]] = {}
_resident_lock = threading.Lock()

RESIDENT_BYTES = 4 * 1024**3
"""Preprocessed probes kept on an accelerator, in bytes: 4,000 probes of 224 pixels as uint8 are 0.6 GB."""


def prepare(workspace: Workspace, probe_set: str, processor: Processor, *, threads: int, max_edge: int) -> Inputs:
    """Return the probes as ``processor`` gives them, from the cache, or made now and kept there.

    Raises `ModelError`: ``image_too_large`` when its settings, or the first image it makes, have an edge over
    ``max_edge`` pixels; ``processor_error`` when it fails on most probes, or makes no image of one.
    """
    check_settings(processor.settings, max_edge)
    root = workspace.cache_dir / "inputs"
    pictures = Pictures(workspace, probe_set, threads)
    for exact in (False, True):
        folder = root / cache.key(probe_set, processor.hash if exact else processor.geometry, exact)
        if not (folder / "meta.json").exists():
            with cache.making(folder) as temporary:
                if temporary is not None:
                    _Making(pictures, processor, temporary, exact, threads, max_edge).run()
        found, meta = cache.open_entry(folder)
        if found is None:  # 8-bit pixels cannot give back what the processor gave
            continue
        made = Inputs(
            found,
            None if exact else processor.affine,
            folder.name,
            {int(i): why for i, why in meta["refused"].items()},
            np.array(meta["shapes"], np.int64) if meta["shapes"] else None,
            _read_others(folder),
        )
        if exact or (processor.affine is not None and _same(pictures, processor, made)):
            return made
    raise AssertionError("the exact path always ends in an array")


def _read_others(folder: Path) -> dict[str, npt.NDArray[Any]]:
    if not (folder / "others.npz").exists():
        return {}
    with np.load(folder / "others.npz", allow_pickle=False) as file:
        return dict(file)


def _same(pictures: Pictures, processor: Processor, made: Inputs) -> bool:
    """Return whether cached pixels give what ``processor`` gives for the first probes: its last step is its own."""
    for i in [i for i in range(len(pictures)) if i not in made.refused][:2]:
        wanted, got = _alone(processor, pictures[i]), made.batch([i]).numpy()[0]
        if wanted.shape != got.shape or _distance(wanted, got) > TOLERANCE:
            return False
    return True


Way = Callable[[Sequence[Picture]], "Arrays | None"]
"""From pictures to what is kept of them; None where it is not to be had."""


class _Making:
    """All probes through one processor, into the ``folder`` of a new entry of the cache."""

    def __init__(
        self, pictures: Pictures, processor: Processor, folder: Path, exact: bool, threads: int, max_edge: int
    ) -> None:
        self._pictures, self._processor, self._folder = pictures, processor, folder
        self._exact, self._threads, self._max_edge = exact, threads, max_edge
        self.refused = dict(pictures.refused)

    def run(self) -> None:
        """Make them and finish the entry; where 8-bit pixels were wanted and there are none, it says so."""
        first = self._first()
        like = next(iter(first.values()))
        uniform = len({array.shape for array in first.values()}) == 1
        if uniform and like.ndim == 3 and max(like.shape[1:]) > self._max_edge:
            text = f"its processor makes images of {like.shape[1:]} pixels; at most {self._max_edge}"
            raise ModelError(Status.IMAGE_TOO_LARGE, text)
        before = dict(self.refused)
        for way in self._ways():
            if not self._agrees(way, first):
                continue
            self.refused = dict(before)
            if (made := self._write(way, like)) is not None:
                kind, shape, shapes = made
                if 2 * len(self.refused) > len(self._pictures):
                    self._refuse_model()
                self._write_others()
                refused = {str(i): why for i, why in sorted(self.refused.items())}
                cache.finish(self._folder, kind, shape, name=self._processor.name, refused=refused, shapes=shapes)
                return
        cache.finish(self._folder, None, (), name=self._processor.name)

    def _first(self) -> dict[int, npt.NDArray[Any]]:
        """Return what is made of the first probes, each alone; those that fail are refused."""
        made: dict[int, npt.NDArray[Any]] = {}
        for i in range(len(self._pictures)):
            if i not in self.refused:
                array = self._attempt(i, partial(_alone, self._processor))
                if array is not None:
                    made[i] = array
            if len(made) == CHECKED or (not made and len(self.refused) >= 4 * CHECKED):
                break
        if not made:
            self._refuse_model()
        return made

    def _attempt(self, i: int, make: Callable[[Picture], npt.NDArray[Any] | None]) -> npt.NDArray[Any] | None:
        """Return what ``make`` makes of probe ``i``; refuse the probe, and return None, where that fails."""
        try:
            array = make(self._pictures[i])
            if array is not None and array.size > 3 * self._max_edge**2:
                text = f"becomes an image of {array.shape}, more than {self._max_edge} x {self._max_edge} pixels"
                raise ModelError(Status.IMAGE_TOO_LARGE, text)
        except Exception as error:
            if isinstance(error, OSError) or is_out_of_memory(error) or isinstance(error, _NoImageError):
                raise
            _log.info("probe %d: %s fails: %r", i, self._processor.name, error)
            reason = error.reason if isinstance(error, ModelError) else f"{type(error).__name__}: {error}"
            self.refused[i] = printable(reason, MAX_REASON)
            return None
        return array

    def _refuse_model(self) -> None:
        i, why = min(self.refused.items())
        text = f"its processor fails on {len(self.refused):,} of {len(self._pictures):,} probes; on probe {i}: {why}"
        raise ModelError(Status.PROCESSOR_ERROR, text)

    def _ways(self) -> Iterator[Way]:
        """Yield how to get what is kept, the quickest way first."""
        processor = self._processor

        def alone(pictures: Sequence[Picture]) -> Arrays:
            return [_alone(processor, picture) for picture in pictures]

        exact: list[Way] = [alone] if processor.alone else [processor.apply, alone]
        if self._exact:
            yield from exact
            return
        if processor.affine is None:
            return
        if processor.pixels is not None and not processor.alone:
            yield partial(_checked_pixels, processor)
        for way in exact:
            yield partial(_recovered, way, processor.affine)

    def _agrees(self, way: Way, first: Mapping[int, npt.NDArray[Any]]) -> bool:
        """Return whether ``way``, given the first probes in a list, makes of each what the processor makes of it alone.

        float32 must be the same bits; 8-bit pixels must give it back to within rounding.
        """
        try:
            found = way([self._pictures[i] for i in first])
        except Exception as error:
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise
            _log.debug("%s: %r", self._processor.name, error)  # such as a request for pixels that it does not know
            return False
        if found is None or len(found) != len(first):
            return False
        for one, other in zip(first.values(), found, strict=True):
            if one.shape != other.shape:
                return False
            if other.dtype == np.uint8 and not self._exact:
                assert self._processor.affine is not None
                if _error(one, other, self._processor.affine) > TOLERANCE:
                    return False
            elif not np.array_equal(one, other, equal_nan=True):
                return False
        return True

    def _groups(self) -> Iterator[list[int]]:
        """Yield the probes in groups of at most `GROUP`, fewer where resizing would make large images of them."""
        sizes = ("size.", "input_size", "resize_short")
        edges = [n for path, n in numbers(self._processor.settings) if path.startswith(sizes)]
        each = max([1.0, *edges]) ** 2 * self._pictures.ratios
        group: list[int] = []
        pixels = 0.0
        for i in range(len(self._pictures)):
            if i in self.refused:
                continue
            if group and (len(group) == GROUP or pixels + each[i] > GROUP_PIXELS):
                yield group
                group, pixels = [], 0.0
            group.append(i)
            pixels += each[i]
        if group:
            yield group

    def _made(self, way: Way, group: list[int]) -> list[tuple[int, npt.NDArray[Any]]] | None:
        """Return what ``way`` makes of the probes of a group, those that it fails on left out; None where of none."""
        try:
            made = way([self._pictures[i] for i in group])
        except Exception as error:
            if isinstance(error, OSError) or is_out_of_memory(error):
                raise
            found = [(i, self._attempt(i, partial(_only, way))) for i in group]
            return [(i, array) for i, array in found if array is not None]
        return None if made is None else list(zip(group, made, strict=True))

    def _write(
        self, way: Way, like: npt.NDArray[Any]
    ) -> tuple[str, tuple[int, ...], list[tuple[int, ...]] | None] | None:
        """Write what ``way`` makes of all probes, one after the other; None where it makes nothing of one of them.

        A refused probe is zeros of the shape that the first has: images of one shape then lie as one array.
        """
        kind, groups = str(like.dtype) if self._exact else "uint8", list(self._groups())
        nothing, shapes, size = np.zeros(like.shape, kind), list[tuple[int, ...]](), 0
        with ThreadPoolExecutor(self._threads) as pool, (self._folder / "pixels").open("wb") as file:
            try:
                for group, made in zip(groups, pool.map(partial(self._made, way), groups), strict=True):
                    if made is None:
                        return None
                    cache.evict(self._folder.parent, size)
                    arrays, end = dict(made), len(self._pictures) if group is groups[-1] else group[-1] + 1
                    for i in range(len(shapes), end):
                        array = np.ascontiguousarray(arrays.get(i, nothing), kind)
                        shapes.append(array.shape)
                        size += array.nbytes
                        file.write(array.data)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        if set(shapes) == {like.shape}:
            return kind, (len(shapes), *like.shape), None
        if odd := [shape for shape in shapes if len(shape) != 3]:
            raise _NoImageError(odd[0])
        return kind, (size // nothing.itemsize,), shapes

    def _write_others(self) -> None:
        if self._processor.others is None:
            return
        rows: dict[int, dict[str, npt.NDArray[Any]]] = {}
        for i in range(len(self._pictures)):
            if i not in self.refused:
                rows[i] = self._processor.others(self._pictures[i])
                if (size := sum(array.nbytes for array in rows[i].values())) * len(self._pictures) > MAX_OTHERS:
                    text = f"its processor makes {size:,} bytes beside each image: {', '.join(rows[i])}"
                    raise ModelError(Status.PROCESSOR_ERROR, text)
        columns: dict[str, npt.NDArray[Any]] = {}
        for name, one in next(iter(rows.values())).items():
            columns[name] = np.zeros((len(self._pictures), *one.shape), one.dtype)
            for i, row in rows.items():
                columns[name][i] = row[name]
        if columns:
            np.savez(self._folder / "others.npz", allow_pickle=False, **columns)


class _NoImageError(ModelError):
    """A processor makes something else than one image of an image: that is no matter of a probe."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(Status.PROCESSOR_ERROR, f"its processor gives arrays of shape {shape}, not one image")


def _alone(processor: Processor, picture: Picture) -> npt.NDArray[Any]:
    """Return what a processor makes of one picture alone."""
    made = processor.apply([picture])
    if len(made) != 1 or not 1 <= made[0].ndim <= 3:
        raise _NoImageError((len(made), *made[0].shape) if made else (0,))
    return made[0]


def _only(way: Way, picture: Picture) -> npt.NDArray[Any] | None:
    made = way([picture])
    return None if made is None else made[0]


def _checked_pixels(processor: Processor, pictures: Sequence[Picture]) -> Arrays | None:
    """Return the pixels that the processor gives when asked for them, if they are those of its whole output, too.

    That is seen on the first picture of each list, and on more of the first list.
    """
    assert processor.pixels is not None
    assert processor.affine is not None
    made = processor.pixels(pictures)
    if len(made) != len(pictures) or any(m.dtype != np.uint8 for m in made):
        return None
    first = _alone(processor, pictures[0])
    return made if first.shape == made[0].shape and _error(first, made[0], processor.affine) <= TOLERANCE else None


def _recovered(way: Way, affine: Affine, pictures: Sequence[Picture]) -> Arrays | None:
    found = [_pixels(array, affine) for array in way(pictures) or []]
    return None if any(f is None for f in found) else [f for f in found if f is not None]


def _pixels(made: npt.NDArray[np.float32], affine: Affine) -> npt.NDArray[np.uint8] | None:
    """Return the 8-bit pixels that ``affine`` turns into ``made``; None when there are none."""
    if made.ndim != 3 or len(affine.shift) != len(made):
        return None
    shift, scale = (np.asarray(v, np.float32)[:, None, None] for v in (affine.shift, affine.scale))
    rounded = np.rint(made * scale + shift)
    if not np.isfinite(rounded).all() or rounded.min() < 0 or rounded.max() > 255:
        return None
    found = rounded.astype(np.uint8)
    return found if _error(made, found, affine) <= TOLERANCE else None


def _error(made: npt.NDArray[np.float32], pixels: npt.NDArray[np.uint8], affine: Affine) -> float:
    shift, scale = (np.asarray(v, np.float32)[:, None, None] for v in (affine.shift, affine.scale))
    if pixels.ndim != 3 or len(shift) != len(pixels):
        return float("inf")
    return _distance(made, (pixels.astype(np.float32) - shift) / scale)


def _distance(made: npt.NDArray[np.float32], rebuilt: npt.NDArray[np.float32]) -> float:
    return float(np.abs(rebuilt - made).max() / max(float(np.abs(made).max()), 1e-6))
