"""One version of the index being written: from nothing, or as the version before it plus new models."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from search import database, families, layout, sources, tiles
from search.metadata import LOGITS, models_table, with_families
from search.reduction import SAMPLE, Reduction
from workspace import Workspace
from workspace.files import read_array, write_array
from workspace.runs import versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

Key = tuple[str, str]


class Writer:
    """Gathers descriptor files into a version's folder.

    Args:
        workspace: where catalog and attempts are.
        folder: of the new version; it does not exist yet.
        n: probes of the probe set.
        previous: folder and manifest of the version to append to, or None to start from nothing.

    Attributes:
        reader: counts what was left out.
        added: logits that are new in this version.
    """

    def __init__(
        self, workspace: Workspace, folder: Path, n: int, previous: tuple[Path, dict[str, Any]] | None = None
    ) -> None:
        self.workspace, self.folder, self.n = workspace, folder, n
        self.added, self._fresh = 0, previous is None
        self._models: dict[Key, int] = {}
        self._counts: list[int] = []
        self._tiles: list[tiles.TileInfo] = []
        self._pending: list[NDArray[np.float16]] = []
        self._logits: list[pa.Table] = []
        self._prints: NDArray[np.float16] = families.prints([])
        self._first: dict[int, list[NDArray[np.float32]]] = {}  # new models' first descriptors, for their prints
        self._reduction: Reduction | None = None
        (folder / "tiles").mkdir(parents=True)
        if previous is not None:
            self._continue(*previous)
        self._database = database.connect(folder)
        self._start = self._written = sum(t.rows for t in self._tiles)
        known = database.read_logits(self._database) if previous is not None else LOGITS.empty_table()
        # not a method: writer and reader would keep each other, the table and open files until the collector runs
        self.reader = sources.Reader(n, partial(_logits_of, dict(self._models), known))

    def add(self, path: Path) -> None:
        """Read one descriptor file."""
        for batch in self.reader.read(path):
            if self.added == 0 and not self._fresh:
                self._reopen_small_tiles(batch.vectors.shape[0])
            self._logits.append(self._logit_rows(batch))
            self.added += batch.table.num_rows
            self._pending.append(batch.vectors)
            while sum(len(p) for p in self._pending) >= tiles.TILE_ROWS:
                self._write_tile()

    def finish(self) -> dict[str, Any]:
        """Write what is left, index it, and return the manifest's entries."""
        if self._pending:
            self._write_tile()
        if self.added or self._fresh:
            database.write_logits(self._database, pa.concat_tables([LOGITS.empty_table(), *self._logits]), self._start)
        database.write_models(self._database, self._model_rows())
        if self._fresh or self.added:
            database.index_labels(self._database, fresh=self._fresh)
        kind = database.index_vectors(self._database) if self._start + self.added else "flat"
        return {
            "format": layout.FORMAT,
            "probe_set": self.workspace.probe_set,
            "n_probes": self.n,
            "models": len(self._models),
            "logits": self._start + self.added,
            "tiles": [t.to_json() for t in self._tiles],
            "vector_index": kind,
            "versions": versions(),
        }

    def _model_rows(self) -> pa.Table:
        models = models_table(self.workspace, list(self._models), self._counts)
        new = [np.stack(self._first[i]) for i in range(len(self._prints), len(self._models))]
        rows = np.concatenate([self._prints, families.prints(new)])
        write_array(self.folder / "prints.npy", rows)
        names, bases = (models.column(name).to_pylist() for name in ("repo_id", "base_models"))
        return with_families(models, families.families(rows, self._counts, names, bases))

    def _continue(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Take over the version before: its tiles and tables by hard link, its models by name."""
        for part in ("tiles", "lance/logits.lance", "lance/vectors.lance"):
            layout.clone(folder / part, self.folder / part)
        models = database.read_models(database.connect(folder))
        keys = zip(models.column("repo_id").to_pylist(), models.column("sha").to_pylist(), strict=True)
        self._models = {key: i for i, key in enumerate(keys)}
        self._counts = models.column("num_logits").to_pylist()
        self._tiles = layout.tiles_of(folder, manifest)
        self._prints = read_array(folder / "prints.npy")
        self._reduction = Reduction.load(folder, self.n)
        self._reduction.save(self.folder)

    def _reopen_small_tiles(self, arriving: int) -> None:
        """Write small last tiles again together with what is new, so that many appends do not leave many tiles.

        A tile is rewritten only when at least as much is new, hence no descriptor more than log2(logits) times.
        """
        size = arriving
        while self._tiles and self._tiles[-1].rows < tiles.TILE_ROWS and self._tiles[-1].rows <= size:
            info = self._tiles.pop()
            tile = tiles.Tile(self.folder / "tiles", info, self.n)
            self._pending.insert(0, np.array(tile.exact).view(np.float16))
            self._written -= info.rows
            size += info.rows
            for file in info.files:
                (self.folder / "tiles" / file.name).unlink()

    def _logit_rows(self, batch: sources.Batch) -> pa.Table:
        ordinals = np.empty(batch.table.num_rows, np.int32)
        for key, start, stop in sources.runs(batch.table):
            ordinal = self._models.setdefault(key, len(self._models))
            if ordinal == len(self._counts):
                self._counts.append(0)
            self._counts[ordinal] += stop - start
            ordinals[start:stop] = ordinal
            if ordinal >= len(self._prints):
                first = self._first.setdefault(ordinal, [])
                room = max(0, families.LOGITS - len(first))
                first += list(batch.vectors[start : min(stop, start + room)].astype(np.float32))
        columns = {name: batch.table.column(name) for name in ("logit", "label", "mean", "std", "variance")}
        columns |= {"model": ordinals, "observed": batch.observed, "peak": _peaks(batch.vectors)}
        return pa.table(columns).select(LOGITS.names).cast(LOGITS)

    def _write_tile(self) -> None:
        rows = np.concatenate(self._pending)
        tile, rest = rows[: tiles.TILE_ROWS], rows[tiles.TILE_ROWS :]
        if self._reduction is None:
            sample = np.random.default_rng(0).permutation(len(tile))[:SAMPLE]
            self._reduction = Reduction.fit(tile[np.sort(sample)])
            self._reduction.save(self.folder)
        name = f"{self._written:012d}-{len(tile)}"  # where it starts and how long it is: never a name used before
        self._tiles.append(tiles.write_tile(self.folder / "tiles", name, tile))
        first_new = max(0, self._start - self._written)
        if first_new < len(tile):
            reduced = self._reduction.reduce(tile[first_new:])
            database.write_vectors(self._database, reduced, self._written + first_new)
        self._written += len(tile)
        self._pending = [rest] if len(rest) else []


def _logits_of(models: dict[Key, int], known: pa.Table, key: Key) -> NDArray[np.int32]:
    """Return the logits of a model that the version before already holds."""
    if key not in models:
        return np.empty(0, np.int32)
    rows = known.filter(pc.equal(known.column("model"), models[key]))
    found: NDArray[np.int32] = rows.column("logit").to_numpy()
    return found


def _peaks(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the norm of each row's squared positive values, float32 ``[rows]``; see `search.scoring.strong`."""
    squares = np.maximum(vectors.astype(np.float32), 0.0) ** 2
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", squares, squares, dtype=np.float64)), np.float32)
