"""Forged releases: a genuine one, changed and sealed again, so that every hash and count of its manifest is true."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hubprobe.release import source


def file_of(folder: Path, table: str) -> Path:
    """Return the first file of a table."""
    return sorted((folder / table).iterdir())[0]


def seal(folder: Path) -> None:
    """Make the manifest true again: hashes and sizes of all files, the id they give, rows of all tables."""

    def edit(content: dict) -> None:
        content["files"] = source.file_hashes(folder)
        content["release_id"] = source.release_id(content["files"])
        for table, parts in content["tables"].items():
            for part in parts:
                part["rows"] = pq.read_metadata(folder / part["path"]).num_rows
            content["rows"][table] = sum(part["rows"] for part in parts)

    change_manifest(folder, edit)


def seal_bytes(folder: Path, name: str, facts: dict) -> None:
    """Make the manifest true of one file that need be no table."""

    def edit(content: dict) -> None:
        content["files"][name] = facts
        content["release_id"] = source.release_id(content["files"])

    change_manifest(folder, edit)


def change_manifest(folder: Path, edit: Callable[[dict], None]) -> None:
    """Edit the manifest in place, and nothing else."""
    path = folder / source.FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_table(folder: Path, table: str, edit: Callable[[pa.Table], pa.Table], **writing) -> None:
    """Rewrite a table as ``edit`` returns it, with options of `pyarrow.parquet.write_table`."""
    path = file_of(folder, table)
    pq.write_table(edit(pq.read_table(path)), path, **{"compression": "zstd", "use_dictionary": False, **writing})
    seal(folder)


def put(folder: Path, table: str, column: str, value, row: int = 2) -> None:
    """Write a value into a column; without regard to what the schema allows."""

    def edit(rows: pa.Table) -> pa.Table:
        field = rows.schema.field(column)
        values = rows[column].to_pylist()
        values[row] = value
        return rows.set_column(rows.column_names.index(column), field.with_nullable(True), pa.array(values, field.type))

    change_table(folder, table, edit)


def put_bytes(folder: Path, table: str, column: str, value: bytes, row: int = 2) -> None:
    """Write bytes that need be no UTF-8 into a column of text."""

    def edit(rows: pa.Table) -> pa.Table:
        values = [None if text is None else text.encode() for text in rows[column].to_pylist()]
        values[row] = value
        offsets = np.concatenate([[0], np.cumsum([len(v or b"") for v in values])]).astype(np.int32)
        data = b"".join(v or b"" for v in values)
        texts = pa.StringArray.from_buffers(len(values), pa.py_buffer(offsets), pa.py_buffer(data))
        return rows.set_column(rows.column_names.index(column), rows.schema.field(column), texts)

    change_table(folder, table, edit)


def retype(folder: Path, table: str, column: str, kind: pa.DataType) -> None:
    """Give a column another type, all its values null."""

    def edit(rows: pa.Table) -> pa.Table:
        values = pa.nulls(rows.num_rows, kind)
        return rows.set_column(rows.column_names.index(column), pa.field(column, kind), values)

    change_table(folder, table, edit)


def scale(folder: Path, factor: float, row: int = 2, **changes) -> None:
    """Multiply a descriptor, and change other columns of its row."""

    def edit(rows: pa.Table) -> pa.Table:
        values = rows.to_pylist()
        values[row] |= {
            "vector": (np.asarray(values[row]["vector"], np.float32) * factor).astype(np.float16),
            **changes,
        }
        return pa.Table.from_pylist(values, schema=rows.schema)

    change_table(folder, "descriptors", edit)
