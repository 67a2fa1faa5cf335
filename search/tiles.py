"""Descriptors on disk, as the scan reads them: tiles of at most 65,536 logits, never changed once written.

``<name>.f16``: row-major fp16 ``[rows, n_probes]``, little-endian, no header: the exact values, for re-ranking.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from workspace import WorkspaceError
from workspace.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray

TILE_ROWS = 65_536
"""Logits in a full tile: 262 MB of u8 at 4,000 probes, and a column of it (64 KiB) fits the L2 cache."""


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

    def to_json(self) -> dict[str, Any]:
        """Return a plain dict for the manifest."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> TileInfo:
        """Read what `to_json` wrote."""
        return cls(str(content["name"]), int(content["rows"]), tuple(TileFile(**f) for f in content["files"]))


def write_tile(folder: Path, name: str, vectors: NDArray[np.float16]) -> TileInfo:
    """Write ``vectors``, float16 ``[rows, n_probes]``, as the tile ``name`` and return its entry."""
    return TileInfo(name, vectors.shape[0], (_write(folder / f"{name}.f16", vectors.astype("<f2", copy=False)),))


class Tile:
    """An open tile.

    Attributes:
        rows: logits in it.
        exact: fp16 bit patterns, uint16 ``[rows, n_probes]``, memory-mapped.
    """

    def __init__(self, folder: Path, info: TileInfo, n_probes: int) -> None:
        self.rows = info.rows
        self.exact: NDArray[np.uint16] = _map(folder / f"{info.name}.f16", "<u2", (info.rows, n_probes))


def verify(folder: Path, info: TileInfo) -> None:
    """Raise `WorkspaceError` unless every file of the tile has the size and the sha256 recorded for it."""
    for file in info.files:
        path = folder / file.name
        if not path.is_file() or path.stat().st_size != file.bytes or _sha256(path) != file.sha256:
            raise WorkspaceError(f"{path} is damaged: run 'hubprobe index --rebuild'")


def _write(path: Path, array: NDArray[Any]) -> TileFile:
    array = np.ascontiguousarray(array)
    with replacing(path) as temporary:
        array.tofile(temporary)
    return TileFile(path.name, array.nbytes, hashlib.sha256(array.view(np.uint8).reshape(-1).data).hexdigest())


def _map(path: Path, dtype: str, shape: tuple[int, int]) -> NDArray[Any]:
    expected = shape[0] * shape[1] * np.dtype(dtype).itemsize
    size = path.stat().st_size if path.is_file() else -1
    if size != expected:
        raise WorkspaceError(
            f"{path} has {max(size, 0)} bytes where its manifest says {expected}: run 'hubprobe index --rebuild'"
        )
    return np.memmap(path, dtype=dtype, mode="r", shape=shape)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()
