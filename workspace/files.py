"""The files of a workspace: written whole or not at all, with checksums, and read back by one reader of each kind.

JSON is read by `read_json`, Parquet by `read_file`, `read_table`, `batches` and `open_table`, tensors by
`read_tensors`. Each of them takes regular files only, verifies the checksums of what it reads, and raises a
`WorkspaceError` that names the file and the verb that mends it. What the system refuses is a `DiskError`.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from workspace.errors import DamagedFileError, DiskError, WorkspaceError
from workspace.records import SCHEMA_VERSION

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMPORTED_PREFIX = "imported-"
"""Descriptor files of a release start so: no responses stand behind them, and completing leaves them alone."""

TEMPORARY_PREFIX = ".tmp-"
"""Unfinished files start so; readers ignore them, and a verb may delete those of dead processes."""

DAMAGED_SUFFIX = ".damaged"
"""Damaged files are set aside under this ending: readers ignore them, nothing deletes them."""

MAX_JSON_BYTES = 256 * 1024**2
"""Size of a JSON file of ours that is read: an index of 100,000 files of descriptors has a manifest of 30 MB."""

WRITER: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_index": True,
    "write_page_checksum": True,
}
"""Options of every Parquet file: PLAIN + zstd, a page index (for DuckDB and the Hub), a CRC32 in every page."""

T = TypeVar("T")
_COLUMNS = "hubprobe.columns"  # hash of the column names: a footer has no checksum of its own
_SUM = "sha256"  # of a safetensors file's tensors and the rest of its metadata
_REMEDIES = {
    "catalog": "move it away and run 'hubprobe crawl': what it held is listed again",
    "probes": "run 'hubprobe probes build' again",
    "attempts": "run 'hubprobe probe': it sets the file aside and runs its models again",
    "responses": "run 'hubprobe complete', which sets it aside, then 'hubprobe probe', which runs its models again",
    "descriptors": "run 'hubprobe complete': it writes the file again",
    "factors": "run 'hubprobe complete --refit'",
    "encoders": "run 'hubprobe index': it makes the file again",
    "index": "run 'hubprobe index --rebuild'",
    "cache": "delete it: it is fetched or made again",
    "runs": "move it away: it is the record of a run that is over",
}


_FULL = "free space there, or move the workspace to a larger disk, and run the verb again"
_REFUSALS = {
    errno.ENOSPC: ("the disk is full", _FULL),
    errno.EDQUOT: ("your disk quota is used up", _FULL),
    errno.EFBIG: ("files may not grow so large here", "raise the limit (ulimit -f) and run the verb again"),
    errno.EROFS: ("the file system is read-only", "copy the workspace to one that can be written to"),
    errno.EACCES: ("permission denied", "give yourself the right to it, or copy the workspace"),
    errno.EPERM: ("the operation is not permitted", "give yourself the right to it, or copy the workspace"),
    errno.EIO: ("the disk reports an error", "check the disk, and copy the workspace while it can be read"),
    errno.EMFILE: ("too many files are open", "raise the limit (ulimit -n) and run the verb again"),
    errno.ENFILE: ("too many files are open on this machine", "close some and run the verb again"),
    errno.ENOMEM: ("there is not enough memory", "free some and run the verb again"),
    errno.ESTALE: ("the network file system lost it", "mount it again and run the verb again"),
}
"""Refusals of the system that say nothing about what a file holds, and what to do about each."""

_WORDS = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "read-only file system": errno.EROFS,
    "attempt to write a readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "disk i/o error": errno.EIO,
}
"""How libraries that keep no error number say that they could not write."""


def remedy(path: Path) -> str:
    """Return what to do about a damaged file, by the folder of the workspace that it lies in."""
    return next((_REMEDIES[part] for part in reversed(path.parts[:-1]) if part in _REMEDIES), "fetch or make it again")


def damaged(path: Path, why: object) -> DamagedFileError:
    """Return the error to raise for a file that does not hold what was written to it."""
    return DamagedFileError(path, why, remedy(path))


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that no reader meets it; return its new path. Nothing is lost, nothing overwritten."""
    kept = path.with_name(path.name + DAMAGED_SUFFIX)
    while kept.exists():
        kept = path.with_name(f"{path.name}-{uuid.uuid4().hex[:8]}{DAMAGED_SUFFIX}")
    with using(path, "write"):
        path.rename(kept)
    return kept


# ── what a disk refuses ──────────────────────────────────────────────────────────────────────────────────────────────
def refusal(error: BaseException) -> tuple[int, str | None] | None:
    """Return error number and file when ``error``, or what caused it, is a refusal of the system; None when it is not.

    Libraries written in Rust, and SQLite, keep the number only in their message.
    """
    at: BaseException | None = error
    for _ in range(20):  # causes may go round in circles
        if at is None:
            break
        number = at.errno if isinstance(at, OSError) else None
        if number is None and isinstance(at, PermissionError):
            number = errno.EACCES
        if number is None:
            text = str(at).lower()
            number = next((code for words, code in _WORDS.items() if words in text), None)
        if number in _REFUSALS:
            named = at.filename if isinstance(at, OSError) else None
            return number, named if isinstance(named, str) else None
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)
    return None


def disk_error(path: Path, error: BaseException, doing: str) -> DiskError | None:
    """Return the error to raise when the system refused ``doing`` (``"read"``, ``"write"``) to ``path``, else None."""
    found = refusal(error)
    if found is None:
        return None
    number, named = found
    if named is not None and not Path(named).is_relative_to(path.parent):
        doing, path = "use", Path(named)  # what was refused is another file, such as one that is copied
    said, remedy = _REFUSALS[number]
    return DiskError(f"cannot {doing} {path}: {said}; {remedy}", number)


@contextmanager
def using(path: Path, doing: str) -> Iterator[None]:
    """Raise what the system refuses inside as a `DiskError` about ``doing`` (read, write) ``path``."""
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if (refused := disk_error(path, error, doing)) is not None:
            raise refused from error
        raise


def require_file(path: Path) -> None:
    """Raise `WorkspaceError` when ``path`` is anything but a regular file: a pipe, a device, a folder, a dead link."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "missing" if not path.is_symlink() and not path.exists() else "no file"
        raise WorkspaceError(f"{path} is {what} where a regular file should be: move it away and run its verb again")


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; rename it over ``path`` on success, delete it on any error.

    Raises `DiskError` when the disk is full, read-only or otherwise refuses.
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{path.name}-{os.getpid()}-{uuid.uuid4().hex[:8]}")
    with using(path, "write"):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def write_table(
    path: Path, table: pa.Table, *, row_group_rows: int = 1024, notes: Mapping[str, str] | None = None
) -> None:
    """Write a Parquet file atomically, in small row groups; ``notes`` are kept in its footer."""
    with table_writer(path, table.schema) as writer:
        writer.write_table(table, row_group_size=row_group_rows)
        writer.add_key_value_metadata({**(notes or {})})


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of a Parquet file that takes the place of ``path`` when the block ends without an error."""
    strings = [f.name for f in schema if pa.types.is_string(f.type)]
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, use_dictionary=strings, **WRITER) as writer:
        yield writer
        writer.add_key_value_metadata({_COLUMNS: _names_hash(schema)})


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str] | None = None) -> None:
    """Write arrays as safetensors, atomically, with a checksum of them and of ``metadata``."""
    import numpy as np
    from safetensors.numpy import save

    notes = {**(metadata or {})}
    whole = {name: np.ascontiguousarray(array) for name, array in tensors.items()}  # else safetensors mixes them up
    with replacing(path) as temporary:
        temporary.write_bytes(save(whole, metadata={**notes, _SUM: _tensor_sum(whole, notes)}))


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write ``array`` as ``.npy``, atomically."""
    import numpy as np

    buffer = io.BytesIO()  # written to a file directly, numpy hides why a disk refuses
    np.save(buffer, array)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


# ── hashes ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content, 64 hex digits."""
    require_file(path)
    digest = hashlib.sha256()
    with using(path, "read"), path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def short_hash(value: str | bytes) -> str:
    """Return the first 16 hex digits of the sha256 of ``value``."""
    return hashlib.sha256(value.encode() if isinstance(value, str) else value).hexdigest()[:16]


def _tensor_sum(tensors: Mapping[str, NDArray[Any]], notes: Mapping[str, str]) -> str:
    import numpy as np

    digest = hashlib.sha256(canonical_json(dict(notes)).encode())
    for name in sorted(tensors):
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _names_hash(schema: pa.Schema) -> str:
    return short_hash("\n".join(schema.names))


# ── JSON and tensors, read ───────────────────────────────────────────────────────────────────────────────────────────
def read_json(path: Path, shape: Mapping[str, type | tuple[type, ...]] | None = None) -> dict[str, Any]:
    """Read a JSON file of ours, an object with the fields of ``shape`` and of their types; a bool is no int here.

    Raises `WorkspaceError` naming the file when it is no regular file, too large, damaged or of another shape.
    """
    require_file(path)
    try:
        if (size := path.stat().st_size) > MAX_JSON_BYTES:
            raise damaged(path, f"{size} bytes, where at most {MAX_JSON_BYTES} make sense")
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        _raise_read(path, error)
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, numbers of 5,000 digits, lists in lists
        raise damaged(path, f"not valid JSON: {str(error)[:200]}") from error
    if not isinstance(content, dict):
        raise damaged(path, f"it holds {type(content).__name__}, not an object")
    for name, kinds in (shape or {}).items():
        value = content.get(name)
        wanted = kinds if isinstance(kinds, tuple) else (kinds,)
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            words = " or ".join("null" if kind is type(None) else kind.__name__ for kind in wanted)
            raise damaged(path, f"'{name}' should be {words}")
    return content


def read_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays and the metadata of a safetensors file of ours; its checksum is compared where it has one."""
    from safetensors import SafetensorError, safe_open

    require_file(path)
    opened: Any = safe_open
    try:
        with opened(path, framework="numpy") as file:
            notes = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        _raise_read(path, error)
    expected = notes.pop(_SUM, None)
    if expected is not None and expected != _tensor_sum(tensors, notes):
        raise damaged(path, "its checksum is another")
    return tensors, notes


def read_kept(
    path: Path, kind: Callable[..., T], stated: Callable[[dict[str, str]], dict[str, Any]] = lambda _: {}
) -> T | None:
    """Return ``kind`` made of the arrays of a file of ours, by their names, or None where there is no such file.

    ``stated`` makes further arguments of its metadata.
    """
    if not path.exists():
        return None
    tensors, notes = read_tensors(path)
    try:
        return kind(**tensors, **stated(notes))
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, error) from error


def read_array(path: Path) -> NDArray[Any]:
    """Return the array of a ``.npy`` file of ours."""
    import numpy as np

    require_file(path)
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError) as error:
        _raise_read(path, error)
    return array


# ── tables, read ─────────────────────────────────────────────────────────────────────────────────────────────────────
def table_files(folder: Path) -> list[Path]:
    """Return the finished Parquet files directly in ``folder``, sorted by name; empty when there is no folder.

    Raises `WorkspaceError` for one that is no regular file: opening a pipe would wait for ever.
    """
    if not folder.is_dir():
        return []
    files = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
    for path in files:
        if path.is_symlink() or not path.is_file():
            require_file(path)
    return files


@contextmanager
def open_table(path: Path, *, version: bool = True) -> Iterator[pq.ParquetFile]:
    """Yield a Parquet file whose pages are verified as they are read; of any schema version unless ``version``.

    Raises `DamagedFileError` when what is read inside the block is damaged, and `WorkspaceError` when the file was
    written by another schema version.
    """
    require_file(path)
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            notes = file.metadata.metadata or {}
            if version:
                _require_version(path, notes)
            names = notes.get(_COLUMNS.encode())
            if names is not None and names.decode("ascii", "replace") != _names_hash(file.schema_arrow):
                raise damaged(path, "its columns have other names than were written")
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        _raise_read(path, error)


def batches(path: Path, rows: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield a table ``rows`` at a time; raises as `open_table` does."""
    with open_table(path) as file:
        _require_columns(path, file, columns)
        yield from file.iter_batches(batch_size=rows, columns=columns)


def read_file(path: Path, schema: pa.Schema | None = None, *, columns: list[str] | None = None) -> pa.Table:
    """Return one Parquet file as a table, of ``columns`` alone where these are given.

    It conforms to ``schema``, else to its own: a nullable column that an older file lacks is null. Raises as
    `open_table` does.
    """
    with open_table(path) as file:
        if schema is None:
            _require_columns(path, file, columns)
            return file.read(columns=columns).replace_schema_metadata(_of_schema(file.schema_arrow))
        wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns], schema.metadata)
        table = file.read(columns=[name for name in wanted.names if name in file.schema_arrow.names])
    return conformed(path, table, wanted)


def conformed(path: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return ``table``, read from ``path``, with exactly the columns of ``schema``.

    Raises `DamagedFileError` when it lacks one that must not be null, or holds another type.
    """
    arrays = []
    for field in schema:
        if field.name in table.column_names:
            arrays.append(table[field.name])
        elif field.nullable:
            arrays.append(pa.nulls(table.num_rows, field.type))
        else:
            raise damaged(path, f"it has no column '{field.name}'")
    try:
        made = pa.table(arrays, names=schema.names)
        return made.cast(schema) if made.schema != schema else made.replace_schema_metadata(schema.metadata)
    except (pa.ArrowException, ValueError) as error:
        raise damaged(path, error) from error


def read_table(folder: Path, schema: pa.Schema, *, columns: list[str] | None = None) -> pa.Table:
    """Read all Parquet files of ``folder`` as one table; an empty table of ``schema`` when there are none.

    Raises `WorkspaceError` when a file is unreadable or was written by another schema version.
    """
    wanted = schema if columns is None else pa.schema([schema.field(c) for c in columns], schema.metadata)
    return pa.concat_tables([wanted.empty_table(), *(read_file(f, wanted) for f in table_files(folder))])


def num_rows(path: Path) -> int:
    """Return how many rows a table has, by its footer."""
    with open_table(path) as file:
        return int(file.metadata.num_rows)


def notes_of(path: Path) -> dict[str, str]:
    """Return what `write_table` noted in a table's footer, and the names of its own."""
    with open_table(path) as file:
        notes = file.metadata.metadata or {}
    return {
        k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in notes.items() if k != b"ARROW:schema"
    }


def verify_table(path: Path) -> None:
    """Read every page of a table; raises as `open_table` does."""
    for _ in batches(path, 1024):
        pass


def check_version(path: Path) -> None:
    """Raise `WorkspaceError` unless ``path`` is a table of this schema version."""
    with open_table(path):
        pass


def _of_schema(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return the metadata without the notes about one file, which must not be carried into another."""
    kept = (b"hubprobe.table", b"hubprobe.schema_version")
    return {name: value for name, value in (schema.metadata or {}).items() if name in kept}


def _require_version(path: Path, notes: Mapping[bytes, bytes]) -> None:
    version = notes.get(b"hubprobe.schema_version", b"?").decode("ascii", "replace")
    if version != SCHEMA_VERSION:
        raise WorkspaceError(
            f"{path} has schema version {version}, this hubprobe reads {SCHEMA_VERSION}: "
            "use the version that wrote it, or start a new workspace"
        )


def _require_columns(path: Path, file: pq.ParquetFile, columns: list[str] | None) -> None:
    missing = [name for name in columns or () if name not in file.schema_arrow.names]
    if missing:
        raise damaged(path, f"it has no column '{missing[0]}'")


def _raise_read(path: Path, error: Exception) -> NoReturn:
    if isinstance(error, DiskError):
        raise error
    raise disk_error(path, error, "read") or damaged(path, error) from error
