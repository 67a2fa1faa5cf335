"""Holes: models whose last attempt says ``ok`` and whose responses are not what it committed.

The row of an attempt is the commit: it says how many logits and probes its responses have. A file may be deleted, cut,
exchanged or damaged afterwards. Such a model is not done: it waits to be probed again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from workspace.errors import DamagedFileError, DiskError
from workspace.files import IMPORTED_PREFIX, batches, open_table, short_hash, table_files

Key = tuple[str, str]
"""A model: repository and commit."""

SHARD_PREFIX = "compacted-"
"""Files of responses that hold many models start so; any other holds the model that it is named after."""

_NOTE = "hubprobe.models"


@dataclass(frozen=True)
class Held:
    """What a file holds of a model: its logits, and the probes that its first one says were run."""

    logits: int
    probes: int


def contents_note(responses: pa.Table) -> dict[str, str]:
    """Return the note for the footer of a file of responses: which models it holds, as `contents` reads it."""
    return {_NOTE: json.dumps([[*key, held.logits, held.probes] for key, held in _count([responses]).items()])}


def contents(path: Path) -> dict[Key, Held]:
    """Return the models in a file of responses, by its footer where that says so, else by its columns.

    Raises `DamagedFileError` when it cannot be read.
    """
    with open_table(path) as file:
        metadata = file.metadata
        note = (metadata.metadata or {}).get(_NOTE.encode(), b"null")
    try:
        entries = json.loads(note)
        found = {(str(repo), str(sha)): Held(int(logits), int(probes)) for repo, sha, logits, probes in entries}
    except (ValueError, TypeError, RecursionError):  # an older file, or a damaged footer: the columns say it
        found = {}
    rows = sum(held.logits for held in found.values())
    # a row without probes counts as one value of that column, too
    values = sum(held.probes for held in found.values()) + rows - len(found)
    if found and (rows, values) == (metadata.num_rows, _values(metadata, "probe_ids")):
        return found
    return _count(batches(path, 65_536, ["repo_id", "sha", "probe_ids"]))


def _values(metadata: pq.FileMetaData, column: str) -> int:
    groups = (metadata.row_group(i) for i in range(metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    return sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)


def _count(tables: Iterable[pa.Table | pa.RecordBatch]) -> dict[Key, Held]:
    found: dict[Key, list[int]] = {}
    for table in tables:
        keys = zip(table["repo_id"].to_pylist(), table["sha"].to_pylist(), strict=True)
        run = pc.fill_null(pc.list_value_length(table["probe_ids"]), 0).to_pylist()
        for key, group in groupby(zip(keys, run, strict=True), key=lambda pair: pair[0]):
            counts = found.setdefault(key, [0, 0])
            for _, probes in group:
                counts[0] += 1
                counts[1] = max(counts[1], probes)
    return {key: Held(*counts) for key, counts in found.items()}


def is_home(path: Path, key: Key) -> bool:
    """Return whether a model's responses may lie in ``path``: a shard, or the file that is named after the model."""
    if path.name.startswith(SHARD_PREFIX):
        return True
    stem = path.stem
    named = len(stem) == 16 and all(c in "0123456789abcdef" for c in stem)
    return not named or stem == short_hash(f"{key[0]}@{key[1]}")


def difference(attempt: Mapping[str, Any], held: Held | None) -> str:
    """Return how what is held differs from what an ``ok`` attempt committed; empty when it does not."""
    if held is None:
        return "its responses are gone"
    for name, there in (("num_logits", held.logits), ("probes_run", held.probes)):
        committed = attempt.get(name)
        if committed is not None and committed != there:
            what = "logits" if name == "num_logits" else "probes"
            return f"its attempt committed {committed} {what}, its responses hold {there}"
    return ""


def holes(attempts: Iterable[Mapping[str, Any]], responses: Path, descriptors: Path) -> dict[Key, str]:
    """Return the models among ``attempts`` that are holes, and what is wrong with each.

    Args:
        attempts: last attempts with the columns repo_id, sha, status, num_logits and probes_run, at one probe set.
        responses: folder of responses to that probe set.
        descriptors: folder of descriptors over it; models of an imported release have no responses, and need none.
    """
    committed = {(a["repo_id"], a["sha"]): a for a in attempts if a["status"] == "ok"}
    if not committed:
        return {}
    found: dict[Key, Held] = {}
    unreadable: dict[str, str] = {}  # by stem
    for path in table_files(_standing(responses)):
        try:
            here = contents(path)
        except DiskError:
            raise
        except DamagedFileError as error:
            unreadable[path.stem] = f"its responses are gone: {path.name} is damaged ({error.why})"
            continue
        found |= {key: held for key, held in here.items() if is_home(path, key)}
    wrong = {key: difference(attempt, found.get(key)) for key, attempt in committed.items()}
    missing = {key: why for key, why in wrong.items() if why}
    if missing and (imported := _imported(descriptors)):
        missing = {key: why for key, why in missing.items() if key not in imported}
    shard = next((why for stem, why in unreadable.items() if stem.startswith(SHARD_PREFIX)), None)
    for key in missing:
        if key not in found:
            missing[key] = unreadable.get(short_hash(f"{key[0]}@{key[1]}"), shard or missing[key])
    return missing


def _standing(folder: Path) -> Path:
    """Return ``folder``, or what stands for it between the two renames of a compaction."""
    beside = (folder.with_name(f".{what}-{folder.name}") for what in ("ready", "old"))
    return folder if folder.exists() else next((p for p in beside if p.is_dir()), folder)


def _imported(descriptors: Path) -> set[Key]:
    found: set[Key] = set()
    for path in table_files(descriptors):
        if path.name.startswith(IMPORTED_PREFIX):
            for batch in batches(path, 65_536, ["repo_id", "sha"]):
                found |= set(zip(batch["repo_id"].to_pylist(), batch["sha"].to_pylist(), strict=True))
    return found
