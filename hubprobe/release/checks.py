"""A stranger's tables: files measured page by page before any is decoded, then every row compared with rules.

A file of a kilobyte can claim, or really unpack to, terabytes: zstd, dictionaries and run lengths all allow it, and the
sizes in the footer need not be true. So the footer is bounded, every page's own header is read here, and what the pages
of a row group unpack to is added up first. Allowed are the encodings that a release is written with, which cannot grow
by more than is added up. Nothing here changes a value: what does not fit is refused, by file and row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hubprobe.release.tables import BITS
from workspace import CrawlConfig, LabelQuality, Status, WorkspaceError
from workspace.records import SCHEMA_VERSION
from workspace.reported import SOURCES
from workspace.text import MAX_LABEL, printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_FOOTER = 16 * 1024**2
"""Bytes of a file's metadata; 200,000 repositories in groups of 1,000 need about 2 MB."""

MAX_GROUP = 256 * 1024**2
"""Bytes that a row group may unpack to, eight for each value included; ours are of 4 to 100 MB."""

_MAX_PAGE_HEADER = 64 * 1024
_MAX_ROW_GROUPS = 1_000_000
_PER_VALUE = 8  # bytes: an offset, or a number, of a value that costs the page nothing
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3  # types of pages
_ENCODINGS = {0: "PLAIN", 2: "PLAIN_DICTIONARY", 3: "RLE", 8: "RLE_DICTIONARY"}
_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, TypeError, KeyError, MemoryError)


def refusal(file: str, why: str, row: int | None = None) -> WorkspaceError:
    """Return the error that says what is wrong with a file of a release; rows count from 0."""
    where = f"{file}, row {row:,}" if row is not None else file
    return WorkspaceError(f"{where}: {why}; this release is damaged, or hubprobe did not make it: get another copy")


class TableFile:
    """One file of a released table, called ``name`` in messages, which must hold ``schema``.

    Nullable columns that are not in it are read as null, unknown ones are not read. Raises `WorkspaceError` when it is
    no Parquet file of this schema, or one that would unpack to too much.
    """

    def __init__(self, path: Path, name: str, schema: pa.Schema, *, versioned: bool = True) -> None:
        self.path, self.name, self.schema = path, name, schema
        self._check_footer()
        try:
            stored = self._open().schema_arrow
            version = (stored.metadata or {}).get(b"hubprobe.schema_version", b"?").decode("utf-8", "replace")
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if versioned and version != SCHEMA_VERSION:
            raise refusal(name, f"has schema version {printable(version, 20)}, not {SCHEMA_VERSION}")
        self._columns = self._checked_columns(stored)
        self._texts = [f.name for f in schema if pa.types.is_string(f.type) and f.name in self._columns]

    @property
    def rows(self) -> int:
        """Rows that the footer announces."""
        metadata = self._open().metadata
        return sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def groups(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each row group as the number of its first row and a batch of the schema, its texts as dictionaries.

        A text that many rows share is in memory once; `tables.as_table` makes ordinary columns of them.
        """
        first = 0
        try:
            file = self._open(read_dictionary=self._texts)
            with self.path.open("rb") as raw:
                for number in range(file.metadata.num_row_groups):
                    self._measure(raw, file.metadata.row_group(number), first)
                    table = file.read_row_group(number, columns=self._columns, use_threads=False)
                    yield first, self._complete(table, first)
                    first += table.num_rows
        except WorkspaceError:
            raise
        except _UNREADABLE as error:
            raise self._unreadable(error, first) from error

    def _open(self, **options: Any) -> pq.ParquetFile:
        bounds = {"thrift_string_size_limit": MAX_FOOTER, "thrift_container_size_limit": _MAX_ROW_GROUPS}
        return pq.ParquetFile(self.path, pre_buffer=False, **bounds, **options)

    def _unreadable(self, error: BaseException, row: int | None = None) -> WorkspaceError:
        return refusal(self.name, f"cannot be read as a table ({printable(error, 120)})", row)

    def _check_footer(self) -> None:
        size = self.path.stat().st_size
        with self.path.open("rb") as raw:
            head = raw.read(4)
            raw.seek(max(0, size - 8))
            tail = raw.read(8)
        length = int.from_bytes(tail[:4], "little")
        if size < 12 or head != b"PAR1" or tail[4:] != b"PAR1" or length > size - 12:
            raise refusal(self.name, "is no Parquet file")
        if length > MAX_FOOTER:
            raise refusal(self.name, f"has a footer of {length:,} bytes; at most {MAX_FOOTER:,} are read")

    def _checked_columns(self, stored: pa.Schema) -> list[str]:
        columns = []
        for field in self.schema:
            if stored.names.count(field.name) > 1:
                raise refusal(self.name, f"has the column '{field.name}' twice")
            if field.name in stored.names:
                kind = stored.field(field.name).type
                if kind != field.type:
                    raise refusal(
                        self.name, f"has '{field.name}' as {printable(kind)}, where {printable(field.type)} belongs"
                    )
                columns.append(field.name)
            elif not field.nullable:
                raise refusal(self.name, f"lacks the column '{field.name}'")
        return columns

    def _complete(self, table: pa.Table, first: int) -> pa.RecordBatch:
        columns = []
        expanded = 0
        table = table.unify_dictionaries()
        for field in self.schema:
            if field.name not in self._columns:
                columns.append(pa.nulls(table.num_rows, field.type))
                continue
            column = pa.concat_arrays(table[field.name].chunks) if table.num_rows else pa.array([], field.type)
            if not field.nullable and column.null_count:
                raise refusal(self.name, f"'{field.name}' is null", first + first_true(pc.is_null(column)))
            if pa.types.is_dictionary(column.type):
                expanded += pc.sum(pc.binary_length(column.dictionary).take(column.indices)).as_py() or 0
            columns.append(column)
        if expanded > MAX_GROUP:
            raise refusal(self.name, f"holds {expanded:,} bytes of text in one row group; at most {MAX_GROUP:,}", first)
        return pa.RecordBatch.from_arrays(columns, names=self.schema.names)

    def _measure(self, raw: BinaryIO, group: Any, first: int) -> None:
        """Raise `WorkspaceError` unless every page of a row group may be decoded, and all of them together."""
        end_of_data = self.path.stat().st_size - 8
        total = 0
        for number in range(group.num_columns):
            column = group.column(number)
            name, *below = column.path_in_schema.split(".")
            if name not in self._columns or (group.num_rows == 0 and column.num_values == 0):  # without pages, at 0
                continue
            start = column.data_page_offset
            if column.dictionary_page_offset is not None:
                start = min(start, column.dictionary_page_offset)
            end = start + column.total_compressed_size
            if not 4 <= start <= end <= end_of_data:
                raise refusal(self.name, f"the pages of '{name}' lie outside the file", first)
            has_texts = column.physical_type == "BYTE_ARRAY"
            for page in _pages(raw, start, end):
                if page is None or page.kind not in (_DATA, _DICTIONARY, _DATA_V2):
                    raise refusal(self.name, f"a page of '{name}' cannot be read", first)
                # one long value in a dictionary can stand in any number of rows: only `groups` reads such columns so
                repeats = page.kind == _DICTIONARY or page.encoding in (2, 8)
                if page.encoding not in _ENCODINGS or (repeats and has_texts and (below or name not in self._texts)):
                    raise refusal(self.name, f"'{name}' is in an encoding that no release is written in", first)
                total += page.size + _PER_VALUE * page.values
                if total > MAX_GROUP:
                    raise refusal(self.name, f"a row group unpacks to more than {MAX_GROUP:,} bytes", first)


def first_true(mask: pa.Array) -> int:
    """Return the place of the first True; -1 when there is none."""
    return int(pc.index(mask, True).as_py())


class _Page:
    """What a page's header says of it: its kind, encoding, bytes when unpacked, and number of values."""

    def __init__(self, fields: dict[int, Any]) -> None:
        self.kind = int(fields[1])
        self.size, self.compressed = int(fields[2]), int(fields[3])
        about = fields[{_DATA: 5, _DICTIONARY: 7, _DATA_V2: 8}.get(self.kind, 0)]
        self.values = int(about[1])
        self.encoding = int(about[4 if self.kind == _DATA_V2 else 2])
        if min(self.size, self.compressed, self.values) < 0:
            raise ValueError("negative size")


def _pages(raw: BinaryIO, start: int, end: int) -> Iterator[_Page | None]:
    """Yield the pages between two places of a file, None for one whose header cannot be read."""
    while start < end:
        raw.seek(start)
        window = raw.read(min(_MAX_PAGE_HEADER, end - start))
        try:
            fields, length = _compact_struct(window, 0, 0)
            page = _Page(fields)
        except (IndexError, KeyError, TypeError, ValueError):
            yield None
            return
        start += length + page.compressed
        yield page if start <= end else None


def _compact_struct(data: bytes, at: int, depth: int) -> tuple[dict[int, Any], int]:
    """Read a struct of Thrift's compact protocol; return its fields by number, and where it ends.

    Stricter than Arrow's own reader, so that the two cannot understand one header differently: no field twice, no
    number that would wrap around.
    """
    if depth > 4:
        raise ValueError("nested too deeply")
    fields: dict[int, Any] = {}
    number = 0
    while (head := data[at]) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at, 16)
        if number in fields or not 0 < number < 2**15:
            raise ValueError(f"field {number}")
        fields[number], at = _compact_value(data, at, head & 15, depth)
    return fields, at + 1


def _compact_value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    """Read a value; those of types that nothing here needs are None."""
    if kind in (1, 2):  # true, false
        return None, at
    if kind == 3:  # a byte
        return None, at + 1
    if kind in (4, 6):  # integers of 16 and 64 bits
        return None, _integer(data, at, 64)[1]
    if kind == 5:
        return _integer(data, at, 32)
    if kind == 7:  # a double
        return None, at + 8
    if kind == 8:  # bytes
        length, at = _varint(data, at)
        return None, at + length
    if kind == 12:
        return _compact_struct(data, at, depth + 1)
    raise ValueError(f"type {kind} is in no page header")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("longer than 64 bits")


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    if value >> bits:
        raise ValueError(f"more than {bits} bits")
    return (value >> 1) ^ -(value & 1), at


# ── rows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


MAX_TEXT = 4_096
"""Characters of a text without a rule of its own: names of files are the longest that a crawl keeps."""

MAX_LISTED_LABEL = 1_000
"""Characters of a label in the catalog: of one that an earlier crawl listed. Probed ones have `MAX_LABEL`."""

MAX_LOGITS = CrawlConfig().max_labels
"""Outputs of one model: what a crawl takes unless told otherwise."""

MAX_ITEMS = {
    **dict.fromkeys(("tags", "licenses", "base_models", "architectures"), 2_000),
    "files": 20_000, "id2label": MAX_LOGITS,
}  # fmt: skip
"""Entries of a list in one row."""

TOLERANCE = 2.0**-8
"""What the mean and the standard deviation of float16 z-scores may be off by: eight times their rounding."""


@dataclass(frozen=True)
class Rule:
    """What every value of a column must be; nulls are judged by the schema."""

    says: str  # what a value is not, when it breaks the rule: "is no commit"
    holds: Callable[[pa.Array], pa.Array]  # returns whether it holds, for every value of an array


def _text(limit: int = MAX_TEXT) -> Rule:
    return Rule(f"has more than {limit:,} characters", lambda a: pc.less_equal(pc.utf8_length(a), limit))


def _form(pattern: str, what: str) -> Rule:
    return Rule(f"is no {what}", lambda a: pc.match_substring_regex(a, f"^(?:{pattern})$"))


def _one_of(values: Collection[str], what: str) -> Rule:
    known = pa.array(sorted(values), pa.string())
    return Rule(f"is no {what} that hubprobe knows", lambda a: pc.is_in(a, value_set=known))


def _number(low: float, high: float = float(2**62)) -> Rule:
    def holds(values: pa.Array) -> pa.Array:
        number = values.cast(pa.float64(), safe=False)
        return pc.and_(pc.less_equal(low, number), pc.less_equal(number, high))  # never true of NaN

    says = f"is not from {low:g} to {high:g}" if high < 2**62 else f"is not a finite number from {low:g} up"
    return Rule(says, holds)


def _moment() -> Rule:
    ends = [pa.scalar(datetime(year, 1, 1, tzinfo=timezone.utc), pa.timestamp("us", tz="UTC")) for year in (1970, 9001)]
    return Rule("is no time", lambda a: pc.and_(pc.less_equal(ends[0], a), pc.less(a, ends[1])))


_NAME = r"[\w.-]{0,95}"
_REPO = _form(rf"(?:[A-Za-z0-9]{_NAME}/)?[A-Za-z0-9_]{_NAME}", "repository, owner/name")
_COMMIT = _form("[0-9a-f]{40}", "commit, 40 hex digits")
_HASH = _form("[0-9a-f]{16}", "hash of 16 hex digits")
_SHA256 = _form("[0-9a-f]{64}", "sha256, 64 hex digits")
_QUALITY = _one_of([q.value for q in LabelQuality], "label quality")
_PROBLEM = _one_of(["single_label_classification", "multi_label_classification", "regression"], "kind of problem")
_FINITE = _number(-3.5e38, 3.5e38)

RULES: dict[str, dict[str, Rule]] = {
    "models": {
        "repo_id": _REPO,
        "sha": _form("(?:[0-9a-f]{40})?", "commit, 40 hex digits"),
        "created_at": _moment(),
        "last_modified": _moment(),
        "crawled_at": _moment(),
        "gated": _text(100),
        "num_labels": _number(0, 2**31),
        "id2label[]": _text(MAX_LISTED_LABEL),
        "label_quality": _QUALITY,
        "problem_type": _PROBLEM,
        "image_size": _number(0, 2**31),
        "weights_ref": _form(r"refs/pr/\d{1,9}", "pull request, refs/pr/N"),
        "weights_sha": _COMMIT,
        "weights_bytes": _number(0),
        "eligibility": _one_of([s.value for s in Status if s is not Status.OK], "verdict"),
        "card_summary": _text(MAX_TEXT),
        "reported_accuracy": _number(0, 1),
        "reported_on": _text(MAX_LISTED_LABEL),
        "reported_by": _one_of(SOURCES, "source"),
    },
    "attempts": {
        "repo_id": _REPO,
        "sha": _COMMIT,
        "attempt": _number(1),
        "outcome": _one_of(["ok", "skipped", "failed"], "outcome"),
        "status": _one_of([s.value for s in Status if s is not Status.ELIGIBLE], "status"),
        "started_at": _moment(),
        **{f"seconds_{part}": _number(0, 1e9) for part in ("fetch", "load", "preprocess", "forward", "write")},
        "bytes_fetched": _number(0),
        "parameters": _number(0),
        "half_error": _number(0, 3.5e38),
        "batch_size": _number(0),
        "processor_hash": _HASH,
        "probe_set": _HASH,
        "probes_run": _number(0),
        "num_logits": _number(0, MAX_LOGITS),
        "num_excluded": _number(0, MAX_LOGITS),
        "label_quality": _QUALITY,
        "problem_type": _PROBLEM,
        "peak_memory_bytes": _number(0),
        "rank": _number(0),
        "config_hash": _HASH,
    },
    "probes": {
        "probe_id": _number(0),
        "image_hash": _SHA256,
        "width": _number(1, 2**15),
        "height": _number(1, 2**15),
    },
    "descriptors": {
        "repo_id": _REPO,
        "sha": _COMMIT,
        "logit": _number(0, MAX_LOGITS - 1),
        "label": _text(MAX_LABEL),
        "mean": _FINITE,
        "std": _number(1e-45, 3.5e38),  # an output that does not vary is excluded, and has no descriptor
        "vector[]": _number(-65_504, 65_504),
        "variance": _number(0, 3.5e38),
        "deviation[]": _number(0, 65_504),
        "logsumexp[]": _FINITE,
        "position": _number(0, 2**40),
    },
}
"""Rules by table and column; ``[]`` stands for the entries of a list, a dot for a part of a struct."""

NEVER_NULL = re.compile(
    r"(?:vector|deviation|logsumexp)\[\]|.*\[\]\.key|(?:versions|files|safetensors\.parameters)\[\]"
)
"""Parts of columns that may not be null, beyond what the schema says of whole columns."""


def check_rows(file: str, first: int, table: str, rows: pa.RecordBatch) -> None:
    """Check every value of a row group, whose first row is number ``first`` of ``file``, against `RULES` of ``table``.

    Raises `WorkspaceError` that names file and row.
    """
    rules = RULES[table]
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for path, values, parents in _parts(name, column, None):
            bad, says = _broken(path, values, rules.get(path))
            at = first_true(bad)
            if at >= 0:
                row = at if parents is None else int(parents[at])
                raise refusal(file, f"'{path}' {says}", first + row)


def _parts(path: str, values: pa.Array, rows: NDArray[Any] | None) -> Iterator[tuple[str, pa.Array, Any]]:
    """Yield a column and everything nested in it, each with the row that every value belongs to."""
    yield path, values, rows
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        within = pc.list_parent_indices(values).to_numpy()
        yield from _parts(f"{path}[]", values.flatten(), within if rows is None else rows[within])
    elif pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from _parts(f"{path}.{field.name}", pc.struct_field(values, [number]), rows)


def _broken(path: str, values: pa.Array, rule: Rule | None) -> tuple[pa.Array, str]:
    """Return which values break a rule, and what to say of them."""
    kind = values.type
    if NEVER_NULL.fullmatch(path) and values.null_count:
        return pc.is_null(values), "is null"
    if pa.types.is_list(kind):
        limit = MAX_ITEMS.get(path, 2**31 if path in ("deviation", "logsumexp") else MAX_TEXT)
        return pc.fill_null(pc.greater(pc.list_value_length(values), limit), False), f"has more than {limit:,} entries"
    distinct = values.dictionary if pa.types.is_dictionary(kind) else values
    if pa.types.is_string(distinct.type):
        unreadable = _not_utf8(distinct)
        if unreadable is not None:
            return _spread(unreadable, values), "is not UTF-8 text"
        rule = rule or _text()
    if rule is None:
        return pa.array([], pa.bool_()), ""
    return _spread(pc.invert(rule.holds(distinct)), values), rule.says


def _spread(mask: pa.Array, values: pa.Array) -> pa.Array:
    """Return a mask of the distinct values as one of all values, False for nulls."""
    dictionary = pa.types.is_dictionary(values.type)
    return pc.fill_null(mask.take(values.indices) if dictionary else pc.and_(mask, values.is_valid()), False)


def _not_utf8(values: pa.Array) -> pa.Array | None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array(
            [
                value is not None and value.decode("utf-8", "ignore").encode() != value
                for value in values.cast(pa.binary()).to_pylist()
            ]
        )
    return None


class Rising:
    """Keys that must rise from row to row and from file to file: sorted as a release is, and none of them twice."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] | None = None

    def check(self, file: str, first: int, names: Sequence[str], rows: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
        """Yield the key of every row of a group; raises `WorkspaceError` at one that is not above that before it."""
        for row, key in enumerate(zip(*(rows[name].to_pylist() for name in names), strict=True)):
            if self._last is not None and key <= self._last:
                what = "the same key twice" if key == self._last else "rows out of order"
                raise refusal(file, f"{what} ({', '.join(names)})", first + row)
            self._last = key
            yield key


def check_vectors(file: str, first: int, rows: pa.RecordBatch, n: int) -> None:
    """Check descriptors over ``n`` probes against their definition: z-scores over the probes that were run.

    The rows were checked by `check_rows`. A fully probed logit has mean 0 and standard deviation 1. Of a partially
    probed one that holds for the probes drawn at random, which are at least a tenth of all and not named in the table,
    so only what follows from it is asked: the smallest tenth of the responses has a mean square of at most 1, and all
    together one that a tenth alone gives. A model's log-sum-exp is one number for each probe run, none of them below
    what the same row answers there.

    Raises `WorkspaceError` that names file and row.
    """
    values = rows["vector"].flatten().to_numpy().reshape(-1, n).astype(np.float32)
    full = rows[BITS].is_null().to_numpy(zero_copy_only=False)
    off = np.abs(values.mean(axis=1)) > TOLERANCE
    off |= np.abs(values.std(axis=1) - 1) > TOLERANCE
    if (off & full).any():
        row = int(np.argmax(off & full))
        what = (
            "is zero"
            if not values[row].any()
            else (f"has mean {values[row].mean():.3g} and standard deviation {values[row].std():.3g}, not 0 and 1")
        )
        raise refusal(file, f"'vector' {what}", first + row)
    extras = zip(*(rows[name].to_pylist() for name in (BITS, "deviation", "variance", "logsumexp")), strict=True)
    for row, (observed, deviation, variance, normaliser) in enumerate(extras):
        why = ""
        if deviation is not None and (full[row] or len(deviation) != n):
            why = "'deviation' is not one number for each probe of a partially probed model"
        elif full[row]:
            why = "'variance' is not 0 where all probes were run" if variance else ""
        else:
            why = _partly(values[row], observed)
        if not why and normaliser is not None:
            mean, std = (rows[name][row].as_py() for name in ("mean", "std"))
            why = _below(values[row] * std + mean, std, observed, np.asarray(normaliser))
        if why:
            raise refusal(file, why, first + row)


def _below(raw: NDArray[np.float32], std: float, observed: bytes | None, normaliser: NDArray[Any]) -> str:
    if observed is not None:
        raw = raw[np.unpackbits(np.frombuffer(observed, np.uint8))[: raw.size].astype(bool)]
    if normaliser.size != raw.size:
        return "'logsumexp' is not one number for each probe that was run"
    slack = TOLERANCE * (std + np.abs(raw).max(initial=0))
    return "'logsumexp' is below an output that it sums over" if (normaliser < raw - slack).any() else ""


def _partly(values: NDArray[np.float32], observed: bytes) -> str:
    n = values.size
    bits = np.unpackbits(np.frombuffer(observed, np.uint8))
    if bits.size != -(-n // 8) * 8 or bits[n:].any() or not int(bits.sum()) >= 2:
        return f"'{BITS}' is not one bit for each probe"
    squares = np.sort(np.square(values[bits[:n].astype(bool)]))
    tenth = max(1, squares.size // 10)
    if squares[:tenth].mean() > 1 + TOLERANCE or squares.mean() < 0.05:
        return f"'vector' has a mean square of {squares.mean():.3g} over the probes run, which no z-scores have"
    return ""
