"""Building the index from ``descriptors/``, beside the one in use, which is swapped only when the new one is whole."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from search import layout, sources, tiles
from search.embeddings import embed_probes
from search.encoders import Encoder, load_encoder
from search.metadata import LOGITS, models_table
from workspace import Workspace
from workspace.files import write_json
from workspace.runs import new_run_id, versions

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class IndexSummary:
    """What a build did.

    Attributes:
        version: name of the version now in use.
        mode: ``built`` or ``unchanged``.
        models: probed models in the index.
        logits: searchable logits in the index.
        added: logits that this build read.
        repeated: descriptor rows left out because an earlier file held the same logit.
        nonfinite: descriptor rows left out because they hold NaN or infinity.
        probes: probes in the probe set.
        encoder: the encoder and its commit, or None.
        bytes: size of the version on disk.
        seconds: wall time.
    """

    version: str
    mode: str
    models: int
    logits: int
    added: int
    repeated: int
    nonfinite: int
    probes: int
    encoder: str | None
    bytes: int
    seconds: float


def index(
    workspace: Workspace,
    *,
    encoder: str | Encoder | None = None,
    token: str | None = None,
    progress: bool = True,
) -> IndexSummary:
    """Build the index of the probe set in use from its descriptors, the catalog and the attempts.

    Args:
        workspace: where everything is read and ``index/`` is written.
        encoder: ``clip:<repo>``, ``clip:<folder>``, an `Encoder`, or ``none`` for an index without text and image
            queries; the configuration's when None.
        token: for fetching the encoder from the Hub.
        progress: draw progress bars on stderr.

    Raises `MissingStepError` when there are no descriptors, `WorkspaceError` when they are damaged or another process
    is building, `HubError` when the encoder cannot be fetched. Until the last rename readers see the old index.
    """
    started = time.monotonic()
    files = sources.descriptor_files(workspace)
    with layout.writing(workspace):
        layout.remove_unused(workspace)
        embedded = _embedded(workspace, encoder, token, progress)
        version = new_run_id("index")
        folder = layout.versions_dir(workspace) / version
        built = _Builder(workspace, folder, sources.n_probes(files[0]))
        entries = [sources.Source.of(path) for path in files]
        for path in tqdm(files, desc="index", unit="file", disable=not progress):
            built.add(path)
        content = built.finish()
        content |= {"version": version, "sources": [asdict(s) for s in entries], "encoder": embedded}
        write_json(folder / "manifest.json", content)
        layout.publish(workspace, version)
    size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    name = f"{embedded['name']}@{embedded['commit']}" if embedded else None
    return IndexSummary(
        version, "built", content["models"], content["logits"], content["logits"], built.reader.repeated,
        built.reader.nonfinite, content["n_probes"], name, size, time.monotonic() - started,
    )  # fmt: skip


def _embedded(
    workspace: Workspace, encoder: str | Encoder | None, token: str | None, progress: bool
) -> dict[str, Any] | None:
    if encoder == "none":
        return None
    if not isinstance(encoder, Encoder):
        encoder = load_encoder(workspace, encoder or workspace.config.search.encoder, token=token)
    return embed_probes(workspace, encoder, progress=progress)


class _Builder:
    """Gathers descriptor files into one version's folder."""

    def __init__(self, workspace: Workspace, folder: Path, n: int) -> None:
        self.workspace, self.folder, self.n = workspace, folder, n
        self.reader = sources.Reader(n)
        self._models: dict[tuple[str, str], int] = {}
        self._counts: list[int] = []
        self._logits: list[pa.Table] = []
        self._tiles: list[tiles.TileInfo] = []
        self._pending: list[NDArray[np.float16]] = []
        (folder / "tiles").mkdir(parents=True)

    def add(self, path: Path) -> None:
        for batch in self.reader.read(path):
            self._logits.append(self._logit_rows(batch))
            self._pending.append(batch.vectors)
            while sum(len(p) for p in self._pending) >= tiles.TILE_ROWS:
                self._write_tile()

    def finish(self) -> dict[str, Any]:
        import lancedb

        if self._pending:
            self._write_tile()
        logits = pa.concat_tables([LOGITS.empty_table(), *self._logits]).combine_chunks()
        models = models_table(self.workspace, list(self._models), self._counts)
        database = lancedb.connect(self.folder / "lance")
        database.create_table("models", models)
        database.create_table("logits", logits)
        return {
            "format": layout.FORMAT,
            "probe_set": self.workspace.probe_set,
            "n_probes": self.n,
            "models": models.num_rows,
            "logits": logits.num_rows,
            "tiles": [t.to_json() for t in self._tiles],
            "versions": versions(),
        }

    def _logit_rows(self, batch: sources.Batch) -> pa.Table:
        ordinals = np.empty(batch.table.num_rows, np.int32)
        for key, start, stop in sources.runs(batch.table):
            ordinal = self._models.setdefault(key, len(self._models))
            if ordinal == len(self._counts):
                self._counts.append(0)
            self._counts[ordinal] += stop - start
            ordinals[start:stop] = ordinal
        columns = {name: batch.table.column(name) for name in ("logit", "label", "mean", "std", "variance")}
        return pa.table({"model": ordinals, "observed": batch.observed, **columns}).select(LOGITS.names).cast(LOGITS)

    def _write_tile(self) -> None:
        rows = np.concatenate(self._pending)
        tile, rest = rows[: tiles.TILE_ROWS], rows[tiles.TILE_ROWS :]
        self._tiles.append(tiles.write_tile(self.folder / "tiles", f"{len(self._tiles):06d}", tile))
        self._pending = [rest] if len(rest) else []
