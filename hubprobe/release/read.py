"""Making a workspace and its index from a release, so that anyone can search without running a model.

Whoever made the release is a stranger: every file is compared with the manifest, every row with `rules`, the tables
with each other, and memory is bounded by a row group of the release and a file of the workspace, whatever it holds.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError
from tqdm import tqdm

from hubprobe.release import checks, tables
from hubprobe.release.checks import refusal
from hubprobe.release.source import EncoderFacts, Manifest, ReleaseSource, open_source
from hubprobe.release.tables import SHARD_BYTES, as_table, check_room, in_buckets, plain_schema, probes
from workspace import Config, DiskError, HubError, Status, Workspace, WorkspaceError, files, records
from workspace.endpoint import checked, token_for
from workspace.files import canonical_json, read_json, replacing, short_hash, write_json
from workspace.images import RefusedImageError, read_image
from workspace.layout import MARKER
from workspace.runs import new_run_id, now, versions
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.text.encoders import Encoder

NOTE = ".importing.json"
"""In a folder that is being filled: which release it is filled from. Gone when the workspace is whole."""

_TABLES = ("models", "attempts", "probes", "descriptors")  # logits say nothing that these do not
_PART_BYTES = 64 * 1024**2  # of a file of models or attempts, in memory
_ENCODER = re.compile(r"(?:clip|captions|images):[A-Za-z0-9][\w.-]*(?:/[\w.-]+)?")
_DATASET = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_CAPS = ("max_", "seconds_")  # settings of a release that bound what models may cost: kept, but not above our own
_UNIT = 1e-2  # what the length of an embedding may be off by

Model = tuple[str, str]


@dataclass(frozen=True)
class ImportSummary:
    """What an import made."""

    folder: Path  # the workspace
    release_id: str  # of the release
    revision: str  # commit it was fetched at; empty for a folder
    models: int  # repositories in the catalog
    logits: int  # searchable logits in the index
    probes: int  # probes in the probe set
    probe_images: bool  # whether the probes have their images
    encoder: str | None  # name and commit of the encoder of the index, or None


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
    config = replace(Config(), endpoint=checked(endpoint)) if endpoint else Config()
    token = token_for(config.endpoint, token, named=True) or ""
    fetched = home / "cache" / "release"
    source = open_source(str(where), fetched, endpoint=config.endpoint, token=token, progress=progress)
    manifest = source.manifest
    # the files, the descriptors twice and the index
    size = sum(manifest.files[name].bytes for name in _used(manifest))
    check_room(home, size + 5 * 2 * manifest.rows["descriptors"] * manifest.n_probes)
    config = _settings(config, source)
    _claim(home, source)
    workspace = Workspace(home, config)
    try:
        for name in tqdm(_used(manifest), desc="verify", unit="file", disable=not progress):
            source.file(name)
        outputs = _write_repositories(workspace, source)
        _write_probes(workspace, source, progress)
        _write_descriptors(workspace, source, outputs, progress)
        sides = {side: _encoder(workspace, source, side, encoder, token) for side in ("encoder", "image_encoder")}
    except DiskError:  # nothing is wrong with the release: the same command goes on
        raise
    except WorkspaceError:
        _discard(workspace)
        raise
    made = search.index(
        workspace, encoder=sides["encoder"] or "none", image_encoder=sides["image_encoder"], token=token,
        progress=progress,
    )  # fmt: skip
    release = {"source": source.where, "revision": source.revision, "release_id": manifest.release_id}
    about: dict[str, object] = {
        "verb": "import",
        "started_at": now().isoformat(),
        "release": release,
        "versions": versions(),
    }
    workspace.manifest(new_run_id("import"), about)
    with replacing(home / MARKER) as temporary:  # last of all: now the folder is a workspace
        temporary.write_text(workspace.config.to_toml(), encoding="utf-8")
    shutil.rmtree(workspace.cache_dir / "release", ignore_errors=True)
    (home / NOTE).unlink(missing_ok=True)
    return ImportSummary(
        folder=home,
        release_id=manifest.release_id,
        revision=source.revision,
        models=manifest.rows["models"],
        logits=made.logits,
        probes=manifest.n_probes,
        probe_images=manifest.probe_images,
        encoder=made.encoder,
    )


def _check_target(home: Path) -> None:
    if home.exists() and not home.is_dir():
        raise WorkspaceError(f"{home} is a file: name a new folder")
    if (home / MARKER).exists():
        raise WorkspaceError(f"{home} is a workspace already: import into a new folder")
    if home.is_dir() and any(p.name != "cache" for p in home.iterdir()) and not (home / NOTE).exists():
        raise WorkspaceError(f"{home} is not empty: import into a new folder")


def _claim(home: Path, source: ReleaseSource) -> None:
    """Write down what the folder is filled from; raises `WorkspaceError` when that was another release."""
    mine = short_hash(canonical_json(source.manifest.model_dump()))
    if (home / NOTE).exists() and read_json(home / NOTE).get("manifest") != mine:
        raise WorkspaceError(f"{home} was being filled from another release: delete it, or name another folder")
    write_json(home / NOTE, {"source": source.where, "revision": source.revision, "manifest": mine})


def _discard(workspace: Workspace) -> None:
    """Delete what was made of a release that turned out to be damaged, and what was fetched of it."""
    made = (workspace.catalog_dir, workspace.attempts_dir, workspace.index_dir, workspace.cache_dir / "release")
    for folder in (*made, workspace.root / "probes", workspace.root / "descriptors"):
        shutil.rmtree(folder, ignore_errors=True)
    (workspace.root / NOTE).unlink(missing_ok=True)
    for folder in (workspace.cache_dir, workspace.root):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _used(manifest: Manifest) -> list[str]:
    encoders = [f"encoders/{about.file}" for about in (manifest.encoder, manifest.image_encoder) if about]
    return [*(part.path for table in _TABLES for part in manifest.tables[table]), *encoders]


def _settings(config: Config, source: ReleaseSource) -> Config:
    """Return ``config`` with the released settings that this version knows.

    No path or address of a stranger's is among them, and no cap that would let later models cost more than usual.

    Raises `WorkspaceError` for a setting that no workspace may have.
    """
    import search

    released = source.manifest.config
    for section in ("crawl", "probes", "probe", "search"):
        stated, own, changes = released.get(section), getattr(config, section), {}
        if not isinstance(stated, dict):
            continue
        for known in fields(own):
            value, default = stated.get(known.name), getattr(own, known.name)
            if type(value) is type(default) and not (isinstance(value, str) and printable(value, 200) != value):
                changes[known.name] = value
        if section == "search":
            changes = {name: value for name, value in changes.items() if "encoder" not in name}
            if changes.get("scoring", "bridged") not in search.SCORINGS:
                del changes["scoring"]
        if section == "probes" and not _DATASET.fullmatch(str(changes.get("source", ""))):
            changes.pop("source", None)
        try:
            fitting = replace(own, **changes)
            lowered = {n: min(getattr(fitting, n), getattr(own, n)) for n in changes if n.startswith(_CAPS)}
            config = replace(config, **{section: replace(fitting, **lowered)})
        except ValidationError as error:
            first = error.errors()[0]
            what = f"[{section}] {printable(first['loc'][0], 40)}: {printable(first['msg'], 100)}"
            raise refusal("manifest.json", f"its settings cannot be used ({what})") from error
    encoder = _encoder_name(source.manifest.encoder) or config.search.encoder
    image_encoder = _encoder_name(source.manifest.image_encoder)
    return replace(config, search=replace(config.search, encoder=encoder, image_encoder=image_encoder))


def _encoder_name(about: EncoderFacts | None) -> str:
    return about.name if about and _ENCODER.fullmatch(about.name) else ""


def groups(
    source: ReleaseSource, table: str, schema: pa.Schema, bar: tqdm[Any] | None = None
) -> Iterator[tuple[str, int, pa.RecordBatch]]:
    """Yield a table's row groups with file and first row, their values checked, their number that of the manifest."""
    for part in source.manifest.tables[table]:
        file = checks.TableFile(source.folder / part.path, part.path, schema)
        if file.rows != part.rows:
            raise refusal(part.path, f"has {file.rows:,} rows, where the manifest counts {part.rows:,}")
        read = 0
        for first, rows in file.groups():
            checks.check_rows(part.path, first, table, rows)
            yield part.path, first, rows
            read += rows.num_rows
            if bar is not None:
                bar.update(rows.num_rows)
        if read != part.rows:
            raise refusal(part.path, f"has {read:,} rows, where the manifest counts {part.rows:,}")


def _write_repositories(workspace: Workspace, source: ReleaseSource) -> dict[Model, int]:
    """Write catalog and attempts; return the number of outputs of every model that was probed."""
    ids: set[str] = set()
    outputs: dict[Model, int] = {}

    def models() -> Iterator[pa.Table]:
        schema, rising = plain_schema(tables.models()), checks.Rising()
        for name, first, rows in groups(source, "models", schema):
            ids.update(key[0] for key in rising.check(name, first, ["repo_id"], rows))
            yield as_table(rows, records.CATALOG)

    def attempts() -> Iterator[pa.Table]:
        schema, rising = plain_schema(records.ATTEMPTS), checks.Rising()
        for name, first, rows in groups(source, "attempts", schema):
            table = as_table(rows, records.ATTEMPTS)
            keys = list(rising.check(name, first, ["repo_id", "sha"], rows))
            about = zip(keys, *(table[n].to_pylist() for n in ("outcome", "status", "num_logits")), strict=True)
            for row, (key, outcome, status, logits) in enumerate(about):
                if key[0] not in ids:
                    raise refusal(name, "its repository is not in the table models", first + row)
                if outcome != Status(status).outcome.value:
                    raise refusal(name, f"'{status}' is not the status of an attempt that ended {outcome}", first + row)
                if outcome == "ok":
                    outputs[key] = checks.MAX_LOGITS if logits is None else logits
            yield table

    _write_parts(workspace.catalog_dir, models())
    _write_parts(workspace.attempts_dir, attempts())
    return outputs


def _write_parts(folder: Path, tables: Iterator[pa.Table]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    held: list[pa.Table] = []
    number = 0
    for table in tables:
        held.append(table)
        if sum(part.nbytes for part in held) > _PART_BYTES:
            files.write_table(folder / f"{files.IMPORTED_PREFIX}{number:05d}.parquet", pa.concat_tables(held))
            held, number = [], number + 1
    if held or not number:
        files.write_table(folder / f"{files.IMPORTED_PREFIX}{number:05d}.parquet", pa.concat_tables(held))


def _write_probes(workspace: Workspace, source: ReleaseSource, progress: bool) -> None:
    manifest = source.manifest
    schema = plain_schema(probes(manifest.probe_images))
    hashes: dict[str, None] = {}  # in order
    path = workspace.probes_dir(manifest.probe_set) / "probes.parquet"
    with (
        tqdm(total=manifest.n_probes, desc="probes", unit="probe", disable=not progress) as bar,
        files.table_writer(path, records.PROBES) as writer,
    ):
        for name, first, rows in groups(source, "probes", schema, bar):
            table = as_table(rows, schema)
            for row, probe in enumerate(table.to_pylist()):
                if probe["probe_id"] != len(hashes):
                    raise refusal(name, f"is probe {probe['probe_id']:,}, where {len(hashes):,} belongs", first + row)
                if manifest.probe_images:
                    _check_image(name, first + row, probe)
                if probe["image_hash"] in hashes:
                    raise refusal(name, "is the same image as an earlier probe", first + row)
                hashes[probe["image_hash"]] = None
            if not manifest.probe_images:
                # images that nobody handed on: `Workspace.probes` says so when they are asked for
                nothing = [pa.nulls(table.num_rows, kind) for kind in (pa.binary(), pa.string())]
                table = table.append_column("image", pa.StructArray.from_arrays(nothing, ["bytes", "path"]))
                table = table.append_column("caption", pa.nulls(table.num_rows, pa.string()))
            writer.write_table(table.select(records.PROBES.names).cast(records.PROBES), row_group_size=100)
    if short_hash("".join(hashes)) != manifest.probe_set:
        raise refusal("manifest.json", "'probe_set' is not the hash of the probes")
    about = {"probe_set": manifest.probe_set, "source": printable(manifest.probe_source, 200)}
    write_json(path.with_name("manifest.json"), about | {"n": manifest.n_probes})
    workspace.use_probe_set(manifest.probe_set)


def _check_image(name: str, row: int, probe: dict[str, Any]) -> None:
    """Raise `WorkspaceError` unless a probe's image can be used, and is the one that was measured with."""
    from probing.images.pictures import image_hash

    image = probe["image"]
    if image is None or image["bytes"] is None:
        raise refusal(name, "has no image", row)
    try:
        seen = read_image(image["bytes"], f"probe {probe['probe_id']}")
    except RefusedImageError as error:
        raise refusal(name, f"its image cannot be used ({printable(error, 160)})", row) from error
    if (image_hash(seen), *seen.size) != (probe["image_hash"], probe["width"], probe["height"]):
        raise refusal(name, "its image is another than 'image_hash', 'width' and 'height' say", row)


def _write_descriptors(workspace: Workspace, source: ReleaseSource, outputs: dict[Model, int], progress: bool) -> None:
    """Write the descriptors in the order of the index they were released from; ``outputs`` of each model bound them."""
    manifest = source.manifest
    n, total = manifest.n_probes, manifest.rows["descriptors"]
    schema, rows_of_file = tables.descriptors(n), max(1, SHARD_BYTES // (2 * n))
    folder = workspace.descriptors_dir(manifest.probe_set)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rank = _ranks(source, schema)
    taken = 0

    def checked() -> Iterator[pa.Table]:
        rising, before = checks.Rising(), ("", "")
        with tqdm(total=total, desc="descriptors", unit="logit", disable=not progress) as bar:
            for name, first, rows in groups(source, "descriptors", schema, bar):
                sums = rows["logsumexp"].is_valid().to_pylist()
                for row, (*key, logit) in enumerate(rising.check(name, first, ["repo_id", "sha", "logit"], rows)):
                    if logit >= outputs.get((key[0], key[1]), 0):
                        has = "was not probed" if tuple(key) not in outputs else "has fewer outputs"
                        raise refusal(name, f"logit {logit}: the model {has}, says the table attempts", first + row)
                    if tuple(key) == before and sums[row]:
                        raise refusal(name, "'logsumexp' stands on another row than its model's first", first + row)
                    before = (key[0], key[1])
                checks.check_vectors(name, first, rows, n)
                yield as_table(rows, schema)

    def bucket_of(table: pa.Table) -> NDArray[np.int64]:
        nonlocal taken
        taken += table.num_rows
        return rank[taken - table.num_rows : taken] // rows_of_file

    order = [(name, "ascending") for name in ("position", "repo_id", "sha", "logit")]
    for number, table in enumerate(in_buckets(checked(), schema, -(-total // rows_of_file), bucket_of, folder)):
        ordered = table.sort_by(order).drop_columns(["position"]).rename_columns(records.descriptors(n).names)
        files.write_table(folder / f"{files.IMPORTED_PREFIX}{number:05d}.parquet", ordered.cast(records.descriptors(n)))


def _ranks(source: ReleaseSource, schema: pa.Schema) -> NDArray[np.int64]:
    """Return the place of every descriptor in the order of ``position``, those without one last, as they come."""
    only = pa.schema([schema.field("position")], schema.metadata)
    positions = np.empty(source.manifest.rows["descriptors"], np.int64)
    done = 0
    for _, _, rows in groups(source, "descriptors", only):
        values = rows["position"].fill_null(2**62).to_numpy()
        positions[done : done + len(values)] = values
        done += len(values)
    order = np.argsort(positions, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(order.size)
    placed = positions[order]
    twice = np.flatnonzero((placed[1:] == placed[:-1]) & (placed[1:] < 2**62))
    if twice.size:
        row = int(order[twice[0] + 1])
        for part in source.manifest.tables["descriptors"]:
            if row < part.rows:
                raise refusal(part.path, f"'position' {placed[twice[0]]} stands twice", row)
            row -= part.rows
    return rank


def _encoder(
    workspace: Workspace, source: ReleaseSource, side: str, given: Encoder | str | None, token: str | None
) -> Encoder | None:
    """Put the probes' released embeddings where the index looks for them; return the encoder at its released commit."""
    from search.text.embeddings import cache
    from search.text.encoders import load_encoder

    about: EncoderFacts | None = getattr(source.manifest, side)
    name = _encoder_name(about)
    if given == "none" or not name or about is None:
        return None
    file = f"encoders/{about.file}"
    key = short_hash(f"{name}\n{about.commit}\n{workspace.probe_set}")
    if about.file != f"{key}.safetensors":
        raise refusal("manifest.json", f"{file} is not the name of the embeddings of {printable(name)}")
    _check_embeddings(source.folder / file, file, about, source.manifest.n_probes)
    with replacing(cache(workspace) / about.file) as temporary:
        shutil.copyfile(source.folder / file, temporary)
    if side == "encoder" and given is not None and not isinstance(given, str):
        return given
    try:
        return load_encoder(workspace, name, commit=about.commit, token=token)
    except HubError as error:
        raise HubError(f"{error}; '--encoder none' imports without text queries") from error


def _check_embeddings(path: Path, name: str, about: EncoderFacts, n: int) -> None:
    """Raise `WorkspaceError` unless a file holds a finite row of unit length for every probe, float32.

    A probe without a caption is zero under an encoder of captions, and like no text.
    """
    from safetensors import SafetensorError, safe_open

    opened: Any = safe_open
    with path.open("rb") as raw:
        header = int.from_bytes(raw.read(8), "little")
    if header > 64 * 1024 or path.stat().st_size != 8 + header + 4 * n * about.dim:
        raise refusal(name, f"does not hold {n:,} rows of {about.dim:,} float32")
    try:
        with opened(path, framework="numpy") as file:
            rows = file.get_slice("probes")
            if list(file.keys()) != ["probes"] or rows.get_dtype() != "F32" or rows.get_shape() != [n, about.dim]:
                raise refusal(name, f"does not hold {n:,} rows of {about.dim:,} float32")
            for start in range(0, n, 1_000):
                part = rows[start : min(start + 1_000, n)].astype(np.float64)
                length = np.sqrt(np.square(part).sum(axis=1))
                good = np.abs(length - 1) <= _UNIT
                if about.name.startswith("captions:"):
                    good |= length == 0
                if not good.all():  # nor is NaN
                    raise refusal(name, "is not of unit length", start + int(np.argmin(good)))
    except SafetensorError as error:
        raise refusal(name, f"cannot be read ({printable(error, 120)})") from error
