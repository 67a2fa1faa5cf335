"""Building the index from ``descriptors/``, beside the one in use, which is swapped only when the new one is whole."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from tqdm import tqdm

from search.concepts import concepts_table, write_concepts
from search.info import checksums
from search.scan.gallery import Gallery
from search.scan.neighbours import SAMPLE, Reduction, measured_recall
from search.scan.peers import Peers, measure
from search.scan.whitening import Whitened, whiten
from search.store import sources, tables, tiles, versions
from search.store.tables import LOGITS, PRINT_LOGITS, families, models_table, prints
from search.store.versions import folder_bytes
from search.text import bank, encoder_choice, lists
from search.text.calibration import Calibration, calibrate
from search.text.contrast import Material
from search.text.embeddings import KnownTexts, cache, embed_probes, read_embeddings
from search.text.encoders import Encoder
from search.text.labels import Named
from search.text.labels_fit import build as build_bridge
from search.text.quality import Estimator
from search.texts import Texts
from workspace import HubprobeError, Workspace, WorkspaceError, __version__
from workspace.files import read_array, read_json, short_hash, table_files, using, write_array, write_json
from workspace.runs import new_run_id
from workspace.runs import versions as libraries

Key = tuple[str, str]


class Writer:
    """Gathers descriptor files over ``n`` probes into a version's ``folder``, which does not exist yet.

    ``previous`` are folder and manifest of the version to append to, None to start from nothing; ``reader`` counts what
    was left out, and ``added`` are the logits that are new.
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
        self._prints: NDArray[np.float16] = prints([])
        self._first: dict[int, list[NDArray[np.float32]]] = {}  # new models' first descriptors, for their prints
        self._reduction: Reduction | None = None
        (folder / "tiles").mkdir(parents=True)
        if previous is not None:
            self._continue(*previous)
        self._database = tables.connect(folder)
        self._start = self._written = sum(t.rows for t in self._tiles)
        known = tables.read_logits(folder)
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
            new = pa.concat_tables([LOGITS.empty_table(), *self._logits])
            tables.write_logits(self.folder, self._database, new, self._start)
        tables.write_models(self.folder, self._model_rows(), self._database)
        if self._fresh or self.added:
            tables.index_labels(self._database, fresh=self._fresh)
        kind = tables.index_vectors(self._database) if self._start + self.added else "flat"
        return {
            "format": versions.FORMAT,
            "probe_set": self.workspace.probe_set,
            "n_probes": self.n,
            "models": len(self._models),
            "logits": self._start + self.added,
            "tiles": [asdict(t) for t in self._tiles],
            "vector_index": kind,
            "versions": libraries(),
        }

    def _model_rows(self) -> pa.Table:
        models = models_table(self.workspace, list(self._models), self._counts)
        new = [np.stack(self._first[i]) for i in range(len(self._prints), len(self._models))]
        rows = np.concatenate([self._prints, prints(new)])
        write_array(self.folder / "prints.npy", rows)
        names, bases = (models.column(name).to_pylist() for name in ("repo_id", "base_models"))
        return tables.with_columns(models, family=[names[i] for i in families(rows, self._counts, names, bases)])

    def _continue(self, folder: Path, manifest: dict[str, Any]) -> None:
        """Take over the version before: its tiles and tables by hard link, its models by name."""
        for part in ("tiles", "logits", "lance/logits.lance", "lance/vectors.lance"):
            versions.clone(folder / part, self.folder / part)
        models = tables.read_models(folder)
        keys = zip(models.column("repo_id").to_pylist(), models.column("sha").to_pylist(), strict=True)
        self._models = {key: i for i, key in enumerate(keys)}
        self._counts = models.column("num_logits").to_pylist()
        self._tiles = versions.tiles_of(folder, manifest)
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
                room = max(0, PRINT_LOGITS - len(first))
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
            tables.write_vectors(self._database, reduced, self._written + first_new)
        self._written += len(tile)
        self._pending = [rest] if len(rest) else []


def _logits_of(models: dict[Key, int], known: pa.Table, key: Key) -> NDArray[np.int32]:
    """Return the logits of a model that the version before already holds."""
    if key not in models:
        return np.empty(0, np.int32)
    rows = known.filter(pc.equal(known.column("model"), models[key]))
    return np.asarray(rows.column("logit").to_numpy())


def _peaks(vectors: NDArray[np.float16]) -> NDArray[np.float32]:
    """Return the norm of each row's squared positive values, float32 ``[rows]``; see `search.scan.scoring.strong`."""
    squares = np.maximum(vectors.astype(np.float32), 0.0) ** 2
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", squares, squares, dtype=np.float64)), np.float32)


_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSummary:
    """What a build did.

    Attributes:
        version: name of the version now in use.
        mode: ``built`` from nothing, ``appended`` to the version before, or ``unchanged``.
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
    image_encoder: Encoder | None = None,
    token: str | None = None,
    rebuild: bool = False,
    names: bool = True,
    progress: bool = True,
) -> IndexSummary:
    """Build the index of the probe set in use from its descriptors, the catalog and the attempts.

    Where nothing that it is built from has changed, as `unchanged` says, and no encoder is handed in, nothing is done.
    When the descriptor files that the version in use was built from are unchanged, only new ones are read and the cost
    is that of the new logits; metadata of all models is refreshed.

    Args:
        workspace: where everything is read and ``index/`` is written.
        encoder: ``auto``, ``clip:<repo>``, ``captions:<repo>``, a folder in place of the repo, an `Encoder`, or
            ``none`` for an index without text and image queries; the configuration's when None.
        image_encoder: sees example images; the configuration's, if it names one, when None.
        token: for fetching the encoder from the Hub.
        rebuild: read every descriptor again.
        names: embed the whole concept bank now and count the models that answer each concept, so that naming outputs
            and searching for one are quick from the start; else there is no list of concepts.
        progress: draw progress bars on stderr.

    Raises `MissingStepError` when there are no descriptors, `WorkspaceError` when they are damaged or another process
    is building, `HubError` when the encoder cannot be fetched. Until the last rename readers see the old index.
    """
    started = time.monotonic()
    as_configured = names and encoder is None and image_encoder is None
    if as_configured and not rebuild and (same := unchanged(workspace, token=token)):
        return same
    files = sources.descriptor_files(workspace)
    inputs = _inputs(workspace, names)
    with using(workspace.index_dir / "versions", "write"), versions.writing(workspace):
        versions.remove_unused(workspace)
        chosen = encoder if isinstance(encoder, Encoder) else encoder_choice.load_choice(workspace, encoder, token)
        for path in cache(workspace).glob("*-*.safetensors"):  # texts lay in these before `KnownTexts`
            path.unlink()
        embedded = embed_probes(workspace, chosen, progress=progress) if chosen else None
        named = workspace.config.search.image_encoder
        seeing = image_encoder if chosen else None
        if chosen and named and seeing is None:
            with using(workspace.cache_dir / "encoders", "write"):
                seeing = encoder_choice.load_named(workspace, named, token, "image_encoder")
        pictures = embed_probes(workspace, seeing, progress=progress) if seeing else None
        entries = [sources.Source.of(path) for path in files]
        n = sources.n_probes(files[0])
        previous = None if rebuild else _appendable(workspace, n, entries)
        old = {s["name"] for s in previous[1]["sources"]} if previous else set()
        version = new_run_id("index")
        folder = versions.versions_dir(workspace) / version
        writer = Writer(workspace, folder, n, previous)
        for path in tqdm([p for p in files if p.name not in old], desc="index", unit="file", disable=not progress):
            writer.add(path)
        content = writer.finish()
        content |= {"version": version, "sources": [asdict(s) for s in entries], "encoder": embedded}
        content |= {"image_encoder": pictures, "cover": _cover(workspace), "inputs": inputs}
        gallery = Gallery(folder, content)
        content["recall"] = previous[1]["recall"] if previous else measured_recall(gallery)
        measure(gallery.vectors, gallery.model_of, Peers.load(previous[0]) if previous else None).save(folder)
        before = Whitened.load(previous[0], n, previous[1]["logits"]) if previous else None
        whiten(gallery.vectors, len(gallery), before).save(folder)
        if chosen and embedded and content["logits"]:
            _texts(workspace, gallery, content, chosen, previous, names, progress)
        content["files"] = checksums(folder, (previous[0], previous[1]["files"]) if previous else None)
        write_json(folder / "manifest.json", content)
        versions.publish(workspace, version)
    name = f"{embedded['name']}@{embedded['commit']}" if embedded else None
    return IndexSummary(
        version, "appended" if previous else "built", content["models"], content["logits"], added=writer.added,
        repeated=writer.reader.repeated, nonfinite=writer.reader.nonfinite, probes=n, encoder=name,
        bytes=folder_bytes(folder), seconds=time.monotonic() - started,
    )  # fmt: skip


def unchanged(workspace: Workspace, *, token: str | None = None) -> IndexSummary | None:
    """Return the version in use when `index`, as the configuration has it, would make the same again; None otherwise.

    So when all files that it was built from are those that are there, and the encoders' names still mean the same
    commits, which the Hub is asked; nothing is loaded.
    """
    started = time.monotonic()
    try:
        folder, content, lock = versions.open_current(workspace)
        with lock or nullcontext():
            Gallery(folder, content)  # raises where parts are gone
            if content.get("inputs") != _inputs(workspace, names=True):
                return None
            settings = workspace.config.search
            for side, name in (("encoder", settings.encoder), ("image_encoder", settings.image_encoder)):
                if not encoder_choice.is_same(workspace, name or encoder_choice.NONE, content[side], token):
                    return None
            about = content["encoder"]
            return IndexSummary(
                content["version"], "unchanged", content["models"], content["logits"], added=0, repeated=0, nonfinite=0,
                probes=content["n_probes"], encoder=f"{about['name']}@{about['commit']}" if about else None,
                bytes=folder_bytes(folder), seconds=time.monotonic() - started,
            )  # fmt: skip
    except (HubprobeError, KeyError, TypeError) as error:  # `index` says what is wrong, or mends it
        _LOG.info("the index is built: %s", error)
        return None


def _inputs(workspace: Workspace, names: bool) -> str:
    """Return a hash of the files that an index is built from, by name, size and time, and of what builds it."""
    folders = (workspace.descriptors_dir(workspace.probe_set), workspace.catalog_dir, workspace.attempts_dir)
    files = [[asdict(sources.Source.of(path)) for path in table_files(folder)] for folder in folders]
    stated = [workspace.probe_set, __version__, versions.FORMAT, names, _cover(workspace), files]
    return short_hash(json.dumps(stated))


def _appendable(workspace: Workspace, n: int, entries: list[sources.Source]) -> tuple[Path, dict[str, Any]] | None:
    """Return the version in use when every file it was built from is unchanged, so that only new ones are read."""
    if not (workspace.index_dir / "current.json").exists():
        return None
    try:
        folder, content, _ = versions.open_current(workspace)
        Gallery(folder, content)
        unchanged = {sources.Source(**s) for s in content["sources"]} <= set(entries)
    except (WorkspaceError, TypeError) as error:  # of another format, or damaged: written anew
        _LOG.warning("the index is built from nothing: %s", error)
        return None
    same = content["probe_set"] == workspace.probe_set and content["n_probes"] == n
    return (folder, content) if same and unchanged else None


def _cover(workspace: Workspace) -> dict[str, Any] | None:
    """Return what the probe set's manifest says it shows, or None when it was not chosen by that, or is silent."""
    path = workspace.probes_dir(workspace.probe_set) / "manifest.json"
    try:
        cover = read_json(path).get("cover") if path.is_file() else None
    except WorkspaceError:  # damaged: nothing but this message rests on it
        return None
    names = cover.get("not_shown") if isinstance(cover, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return {"not_shown": names}


def _texts(
    workspace: Workspace,
    gallery: Gallery,
    content: dict[str, Any],
    encoder: Encoder,
    previous: tuple[Path, dict[str, Any]] | None,
    names: bool,
    progress: bool,
) -> None:
    """Write what text queries need into a version's folder: the calibration and the label bridge."""
    folder, before = gallery.folder, previous[0] if previous else None
    known = KnownTexts(cache(workspace), content["encoder"])
    embed = partial(known.embedded, encoder=lambda: encoder, kind="labels", progress=progress)
    probes = read_embeddings(cache(workspace) / content["encoder"]["file"])
    material = Material(gallery.vectors, gallery.model_of, embed, probes)
    older = Calibration.load(before) if before else None
    found = calibrate(replace(material, embed=partial(embed, kind="bank")), previous=older, progress=progress)
    found.save(folder)
    same = older is not None and np.array_equal(older.centre, found.centre) and np.array_equal(older.texts, found.texts)
    models, kept = _models_of(gallery), tables.read_models(before) if before else tables.MODELS.empty_table()
    judge = lists.Judge(models, material, found.centre)
    learned = _judged(folder, judge, models, kept, before, progress=progress)
    quality = [lists.quality(model, *verdict) for model, *verdict in zip(models, *learned.values(), strict=True)]
    every = np.arange(len(gallery))
    labels = pa.chunked_array([pa.array(gallery.labels(every), pa.string())])
    named = Named.of(labels, gallery.model_of, quality)
    built = build_bridge(named, material, found, before if same else None)
    for part in built or ():
        part.save(folder)
    accuracy: list[float | None] = [None] * len(models)
    if built:
        std, mean = (part[:, None] for part in gallery.raw_moments(every))
        estimator = Estimator(named, built[0], material, found.centre, gallery.family_of)
        accuracy = kept.column("estimated_accuracy").to_pylist()
        for rows in (np.sort(model.rows) for model in models[len(accuracy) :]):
            accuracy.append(estimator.of(rows, gallery.vectors(rows) * std[rows] + mean[rows]))
    tables.write_models(folder, tables.with_columns(gallery.models, **learned, estimated_accuracy=accuracy))
    content["labels"] = int(built[0].trust.size) if built else 0
    if names:
        embed(bank.names(everyday_only=False), kind="bank")
        whole = Gallery(folder, content)
        asked = Texts(workspace, whole, encoder=encoder, token=None, keep=False)
        write_concepts(folder, concepts_table(whole, asked, progress=progress))


def _judged(
    folder: Path,
    judge: lists.Judge,
    models: Sequence[lists.Model],
    kept: pa.Table,
    before: Path | None,
    *,
    progress: bool,
) -> dict[str, list[Any]]:
    """Compare models with whole lists of labels and write the names; return ``labels_from`` and ``labels_fit`` of each.

    Models of the version that this one continues, ``kept``, keep their verdicts: `hubprobe index --rebuild` compares
    them anew.
    """
    listed = tables.read_listed(before) if before else tables.LISTED.empty_table()
    names: dict[int, str] = dict(zip(listed.column("row").to_pylist(), listed.column("name").to_pylist(), strict=True))
    verdicts = judge.verdicts(models[kept.num_rows :], progress=progress)
    for verdict in verdicts:
        names |= verdict.names
    rows = sorted(names)
    tables.write_listed(folder, pa.table([rows, [names[row] for row in rows]], schema=tables.LISTED))
    return {
        "labels_from": kept.column("labels_from").to_pylist() + [verdict.source for verdict in verdicts],
        "labels_fit": kept.column("labels_fit").to_pylist() + [verdict.fit for verdict in verdicts],
    }


def _models_of(gallery: Gallery) -> list[lists.Model]:
    """Return every model of a version as lists are compared with it, in order."""
    order = np.argsort(gallery.model_of, kind="stable").astype(np.int64)
    bounds = np.searchsorted(gallery.model_of[order], np.arange(gallery.models.num_rows + 1))
    outputs = gallery.logits.column("logit").to_numpy().astype(np.int64)
    labels = gallery.logits.column("label").to_pylist()
    columns = (gallery.models.column(name).to_pylist() for name in ("repo_id", "label_quality", "num_labels"))
    found = []
    for i, (repo_id, quality, count) in enumerate(zip(*columns, strict=True)):
        rows = order[bounds[i] : bounds[i + 1]]
        rows = rows[np.argsort(outputs[rows], kind="stable")]
        most = int(outputs[rows].max(initial=-1)) + 1
        whole = count if count is not None and count >= most else most
        found.append(lists.Model(repo_id, quality, whole, rows, outputs[rows], [labels[r] for r in rows.tolist()]))
    return found
