"""Descriptors on disk, as the scan reads them: tiles of at most 65,536 logits, never changed once written.

``<name>.f16``: row-major fp16 ``[rows, n_probes]``, little-endian, no header: the exact values, for re-ranking.

``<name>.u8``: the same values in one byte per entry, probe by probe, uint8 ``[n_probes, rows]``. A value v becomes
``round((v - LOW) / STEP)``, 0 to 255, and is read back within ``STEP / 2`` of itself.

``<name>.over``: values beyond the range, kept exactly, so that the bound holds for every entry. They are rare
(Chebyshev: of a z-scored row at most 1 in 16 is below -4 and 1 in 140 above 11.9). int64 offsets ``[n_probes + 1]``,
uint32 rows, fp16 values, probe by probe, rows ascending.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from workspace.files import damaged, replacing, sha256_of

HALF: NDArray[np.float32] = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""Value of every fp16 bit pattern, float32 ``[65536]``: processors without fp16 arithmetic look it up."""

with np.errstate(invalid="ignore", over="ignore"):
    SQUARES: NDArray[np.float32] = np.nan_to_num(np.maximum(HALF, 0.0) ** 2)
"""Square of the positive part of every fp16 bit pattern, float32 ``[65536]``."""

LOW = -4.0
"""Value of code 0, in standard deviations."""

STEP = 1.0 / 16.0
"""Distance of neighbouring codes, in standard deviations: exact in binary, so that codes are the same everywhere."""

ZERO = -LOW / STEP
"""Code of the value 0."""

HIGH = LOW + 255 * STEP
"""Value of code 255, in standard deviations."""

ERROR = STEP / 2 + 1e-4
"""Bound on what one entry is off by, in standard deviations; the last part covers float32 rounding."""


with np.errstate(invalid="ignore"):
    _scaled = np.rint((HALF.astype(np.float64) - LOW) / STEP)
    FLAGGED: NDArray[np.bool_] = ~((_scaled >= 0) & (_scaled <= 255))
    CODE_OF: NDArray[np.uint8] = np.nan_to_num(np.clip(_scaled, 0, 255)).astype(np.uint8)
"""The code of every fp16 bit pattern, and whether it is out of range (or not finite)."""


def encode(vectors: NDArray[np.float16]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the codes, uint8 ``[n_probes, rows]``, and the overflow as bytes, of float16 ``[rows, n_probes]``."""
    from search.scan.kernels import find_flagged, transpose_codes  # importing numba takes 0.3 s

    rows, n = vectors.shape
    exact = np.ascontiguousarray(vectors).view(np.uint16)
    codes = np.empty((n, rows), np.uint8)
    transpose_codes(exact, CODE_OF, codes)
    flat = np.sort(find_flagged(exact, FLAGGED))
    probe, row = flat // rows, (flat % rows).astype("<u4")
    offsets = np.searchsorted(probe, np.arange(n + 1)).astype("<i8")
    values = vectors[row, probe].astype("<f2")
    return codes, np.frombuffer(offsets.tobytes() + row.tobytes() + values.tobytes(), np.uint8)


def read_overflow(data: NDArray[np.uint8], n: int) -> tuple[NDArray[np.int64], NDArray[np.uint32], NDArray[np.uint16]]:
    """Return offsets, rows and fp16 bit patterns from the bytes of a ``.over`` file; ValueError when they disagree."""
    offsets = data[: 8 * (n + 1)].view("<i8")
    count = int(offsets[-1]) if offsets.size == n + 1 else -1
    if count < 0 or data.size != 8 * (n + 1) + 6 * count:
        raise ValueError(f"{data.size} bytes cannot hold {count} entries over {n} probes")
    start = 8 * (n + 1)
    return offsets, data[start : start + 4 * count].view("<u4"), data[start + 4 * count :].view("<u2")


_NAME = re.compile("[0-9]+-[0-9]+")

TILE_ROWS = 65_536
"""Logits in a full tile: 262 MB of codes and 524 MB of fp16 at 4,000 probes."""


@dataclass(frozen=True)
class TileFile:
    """One file of a tile: its name in ``tiles/``, size in bytes and sha256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class TileInfo:
    """What the manifest says of a tile."""

    name: str
    rows: int
    files: tuple[TileFile, ...]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TileInfo:
        """Read a manifest's entry; raises `ValueError` for a name that is none of ours: it becomes part of a path."""
        name, rows = str(content["name"]), int(content["rows"])
        files = tuple(TileFile(str(f["name"]), int(f["bytes"]), str(f["sha256"])) for f in content["files"])
        if not _NAME.fullmatch(name) or [f.name for f in files] != [f"{name}.{end}" for end in ("f16", "u8", "over")]:
            raise ValueError(f"no tile is named {name!r}, or has its files")
        if rows < 1:
            raise ValueError(f"a tile of {rows} rows")
        return cls(name, rows, files)


def write_tile(folder: Path, name: str, vectors: NDArray[np.float16]) -> TileInfo:
    """Write ``vectors``, float16 ``[rows, n_probes]``, as the tile ``name`` and return its entry."""
    quantised, overflow = encode(vectors)
    files = (
        _write(folder / f"{name}.f16", vectors.astype("<f2", copy=False)),
        _write(folder / f"{name}.u8", quantised),
        _write(folder / f"{name}.over", overflow),
    )
    return TileInfo(name, vectors.shape[0], files)


class Tile:
    """An open tile. Raises `WorkspaceError` when a file of it is missing or not of the size its manifest says.

    Attributes:
        rows: logits in it.
        exact: fp16 bit patterns, uint16 ``[rows, n_probes]``, memory-mapped.
        codes: uint8 ``[n_probes, rows]``, memory-mapped.
        overflow: offsets, rows and fp16 bit patterns of the entries that have no code.
    """

    def __init__(self, folder: Path, info: TileInfo, n_probes: int) -> None:
        self.rows = info.rows
        for file in info.files:
            _check_size(folder / file.name, file.bytes)
        shape = (info.rows, n_probes)
        _check_size(folder / f"{info.name}.f16", 2 * info.rows * n_probes)
        _check_size(folder / f"{info.name}.u8", info.rows * n_probes)
        # plain arrays over the mapping: np.memmap itself costs 20 us at every slice
        self.exact: NDArray[np.uint16] = np.asarray(np.memmap(folder / f"{info.name}.f16", "<u2", "r", shape=shape))
        self.codes: NDArray[np.uint8] = np.asarray(np.memmap(folder / f"{info.name}.u8", "u1", "r", shape=shape[::-1]))
        self._exact = folder / f"{info.name}.f16"
        path = folder / f"{info.name}.over"
        try:
            self.overflow = read_overflow(np.asarray(np.memmap(path, "u1", "r")), n_probes)
            offsets, rows, _ = self.overflow
            if offsets[0] != 0 or (np.diff(offsets) < 0).any() or (rows.size and int(rows.max()) >= info.rows):
                raise ValueError("it names rows that the tile does not have")  # the kernels would write elsewhere
        except (ValueError, OSError) as error:
            raise damaged(path, error) from error

    def read(self, start: int, count: int) -> NDArray[np.uint16]:
        """Return rows of `exact`, read, not mapped: whoever passes over all of them keeps no more than these."""
        n = self.exact.shape[1]
        return np.fromfile(self._exact, "<u2", count * n, offset=2 * start * n).reshape(count, n)


def verify(folder: Path, info: TileInfo) -> None:
    """Raise `WorkspaceError` unless every file of the tile has the size and the sha256 recorded for it."""
    for file in info.files:
        _check_size(folder / file.name, file.bytes)
        if sha256_of(folder / file.name) != file.sha256:
            raise damaged(folder / file.name, "its checksum is another")


def _write(path: Path, array: NDArray[Any]) -> TileFile:
    array = np.ascontiguousarray(array)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(array.reshape(-1).view(np.uint8).data)  # tofile hides why a disk refuses
    return TileFile(path.name, array.nbytes, hashlib.sha256(array.view(np.uint8).reshape(-1).data).hexdigest())


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size != expected:
        raise damaged(path, f"{size} bytes where its manifest says {expected}")


_GAP = 16_384
"""Bytes that are read along rather than in two requests."""


class Source(Protocol):
    """Brings what is missing."""

    def bring(self, spans: Sequence[tuple[Path, int, int]]) -> None:
        """Write the bytes from the one number to before the other to their places in files."""

    def whole(self, part: str) -> None:
        """Copy the files of a folder of the version."""


class Partial:
    """The tiles in ``folder``, whose files are in full length and filled as they are needed."""

    def __init__(self, folder: Path, infos: Sequence[TileInfo], n_probes: int, source: Source) -> None:
        self.source, self._n = source, n_probes
        self._files = [(folder / f"{info.name}.u8", folder / f"{info.name}.f16") for info in infos]
        self._rows = [info.rows for info in infos]
        self._codes = [_marks(codes, n_probes) for codes, _ in self._files]
        self._values = [_marks(values, info.rows) for (_, values), info in zip(self._files, infos, strict=True)]
        self._lock = threading.Lock()

    def columns(self, columns: NDArray[np.int32]) -> None:
        """Have the codes of ``columns`` here, of all logits."""
        wanted = np.unique(columns)
        self._have([(codes, here, wanted, rows) for (codes, _), here, rows in zip(
            self._files, self._codes, self._rows, strict=True)])  # fmt: skip

    def rows(self, chosen: Sequence[tuple[int, NDArray[np.int64]]]) -> None:
        """Have the exact values of rows here: numbers of tiles, and rows within each."""
        self._have([(self._files[i][1], self._values[i], np.unique(rows), 2 * self._n) for i, rows in chosen])

    def _have(self, asked: Sequence[tuple[Path, NDArray[np.uint8], NDArray[np.integer], int]]) -> None:
        with self._lock:
            missing = [(path, here, wanted[here[wanted] == 0], size) for path, here, wanted, size in asked]
            spans = [(path, *span) for path, _, some, size in missing for span in _spans(some, size)]
            if spans:
                self.source.bring(spans)
                for _, here, some, _ in missing:
                    here[some] = 1  # after the bytes: a kill in between costs reading them again


def _marks(path: Path, count: int) -> NDArray[np.uint8]:
    """Return a byte for each part of a file, 1 where it is here; kept on the disk."""
    kept = path.with_name(f"{path.name}.here")
    if not kept.exists() or kept.stat().st_size != count:
        kept.write_bytes(bytes(count))
    return np.memmap(kept, np.uint8, "r+", shape=(count,))


def _spans(parts: NDArray[np.integer], size: int) -> list[tuple[int, int]]:
    """Return the bytes of ascending ``parts`` of ``size`` bytes each; neighbours, and near ones, as one."""
    found: list[tuple[int, int]] = []
    for part in parts.tolist():
        start, stop = part * size, (part + 1) * size
        if found and start - found[-1][1] <= _GAP and stop - found[-1][0] <= 1 << 20:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found
