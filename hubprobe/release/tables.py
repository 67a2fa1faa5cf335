"""The tables of a release: their schemas, their order, how their files are written, and maps without map columns."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from tqdm import tqdm

from search.store import sources
from search.store.tables import read_logits, read_models, snake_case
from workspace import WorkspaceError, records
from workspace.files import conformed, open_table, read_file, table_files

NAMES = ("models", "logits", "attempts", "descriptors", "probes")
"""The configurations of the dataset, one a table."""

SHARD_BYTES = 384 * 1024**2
"""Size of a file's vectors or images, in bytes before compression: files of 300 to 400 MB, and memory for two."""

_SHARD_ROWS = {"models": 200_000, "logits": 5_000_000, "attempts": 500_000}
_GROUP_ROWS = {"models": 1_000, "logits": 10_000, "attempts": 1_000, "probes": 100}
_GROUP_BYTES = 4 * 1024**2  # of a row group of descriptors
_MAX_GROUP_BYTES = 64 * 1024**2  # of any row group, in memory: an import reads one at a time
_KEY = ["repo_id", "sha", "logit"]
_SPARE = 256 * 1024**2  # bytes of disk that stay free
Model = tuple[str, str]

POSITION = pa.field(
    "position",
    pa.int64(),
    metadata={"doc": "place in the index that was released; in this order an index answers as that one does"},
)

LOGITS = pa.schema(
    [
        *(records.RESPONSES.field(name) for name in (*_KEY, "label", "mean", "std", "excluded")),
        pa.field("observed", pa.float32(), metadata={"doc": "share of the probes that were run, 0 to 1"}),
        records.descriptors(1).field("variance").with_nullable(True),
    ],
    metadata={"hubprobe.table": "logits", "hubprobe.schema_version": records.SCHEMA_VERSION},
)
"""One row per output of every released model: those with a descriptor, and those excluded from search."""


BITS = "observed_bits"
"""Which probes were run; ``observed`` is the share of them, in this table as everywhere."""


def models() -> pa.Schema:
    """Return the released schema of the models: the catalog's, under the names that SQL has for its columns."""
    fields = [field.with_name(snake_case(field.name)) for field in records.CATALOG]
    return pa.schema(fields, {**records.CATALOG.metadata, b"hubprobe.table": b"models"})


def descriptors(n: int) -> pa.Schema:
    """Return the released schema of descriptors: `records.descriptors` and ``position``."""
    own = records.descriptors(n)
    fields = [field.with_name(BITS) if field.name == "observed" else field for field in own]
    return pa.schema([*fields, POSITION], own.metadata)


def schemas(n: int, images: bool) -> dict[str, pa.Schema]:
    """Return the schema of every released table, for ``n`` probes, with their images or without."""
    made = (models(), LOGITS, records.ATTEMPTS, descriptors(n), probes(images))
    return {name: plain_schema(schema) for name, schema in zip(NAMES, made, strict=True)}


def probes(images: bool) -> pa.Schema:
    """Return the released schema of the probes: with images and captions, or hashes and sizes alone."""
    left_out = set() if images else {"image", "caption"}
    schema = pa.schema([field for field in records.PROBES if field.name not in left_out], records.PROBES.metadata)
    if not images:
        return schema
    # what `datasets` and the Hub's viewer read, so that the bytes are shown as pictures
    kinds = {field.name: {"dtype": str(field.type), "_type": "Value"} for field in schema}
    about = {"info": {"features": kinds | {"image": {"_type": "Image"}}}}
    at = schema.get_field_index("image")
    schema = schema.set(at, schema.field(at).with_nullable(True))  # `datasets` takes no other field for an image
    return schema.with_metadata({**schema.metadata, "huggingface": json.dumps(about, sort_keys=True)})


def check_room(folder: Path, needed: int) -> None:
    """Raise `WorkspaceError` when the disk that ``folder`` will lie on has no room for ``needed`` bytes and some."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    needed, free = needed + _SPARE, shutil.disk_usage(existing).free
    if free < needed:
        raise WorkspaceError(
            f"{folder} needs about {needed / 1e9:.1f} GB, {free / 1e9:.1f} GB are free: name another disk"
        )


@dataclass(frozen=True)
class Written:
    """A file of a table: its path within the release, and its rows."""

    path: str
    rows: int


def write(folder: Path, name: str, parts: Iterator[pa.Table], count: int, *, group: int | None = None) -> list[Written]:
    """Write each of ``count`` tables as a file of ``<folder>/<name>/``; bytes depend on nothing but the rows.

    Row groups are small and have a page index, so that a reader fetches little; pages end where the content says
    (content-defined chunking), so that a next release shares most bytes with this one on the Hub.
    """
    (folder / name).mkdir(parents=True)
    written = []
    for number, table in enumerate(parts):
        most = _MAX_GROUP_BYTES * table.num_rows // max(1, table.nbytes)
        path = f"{name}/train-{number:05d}-of-{count:05d}.parquet"
        pq.write_table(
            table.combine_chunks(),
            folder / path,
            row_group_size=group or max(1, min(_GROUP_ROWS[name], most)),
            compression="zstd",
            compression_level=3,
            use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
            write_page_index=True,
            use_content_defined_chunking=True,
        )
        written.append(Written(path, table.num_rows))
    return written


def write_whole(folder: Path, name: str, table: pa.Table) -> list[Written]:
    """Write a table that is in memory, cut into files of a bounded number of rows."""
    rows = _SHARD_ROWS.get(name) or max(1, SHARD_BYTES // max(1, int(table.nbytes) // max(1, int(table.num_rows))))
    starts = range(0, max(table.num_rows, 1), rows)
    return write(folder, name, (table.slice(start, rows) for start in starts), len(starts))


def write_descriptors(
    files: list[Path], n: int, index: Path, folder: Path, kept: frozenset[str], *, progress: bool = True
) -> list[Written]:
    """Stream the descriptors of the repositories ``kept``, by repository, commit and logit, into files.

    ``files`` hold them, over ``n`` probes; ``index`` is the folder of the version whose order ``position`` keeps.
    """
    schema = records.descriptors(n)
    bucket_of, count = _buckets(files, kept, rows=max(1, SHARD_BYTES // (2 * n)))
    position_of = _positions(index, kept)

    def read() -> Iterator[pa.Table]:
        for path in tqdm(files, desc="descriptors", unit="file", disable=not progress):
            with open_table(path) as file:
                there = [name for name in schema.names if name in file.schema_arrow.names]
                for batch in file.iter_batches(sources.BATCH_ROWS, columns=there):
                    yield conformed(path, pa.Table.from_batches([batch]), schema)

    def parts() -> Iterator[pa.Table]:
        for table in in_buckets(read(), schema, count, bucket_of, folder):
            ordered = without_repeats(table.sort_by([(name, "ascending") for name in _KEY]), _KEY)
            placed = ordered.append_column(POSITION, position_of(ordered))
            yield placed.rename_columns(descriptors(n).names).cast(descriptors(n))

    return write(folder, "descriptors", parts(), count, group=max(64, _GROUP_BYTES // (2 * n)))


def _buckets(files: list[Path], kept: frozenset[str], rows: int) -> tuple[Callable[[pa.Table], NDArray[np.int64]], int]:
    """Return what puts whole models of the repositories ``kept`` into buckets of about ``rows`` logits."""
    counts: dict[Model, int] = {}
    for path in files:
        for row in read_file(path, columns=_KEY[:2]).group_by(_KEY[:2]).aggregate([([], "count_all")]).to_pylist():
            if row["repo_id"] in kept:
                key = (row["repo_id"], row["sha"])
                counts[key] = counts.get(key, 0) + row["count_all"]
    bucket, filled, of = 0, 0, dict[Model, int]()
    for key in sorted(counts):
        if filled and filled + counts[key] > rows:
            bucket, filled = bucket + 1, 0
        of[key] = bucket
        filled += counts[key]

    def bucket_of(table: pa.Table) -> NDArray[np.int64]:
        buckets = np.empty(table.num_rows, np.int64)
        for key, start, stop in sources.runs(table):
            buckets[start:stop] = of.get(key, -1)
        return buckets

    return bucket_of, bucket + 1


def _positions(index: Path, kept: frozenset[str]) -> Callable[[pa.Table], pa.Array]:
    """Return what says of every logit where the index holds it, counting only the repositories ``kept``."""
    models, logits = read_models(index), read_logits(index)
    repos, shas = models["repo_id"].to_pylist(), models["sha"].to_pylist()
    ordinal = {key: i for i, key in enumerate(zip(repos, shas, strict=True))}
    model_of = logits["model"].to_numpy().astype(np.int64)
    counted = np.array([repo in kept for repo in repos], bool)[model_of]
    place = np.cumsum(counted) - 1
    code = (model_of << 32) | logits["logit"].to_numpy()
    order = np.argsort(code, kind="stable")
    code, place = code[order], place[order]

    def position_of(table: pa.Table) -> pa.Array:
        asked = np.full(table.num_rows, -1, np.int64)
        for key, start, stop in sources.runs(table):
            asked[start:stop] = ordinal.get(key, -1)
        wanted = np.where(asked < 0, -1, (asked << 32) | table["logit"].to_numpy())
        at = np.minimum(np.searchsorted(code, wanted), max(code.size - 1, 0))
        there = code[at] == wanted if code.size else np.zeros(wanted.size, bool)
        return pa.array(place[at] if code.size else wanted, pa.int64(), mask=~there)

    return position_of


def logits(files: list[Path], n: int, responses: Path, kept: frozenset[str]) -> pa.Table:
    """Return the table `LOGITS` of the repositories ``kept``, by key: some hundred bytes a row, all in memory.

    ``files`` hold the descriptors, over ``n`` probes; the folder ``responses`` has what was excluded from search.
    """
    names = [*_KEY, "label", "mean", "std", "variance", "observed"]
    parts = [LOGITS.empty_table()]
    for path in files:
        table = _of(read_file(path, columns=names), kept)
        table = table.set_column(names.index("observed"), "observed", pa.array(sources.observed_share(table, n)))
        table = table.append_column("excluded", pa.nulls(table.num_rows, pa.string()))
        parts.append(table.select(LOGITS.names).cast(LOGITS))
    names = [*_KEY, "label", "mean", "std", "excluded"]
    for path in table_files(responses):
        table = read_file(path, columns=names)
        table = _of(table.filter(pc.is_valid(table["excluded"])), kept)
        for name in ("observed", "variance"):
            table = table.append_column(name, pa.nulls(table.num_rows, pa.float32()))
        parts.append(table.select(LOGITS.names).cast(LOGITS))
    # a searchable row comes before an excluded one of the same key, which only an older response can be
    order = [(name, "ascending") for name in _KEY]
    return without_repeats(pa.concat_tables(parts).sort_by(order), _KEY)


def _of(table: pa.Table, kept: frozenset[str]) -> pa.Table:
    return table.filter(pc.is_in(table["repo_id"], value_set=pa.array(sorted(kept), pa.string())))


# ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def in_buckets(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    buckets: int,
    bucket_of: Callable[[pa.Table], NDArray[Any]],
    scratch: Path,
) -> Iterator[pa.Table]:
    """Yield the rows of ``tables``, of ``schema``, as one table a bucket, in order; within one they keep their order.

    ``bucket_of`` returns the bucket of every row, int ``[rows]``; a negative one leaves the row out. Each bucket must
    fit into memory twice. ``scratch`` is a folder with room for all rows, uncompressed; not touched when there is one
    bucket.
    """
    if buckets <= 1:
        parts = [table.filter(pa.array(bucket_of(table) >= 0)) for table in tables]
        yield pa.concat_tables([schema.empty_table(), *parts])
        return
    with TemporaryDirectory(prefix=".tmp-sort-", dir=scratch) as folder:
        paths = [Path(folder) / f"{number:05d}.arrow" for number in range(buckets)]
        with ExitStack() as stack:
            writers = [stack.enter_context(pa.OSFile(str(path), "wb")) for path in paths]
            streams = [stack.enter_context(pa.ipc.new_stream(file, schema)) for file in writers]
            for table in tables:
                places = bucket_of(table)
                for number in np.unique(places[places >= 0]).tolist():
                    streams[number].write_table(table.filter(pa.array(places == number)).combine_chunks())
        for path in paths:
            with pa.memory_map(str(path)) as file:
                yield pa.ipc.open_stream(file).read_all()
            path.unlink()


def without_repeats(table: pa.Table, key: list[str]) -> pa.Table:
    """Return ``table``, sorted by ``key``, without rows whose key is that of the row before."""
    if table.num_rows < 2:
        return table
    new = np.zeros(table.num_rows, bool)
    new[0] = True
    for name in key:
        codes = table[name].combine_chunks().dictionary_encode().indices.to_numpy()
        new[1:] |= codes[1:] != codes[:-1]
    return table if new.all() else table.filter(pa.array(new))


# ── maps, which `datasets` and the Hub's viewer do not know, as lists of key and value; and back ────────────────────


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return ``kind`` with every map in it as a list of ``{key, value}``."""
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", kind.key_type), ("value", plain_type(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(part.name, plain_type(part.type), part.nullable) for part in kind])
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return ``schema`` without maps; field and schema metadata stay."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema], schema.metadata)


def as_table(rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return a batch of ``plain_schema(schema)``, its texts as dictionaries or not, as a table of ``schema``."""
    columns = [
        _with_maps(column.cast(plain_type(field.type)), field.type)
        for column, field in zip(rows.columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _with_maps(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.type == kind:
        return values
    if pa.types.is_map(kind):
        lengths = pc.list_value_length(values).fill_null(0).to_numpy()
        ends = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
        null = np.append(values.is_null().to_numpy(zero_copy_only=False), False)
        entries = values.flatten()
        keys, items = (entries.field(name) for name in ("key", "value"))
        return pa.MapArray.from_arrays(pa.array(ends, mask=null), keys, _with_maps(items, kind.item_type))
    parts = [_with_maps(pc.struct_field(values, [i]), part.type) for i, part in enumerate(kind)]  # of a struct
    return pa.StructArray.from_arrays(parts, fields=list(kind), mask=values.is_null())
