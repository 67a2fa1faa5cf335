"""Writing files so that a kill at any moment leaves either the old file or the new one, and reading tables back."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from workspace.errors import WorkspaceError
from workspace.records import SCHEMA_VERSION

IMPORTED_PREFIX = "imported-"
"""Descriptor files of a release start so: no responses stand behind them, and completing leaves them alone."""

TEMPORARY_PREFIX = ".tmp-"
"""Unfinished files start so; readers ignore them, and a verb may delete those of dead processes."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` on success, delete it on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def short_hash(value: str | bytes) -> str:
    """Return the first 16 hex digits of the sha256 of ``value``."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()[:16]


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file of ours; a `WorkspaceError` names the file when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise WorkspaceError(f"{path} is not valid JSON ({error}); delete it and run the verb again") from error


def write_table(path: Path, table: pa.Table, *, row_group_rows: int = 1024) -> None:
    """Write a Parquet file atomically: PLAIN + zstd, page index, small row groups (readable by DuckDB and the Hub)."""
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=3,
            use_dictionary=[f.name for f in table.schema if pa.types.is_string(f.type)],
            write_page_index=True,
            row_group_size=row_group_rows,
        )


def table_files(folder: Path) -> list[Path]:
    """Return the finished Parquet files directly in ``folder``, sorted by name; empty when there is no folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))


def read_table(
    folder: Path,
    schema: pa.Schema,
    *,
    columns: list[str] | None = None,
    filter: Any = None,  # noqa: A002 - pyarrow's name
) -> pa.Table:
    """Read all Parquet files of ``folder`` as one table; an empty table of ``schema`` when there are none.

    Raises `WorkspaceError` when a file is unreadable or was written by another schema version.
    """
    files = table_files(folder)
    if not files:
        fields = schema if columns is None else pa.schema([schema.field(c) for c in columns], schema.metadata)
        return fields.empty_table()
    check_version(files[0])
    try:
        dataset = ds.dataset([str(f) for f in files], schema=schema, format="parquet")
        return dataset.to_table(columns=columns, filter=filter)
    except (pa.ArrowInvalid, OSError) as error:
        raise WorkspaceError(
            f"cannot read {folder}: {error}; delete the damaged file and run its verb again"
        ) from error


def check_version(path: Path) -> None:
    """Raise `WorkspaceError` unless ``path`` is a table of this schema version."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowInvalid, OSError) as error:
        raise WorkspaceError(f"cannot read {path}: {error}; delete it and run its verb again") from error
    version = metadata.get(b"hubprobe.schema_version", b"?").decode()
    if version != SCHEMA_VERSION:
        raise WorkspaceError(
            f"{path} has schema version {version}, this hubprobe reads {SCHEMA_VERSION}: "
            "use the version that wrote it, or start a new workspace"
        )
