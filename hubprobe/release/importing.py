"""Making a workspace and its index from a release, so that anyone can search without running a model."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from hubprobe.release.columns import restored
from hubprobe.release.sorting import in_buckets
from hubprobe.release.source import Source, open_source
from hubprobe.release.tables import SHARD_BYTES, descriptors
from workspace import Config, HubError, Workspace, WorkspaceError, records
from workspace.files import (
    IMPORTED_PREFIX,
    canonical_json,
    check_version,
    read_json,
    replacing,
    short_hash,
    write_json,
    write_table,
)
from workspace.layout import MARKER
from workspace.runs import new_run_id, now, versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.encoders import Encoder

NOTE = ".importing.json"
"""In a folder that is being filled: which release it is filled from. Gone when the workspace is whole."""

_TABLES = ("models", "attempts", "probes", "descriptors", "encoders")  # logits say nothing that these do not
_BATCH_ROWS = 4_096
_SPARE = 256 * 1024**2  # bytes of disk that stay free
_ENCODER = re.compile(r"(?:clip|captions|images):[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")


@dataclass(frozen=True)
class ImportSummary:
    """What an import made.

    Attributes:
        folder: the workspace.
        release_id: of the release.
        revision: commit it was fetched at; empty for a folder.
        models: repositories in the catalog.
        logits: searchable logits in the index.
        probes: probes in the probe set.
        probe_images: whether the probes have their images.
        encoder: name and commit of the encoder of the index, or None.
    """

    folder: Path
    release_id: str
    revision: str
    models: int
    logits: int
    probes: int
    probe_images: bool
    encoder: str | None


def import_release(
    where: str,
    target: str | Path,
    *,
    endpoint: str | None = None,
    token: str | None = None,
    encoder: Encoder | str | None = None,
    progress: bool = True,
) -> ImportSummary:
    """Make the workspace ``target`` and its index from the release at ``where``.

    ``target`` is a workspace only when it is whole. Interrupted, the same call goes on: files that were fetched are
    kept, and the tables are written again. The index holds the logits in the order of the index that was released, so
    that a search finds the same with the same scores.

    Args:
        where: a folder, or ``hf://datasets/OWNER/NAME[@revision]``.
        target: a new or empty folder.
        endpoint: of the Hub, for the release and the encoder, kept in the workspace; the default Hub when None.
        token: for the Hub.
        encoder: the encoder to use in place of fetching the released one; ``none`` makes an index without text queries.
        progress: show progress bars on stderr.

    Raises `WorkspaceError` when ``target`` is in use, the disk is too small, or the release is damaged or of a later
    version; `HubError` when it or the encoder cannot be fetched.
    """
    import search

    home = Path(target)
    _check_target(home)
    config = replace(Config(), endpoint=endpoint.rstrip("/")) if endpoint else Config()
    source = open_source(str(where), home / "cache" / "release", endpoint=config.endpoint, token=token)
    released = _Released.of(source)
    _check_disk(home, released)
    _claim(home, source)
    workspace = Workspace(home, _settings(config, source.content))
    for name in tqdm(released.files, desc="verify", unit="file", disable=not progress):
        source.file(name)
    models = _write_rows(workspace.catalog_dir, source, "models", records.CATALOG)
    _write_rows(workspace.attempts_dir, source, "attempts", records.ATTEMPTS)
    _write_probes(workspace, source, released)
    _write_descriptors(workspace, source, released, progress)
    sides = {side: _encoder(workspace, source, side, encoder, token) for side in ("encoder", "image_encoder")}
    made = search.index(
        workspace,
        encoder=sides["encoder"] or "none",
        image_encoder=sides["image_encoder"],
        token=token,
        progress=progress,
    )
    about = {"source": source.where, "revision": source.revision, "release_id": source.content["release_id"]}
    run = new_run_id("import")
    workspace.manifest(
        run, {"verb": "import", "started_at": now().isoformat(), "release": about, "versions": versions()}
    )
    _finish(workspace)
    return ImportSummary(
        home,
        about["release_id"],
        source.revision,
        models,
        made.logits,
        released.n_probes,
        released.images,
        made.encoder,
    )


@dataclass(frozen=True)
class _Released:
    """What the manifest of a release says, checked."""

    files: list[str]
    bytes: int
    n_probes: int
    logits: int
    probe_set: str
    images: bool

    @classmethod
    def of(cls, source: Source) -> _Released:
        content = source.content
        files = [name for table in _TABLES for name in source.files(table)]
        try:
            size = sum(content["files"][name]["bytes"] for name in files)
            n, logits = int(content["n_probes"]), int(content["rows"]["descriptors"])
            probe_set, images = str(content["probe_set"]), bool(content["probe_images"])
            str(content["release_id"])
        except (KeyError, TypeError, ValueError) as error:
            raise WorkspaceError(f"the manifest of {source.where} lacks {error}: it is no hubprobe release") from error
        if not re.fullmatch("[0-9a-f]{16}", probe_set) or n < 1 or logits < 0:
            raise WorkspaceError(f"the manifest of {source.where} is not what hubprobe writes: not used")
        if missing := [table for table in _TABLES[:4] if not source.files(table)]:
            raise WorkspaceError(f"the release {source.where} has no table {missing[0]}: it cannot be imported")
        return cls(files, size, n, logits, probe_set, images)


def _check_target(home: Path) -> None:
    if home.exists() and not home.is_dir():
        raise WorkspaceError(f"{home} is a file: name a new folder")
    if (home / MARKER).exists():
        raise WorkspaceError(f"{home} is a workspace already: import into a new folder")
    if home.is_dir() and any(p.name != "cache" for p in home.iterdir()) and not (home / NOTE).exists():
        raise WorkspaceError(f"{home} is not empty: import into a new folder")


def _claim(home: Path, source: Source) -> None:
    """Write down what the folder is filled from; raises `WorkspaceError` when that was another release."""
    mine = short_hash(canonical_json(source.content))
    if (home / NOTE).exists() and read_json(home / NOTE).get("manifest") != mine:
        raise WorkspaceError(f"{home} was being filled from another release: delete it, or name another folder")
    write_json(home / NOTE, {"source": source.where, "revision": source.revision, "manifest": mine})


def _check_disk(home: Path, released: _Released) -> None:
    """Raise `WorkspaceError` when the disk is too small for the files, the descriptors twice and the index."""
    needed = released.bytes + 5 * 2 * released.logits * released.n_probes + _SPARE
    existing = next(parent for parent in (home.absolute(), *home.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise WorkspaceError(
            f"{home} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: name another disk"
        )


def _settings(config: Config, content: dict[str, Any]) -> Config:
    """Return ``config`` with the released settings that this version knows; no path or address of a stranger's."""
    config_of = content.get("config")
    released: dict[str, Any] = config_of if isinstance(config_of, dict) else {}
    for section in ("crawl", "probes", "probe", "search"):
        stated, own, changes = released.get(section), getattr(config, section), {}
        if not isinstance(stated, dict):
            continue
        for known in fields(own):
            value, default = stated.get(known.name), getattr(own, known.name)
            if type(value) is type(default) and not (section == "search" and "encoder" in known.name):
                changes[known.name] = value
        config = replace(config, **{section: replace(own, **changes)})
    encoder = _encoder_name(content, "encoder") or config.search.encoder
    search = replace(config.search, encoder=encoder, image_encoder=_encoder_name(content, "image_encoder"))
    return replace(config, search=search)


def _encoder_name(content: dict[str, Any], side: str) -> str:
    about = content.get(side)
    name = str(about.get("name")) if isinstance(about, dict) else ""
    return name if _ENCODER.fullmatch(name) else ""


def _write_rows(folder: Path, source: Source, table: str, schema: pa.Schema) -> int:
    rows = 0
    for number, name in enumerate(source.files(table)):
        path = source.folder / name
        check_version(path)
        read = restored(pq.read_table(path), schema)
        write_table(folder / f"{IMPORTED_PREFIX}{number:05d}.parquet", read)
        rows += read.num_rows
    return rows


def _write_probes(workspace: Workspace, source: Source, released: _Released) -> None:
    parts = []
    for name in source.files("probes"):
        check_version(source.folder / name)
        part = pq.read_table(source.folder / name)
        if not released.images:
            # images that nobody handed on: `Workspace.probes` says so when they are asked for
            empty = pa.StructArray.from_arrays(
                [pa.nulls(part.num_rows, pa.binary()), pa.nulls(part.num_rows, pa.string())], ["bytes", "path"]
            )
            part = part.append_column("image", empty).append_column("caption", pa.nulls(part.num_rows, pa.string()))
        parts.append(part.select(records.PROBES.names).cast(records.PROBES))
    table = pa.concat_tables(parts).sort_by("probe_id")
    if table["probe_id"].to_pylist() != list(range(released.n_probes)):
        raise WorkspaceError(f"the release {source.where} does not hold its {released.n_probes} probes: not used")
    write_table(workspace.probes_dir(released.probe_set) / "probes.parquet", table, row_group_rows=100)
    workspace.use_probe_set(released.probe_set)


def _write_descriptors(workspace: Workspace, source: Source, released: _Released, progress: bool) -> None:
    """Write the descriptors in the order of the index they were released from."""
    schema, rows = descriptors(released.n_probes), max(1, SHARD_BYTES // (2 * released.n_probes))
    buckets = -(-max(released.logits, 1) // rows)
    folder = workspace.descriptors_dir(released.probe_set)
    folder.mkdir(parents=True, exist_ok=True)

    def read() -> Iterator[pa.Table]:
        for name in tqdm(source.files("descriptors"), desc="descriptors", unit="file", disable=not progress):
            check_version(source.folder / name)
            for batch in pq.ParquetFile(source.folder / name).iter_batches(_BATCH_ROWS):
                yield pa.Table.from_batches([batch]).cast(schema)

    def bucket_of(table: pa.Table) -> NDArray[np.int64]:
        place = table["position"].fill_null(buckets * rows - 1).to_numpy()
        found: NDArray[np.int64] = np.clip(place // rows, 0, buckets - 1)
        return found

    order = [(name, "ascending") for name in ("position", "repo_id", "sha", "logit")]
    for number, table in enumerate(in_buckets(read(), schema, buckets, bucket_of, folder)):
        ordered = table.sort_by(order).drop_columns(["position"]).cast(records.descriptors(released.n_probes))
        write_table(folder / f"{IMPORTED_PREFIX}{number:05d}.parquet", ordered)


def _encoder(
    workspace: Workspace, source: Source, side: str, given: Encoder | str | None, token: str | None
) -> Encoder | None:
    """Put the probes' released embeddings where the index looks for them; return the encoder at its released commit."""
    from search.embeddings import cache
    from search.encoders import load_encoder

    about, name = source.content.get(side), _encoder_name(source.content, side)
    if given == "none" or not name or not isinstance(about, dict):
        return None
    file, commit = f"encoders/{about.get('file')}", str(about.get("commit"))
    if file not in source.content["files"] or not re.fullmatch("[0-9a-f]{40}", commit):
        raise WorkspaceError(f"the release {source.where} does not say which {side} it was made with: --encoder none")
    key = short_hash(f"{name}\n{commit}\n{workspace.probe_set}")
    with replacing(cache(workspace) / f"{key}.safetensors") as temporary:
        shutil.copyfile(source.folder / file, temporary)
    if side == "encoder" and given is not None and not isinstance(given, str):
        return given
    try:
        return load_encoder(workspace, name, commit=commit, token=token)
    except HubError as error:
        raise HubError(f"{error}; '--encoder none' imports without text queries") from error


def _finish(workspace: Workspace) -> None:
    """Make the folder a workspace, last of all, and delete what was fetched for it."""
    with replacing(workspace.root / MARKER) as temporary:
        temporary.write_text(workspace.config.to_toml(), encoding="utf-8")
    shutil.rmtree(workspace.cache_dir / "release", ignore_errors=True)
    (workspace.root / NOTE).unlink(missing_ok=True)
