"""Parquet files from a stranger: measured page by page before any of it is decoded, then read a row group at a time.

A file of a kilobyte can claim, or really unpack to, terabytes: zstd, dictionaries and run lengths all allow it, and the
sizes in the footer need not be true. So the footer is bounded, every page's own header is read here, and what the pages
of a row group unpack to is added up first. Allowed are the encodings that a release is written with, which cannot grow
by more than is added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workspace import WorkspaceError
from workspace.records import SCHEMA_VERSION
from workspace.text import printable

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
    """One file of a released table.

    Args:
        path: of the file.
        name: within the release, for messages.
        schema: what it must hold; nullable columns that are not in it are read as null, unknown ones are not read.

    Raises `WorkspaceError` when it is no Parquet file of this schema, or one that would unpack to too much.
    """

    def __init__(self, path: Path, name: str, schema: pa.Schema) -> None:
        self.path, self.name, self.schema = path, name, schema
        self._check_footer()
        try:
            found = self._open().schema_arrow
            version = (found.metadata or {}).get(b"hubprobe.schema_version", b"?").decode("utf-8", "replace")
        except _UNREADABLE as error:
            raise self._unreadable(error) from error
        if version != SCHEMA_VERSION:
            raise refusal(name, f"has schema version {printable(version, 20)}, not {SCHEMA_VERSION}")
        self._columns = self._checked_columns(found)
        self._texts = [f.name for f in schema if pa.types.is_string(f.type) and f.name in self._columns]

    @property
    def rows(self) -> int:
        """Rows that the footer announces."""
        metadata = self._open().metadata
        return sum(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))

    def groups(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield each row group as the number of its first row and a batch of the schema, its texts as dictionaries.

        A text that many rows share is in memory once; `as_table` makes ordinary columns of them.
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

    def _checked_columns(self, found: pa.Schema) -> list[str]:
        columns = []
        for field in self.schema:
            if found.names.count(field.name) > 1:
                raise refusal(self.name, f"has the column '{field.name}' twice")
            if field.name in found.names:
                kind = found.field(field.name).type
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
            if name not in self._columns:
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


def as_table(rows: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """Return a batch of `TableFile.groups` as a table of its schema: dictionaries become ordinary columns."""
    return pa.Table.from_arrays([column.cast(f.type) for column, f in zip(rows, schema, strict=True)], schema=schema)


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
