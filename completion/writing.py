"""Writing descriptors, a model at a time, and telling which files need not be written again."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from completion.describe import completed_descriptors, full_descriptors
from completion.factors import Factors
from completion.gallery import Known, Model, models_in
from workspace import Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import (
    IMPORTED_PREFIX,
    canonical_json,
    notes_of,
    table_files,
    table_writer,
    verify_table,
)
from workspace.records import descriptors

_SOURCE = "hubprobe.responses_sha256"
_COUNTS = "hubprobe.counts"
_ROW_GROUP = 1024
_LOG = logging.getLogger(__name__)


def describe(
    source: Path,
    target: Path | None,
    known: list[Known],
    factors: Factors | None,
    n_probes: int,
    *,
    refused: set[Model],
    digest: str,
    device: str,
) -> dict[str, int]:
    """Write the descriptors of the committed models of ``source`` to ``target``, and return what they count.

    Args:
        source: file of responses.
        target: file of descriptors; None writes nothing.
        known: the committed models of ``source``.
        factors: completes partial models; None where all are full, refused, or nothing is written.
        n_probes: probes in all.
        refused: models that get no descriptors.
        digest: what the result depends on, kept in the file.
        device: where to compute.
    """
    counts = Counter({"models": 0, "logits": 0, "excluded": 0, "partial": 0, "completed": 0, "refused": 0})
    committed = {model.key for model in known}

    def tables() -> Iterator[pa.Table]:
        for model in models_in(source, committed):
            whole = len(model.probe_ids) == n_probes
            counts["partial"] += not whole
            if model.key in refused:
                counts["refused"] += 1
                continue
            size = model.searchable().num_rows
            counts["models"] += 1
            counts["completed"] += not whole
            counts["logits"] += size
            counts["excluded"] += model.rows.num_rows - size
            if whole:
                yield full_descriptors(model, n_probes)
            elif factors is not None and target is not None:
                yield completed_descriptors(model, factors, n_probes, device)

    if target is None:
        for _ in tables():
            pass
    else:
        _write(target, tables(), descriptors(n_probes), counts, digest)
    return dict(counts)


def _write(path: Path, tables: Iterator[pa.Table], schema: pa.Schema, counts: Counter[str], digest: str) -> None:
    """Write as `workspace.files.write_table` does, but never hold more than a model."""
    with table_writer(path, schema) as writer:
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            if sum(len(part) for part in held) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
        writer.add_key_value_metadata({_SOURCE: digest, _COUNTS: canonical_json(dict(counts))})


def described(target: Path, digest: str) -> bool:
    """Return whether ``target`` was made from responses of this digest: then they were read to their end before."""
    try:
        return target.exists() and notes_of(target).get(_SOURCE, "").startswith(digest)
    except WorkspaceError:
        return False


def found_unchanged(target: Path, digest: str) -> dict[str, int] | None:
    """Return the counts kept in ``target`` when it is whole and of the same responses and factors, else None."""
    if not target.exists():
        return None
    try:
        notes = notes_of(target)
        if notes.get(_SOURCE) != digest:
            return None
        verify_table(target)
        return {str(name): int(count) for name, count in json.loads(notes[_COUNTS]).items()}
    except (DamagedFileError, ValueError, TypeError, KeyError, AttributeError) as error:
        _LOG.warning("%s is written again: it is damaged (%s)", target, getattr(error, "why", error))
        return None


def drop_orphans(workspace: Workspace, folder: Path, alive: set[str]) -> None:
    """Delete descriptors whose responses were compacted into another file or withdrawn; a release's never had any."""
    orphans = [p for p in table_files(folder) if p.name not in alive and not p.name.startswith(IMPORTED_PREFIX)]
    if orphans:
        workspace.require_own(folder)
    for path in orphans:
        path.unlink()
