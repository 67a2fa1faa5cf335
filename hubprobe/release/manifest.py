"""The manifest of a release: the hash of every file, what made them, and how to tell that they are what they were."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hubprobe.release.tables import NAMES
from workspace import WorkspaceError
from workspace.files import read_json, sha256_of, write_json
from workspace.records import SCHEMA_VERSION
from workspace.text import printable

FILE = "manifest.json"
FORMAT = 1
"""Of the folder's layout; a release of a later one is refused."""

_PATH = re.compile(
    rf"(?:(?:{'|'.join(NAMES)})/[A-Za-z0-9_-]{{1,80}}\.parquet|encoders/[0-9a-f]{{16}}\.safetensors"
    r"|figures/[a-z]{1,40}\.png|README\.md)"
)


def file_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Return ``{"bytes": ..., "sha256": ...}`` of every file below ``folder`` but the manifest, by path, sorted."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if name != FILE and not name.startswith("."):
            found[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    return found


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the manifest of a folder, its files' hashes added."""
    stamp = {"format": FORMAT, "schema_version": SCHEMA_VERSION}
    write_json(folder / FILE, {**content, **stamp, "files": file_hashes(folder)})


def read(path: Path) -> dict[str, Any]:
    """Read a manifest, which may come from a stranger, and check that it can be followed.

    Raises `WorkspaceError` for a release of a later format or schema, for a path that no release has, and for what is
    no manifest.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("files"), dict) or "format" not in content:
        raise WorkspaceError(f"{path} is no manifest of a hubprobe release")
    if content["format"] != FORMAT or str(content.get("schema_version")) != SCHEMA_VERSION:
        made_by = printable(content.get("versions", {}).get("hubprobe", "an unknown version"), 20)
        raise WorkspaceError(
            f"the release has format {printable(content['format'], 10)} and schema "
            f"{printable(content.get('schema_version'), 10)}, this hubprobe reads {FORMAT} and {SCHEMA_VERSION}: "
            f"it was made by hubprobe {made_by}; update with pip install --upgrade hubprobe"
        )
    for name, about in content["files"].items():
        stated = isinstance(about, dict) and isinstance(about.get("bytes"), int) and about["bytes"] >= 0
        if not _PATH.fullmatch(name) or not stated or not re.fullmatch("[0-9a-f]{64}", str(about.get("sha256"))):
            raise WorkspaceError(f"the release's manifest names {printable(name)!r}, which no release holds: not used")
    return content


def check(path: Path, name: str, about: Mapping[str, Any]) -> None:
    """Raise `WorkspaceError` unless the file at ``path`` has the size and the sha256 that the manifest states."""
    if not path.is_file():
        raise WorkspaceError(f"the release lacks {name}, which its manifest names")
    if path.stat().st_size != about["bytes"] or sha256_of(path) != about["sha256"]:
        raise WorkspaceError(f"{name} is not what the release's manifest says: damaged or changed; get it again")
