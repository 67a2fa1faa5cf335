"""The manifest of a release: the hash of every file, what made them, and how to tell that they are what they were."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from hubprobe.release.tables import NAMES
from workspace import WorkspaceError
from workspace.files import canonical_json, sha256_of, short_hash, write_json
from workspace.records import SCHEMA_VERSION
from workspace.text import printable

FILE = "manifest.json"
FORMAT = 1
"""Of the folder's layout; a release of a later one is refused."""

MAX_BYTES = 16 * 1024**2
"""Size of a manifest that is read; one of a thousand files has 200 KB."""

MAX_PROBES = 1_000_000

_PATH = re.compile(
    rf"(?:(?:{'|'.join(NAMES)})/train-[0-9]{{5}}-of-[0-9]{{5}}\.parquet|encoders/[0-9a-f]{{16}}\.safetensors"
    r"|figures/[a-z]{1,40}\.png|README\.md)"
)
_CONTENT = (*(f"{name}/" for name in NAMES), "encoders/")
_Hash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]
_Count = Annotated[int, Field(ge=0, le=2**40)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class FileFacts(_Part):
    """Size in bytes and sha256 of a file."""

    bytes: _Count
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class TableFacts(_Part):
    """A file of a table, and its rows."""

    path: Annotated[str, StringConstraints(max_length=200)]
    rows: _Count


class EncoderFacts(_Part):
    """The encoder of an index, and the file of the probes' embeddings under it."""

    name: Annotated[str, StringConstraints(max_length=200)]
    commit: Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]
    dim: Annotated[int, Field(ge=1, le=65_536)]
    file: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}\.safetensors$")]


class Manifest(_Part):
    """What is used of a manifest; what else it says is for people to read."""

    release_id: _Hash
    probe_set: _Hash
    n_probes: Annotated[int, Field(ge=2, le=MAX_PROBES)]
    probe_images: bool
    rows: dict[str, _Count]
    tables: dict[str, list[TableFacts]]
    files: dict[str, FileFacts]
    encoder: EncoderFacts | None = None
    image_encoder: EncoderFacts | None = None
    config: dict[str, Any] = {}

    def of(self, table: str) -> list[str]:
        """Return the names of a table's files, in order."""
        return [part.path for part in self.tables[table]]


def file_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return ``{"bytes": ..., "sha256": ...}`` of every file below ``folder`` but the manifest, by path, sorted."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != FILE and not name.startswith("."):
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return found


def release_id(files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the hash that names the content of the tables, 16 hex digits; card and figures have no part in it."""
    return short_hash(canonical_json({name: files[name] for name in files if name.startswith(_CONTENT)}))


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, its files' hashes added."""
    stamp = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    write_json(folder / FILE, {**content, **stamp, "files": file_hashes(folder)})


def read(folder: Path) -> Manifest:
    """Read the manifest of a folder, which may come from a stranger, and check that it can be followed.

    Raises `WorkspaceError` for a release of a later format or schema, for a path that no release has, for counts that
    contradict each other, and for what is no manifest.
    """
    content = _parsed(folder)
    if not isinstance(content, dict) or "format" not in content or "files" not in content:
        raise WorkspaceError(f"{folder / FILE} is no manifest of a hubprobe release")
    if content["format"] != FORMAT or str(content.get("schema_version")) != SCHEMA_VERSION:
        made_by = content.get("versions")
        version = made_by.get("hubprobe") if isinstance(made_by, dict) else None
        raise WorkspaceError(
            f"the release has format {printable(content['format'], 10)} and schema "
            f"{printable(content.get('schema_version'), 10)}, this hubprobe reads {FORMAT} and {SCHEMA_VERSION}: "
            f"it was made by hubprobe {printable(version or 'of an unknown version', 20)}; "
            "update with pip install --upgrade hubprobe"
        )
    try:
        manifest = Manifest.model_validate(content)
    except (ValidationError, RecursionError) as error:
        raise _unusable(folder, _first(error)) from error
    _check_names(folder, manifest)
    return manifest


def check(folder: Path, name: str, facts: FileFacts) -> Path:
    """Return the path of a file of a release, of the size and the sha256 that its manifest states.

    Raises `WorkspaceError` when it is not, or is no plain file of the folder's own: a link may lead anywhere, and what
    is no file may never end.
    """
    path = folder / name
    if not path.is_file():
        raise WorkspaceError(f"the release lacks {name}, which its manifest names")
    if path.resolve() != folder.resolve() / name:
        raise WorkspaceError(
            f"{name} is a link: a release has files of its own; copy it with 'cp -rL' and use the copy"
        )
    if path.stat().st_size != facts.bytes or sha256_of(path) != facts.sha256:
        raise WorkspaceError(f"{name} is not what the release's manifest says: damaged or changed; get it again")
    return path


def _parsed(folder: Path) -> Any:
    path = folder / FILE
    if not path.is_file() or path.is_symlink():
        raise WorkspaceError(f"{folder} holds no release: it has no {FILE}")
    if path.stat().st_size > MAX_BYTES:
        raise _unusable(folder, f"it has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text, object_pairs_hook=_without_repeats, parse_constant=_no_number)
        json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # of UTF-8, JSON, numbers, surrogates; nested too deeply
        raise _unusable(folder, f"it is no valid JSON ({printable(error, 120)})") from error
    return content


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return content


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number of JSON")


def _check_names(folder: Path, manifest: Manifest) -> None:
    for name in manifest.files:
        if not _PATH.fullmatch(name):
            raise _unusable(folder, f"it names {printable(name)!r}, which no release holds")
    for table in NAMES:
        parts, rows = manifest.tables.get(table), manifest.rows.get(table)
        if not parts or rows is None:
            raise _unusable(folder, f"it has no table {table}")
        stated = [part.path for part in parts]
        listed = sorted(name for name in manifest.files if name.startswith(f"{table}/"))
        expected = [f"{table}/train-{number:05d}-of-{len(parts):05d}.parquet" for number in range(len(parts))]
        if stated != expected or listed != expected:
            raise _unusable(folder, f"the files of {table} are not the {len(parts)} that it counts")
        if sum(part.rows for part in parts) != rows:
            raise _unusable(folder, f"the rows of the files of {table} do not add up to {rows:,}")
    for side in ("encoder", "image_encoder"):
        about: EncoderFacts | None = getattr(manifest, side)
        if about is not None and f"encoders/{about.file}" not in manifest.files:
            raise _unusable(folder, f"the file of {side} is not among its files")
    if release_id({name: facts.model_dump() for name, facts in manifest.files.items()}) != manifest.release_id:
        raise _unusable(folder, "'release_id' is not that of its files")
    if manifest.rows["probes"] != manifest.n_probes:
        raise _unusable(folder, f"it counts {manifest.n_probes:,} probes and {manifest.rows['probes']:,} rows of them")


def _unusable(folder: Path, why: str) -> WorkspaceError:
    return WorkspaceError(f"the manifest of {folder} is not what hubprobe writes: {why}; get another copy")


def _first(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    problem = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(printable(part, 80) for part in problem["loc"])
    return f"'{where}': {printable(problem['msg'], 120)}"
