"""Writing descriptors, a model at a time, and telling which files need not be written again."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from completion.describe import completed_descriptors, full_descriptors
from completion.factors import Factors
from completion.gallery import Known, Model, damaged, models_in
from workspace.files import IMPORTED_PREFIX, canonical_json, check_version, replacing, table_files
from workspace.records import descriptors

_SOURCE = b"hubprobe.responses_sha256"
_COUNTS = b"hubprobe.counts"
_ROW_GROUP = 1024


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
        for model in models_in(source):
            if model.key not in committed:
                continue  # renamed into place by a process that was killed before its attempt row
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

    try:
        if target is None:
            for _ in tables():
                pass
        else:
            _write(target, tables(), descriptors(n_probes), counts, digest)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise damaged(source, error) from error
    return dict(counts)


def _write(path: Path, tables: Iterator[pa.Table], schema: pa.Schema, counts: Counter[str], digest: str) -> None:
    """Write as `workspace.files.write_table` does, but never hold more than a model."""
    strings = [f.name for f in schema if pa.types.is_string(f.type)]
    options = {"compression": "zstd", "compression_level": 3, "use_dictionary": strings, "write_page_index": True}
    with replacing(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as writer:
        held: list[pa.Table] = []
        for table in tables:
            held.append(table)
            if sum(len(part) for part in held) >= _ROW_GROUP:
                writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
                held = []
        if held:
            writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
        note = {_SOURCE.decode(): digest, _COUNTS.decode(): canonical_json(dict(counts))}
        writer.add_key_value_metadata(note)


def found_unchanged(target: Path, digest: str) -> dict[str, int] | None:
    """Return the counts kept in ``target`` when it was made from the same responses and factors, else None."""
    if not target.exists():
        return None
    check_version(target)
    metadata = pq.read_metadata(target).metadata or {}
    if metadata.get(_SOURCE) != digest.encode():
        return None
    counts: dict[str, int] = json.loads(metadata[_COUNTS])
    return counts


def drop_orphans(folder: Path, alive: set[str]) -> None:
    """Delete descriptors whose responses were compacted into another file or withdrawn; a release's never had any."""
    for path in table_files(folder):
        if path.name not in alive and not path.name.startswith(IMPORTED_PREFIX):
            path.unlink()
