"""The completion job: from the responses that were run to one descriptor per searchable logit."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from completion.passthrough import Model, full_descriptors, models_of
from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.files import canonical_json, check_version, table_files, write_table
from workspace.records import RESPONSES, descriptors
from workspace.runs import new_run_id, now, versions

_LOG = logging.getLogger(__name__)
_SOURCE = b"hubprobe.responses_sha256"
_COUNTS = b"hubprobe.counts"


@dataclass(frozen=True)
class CompleteSummary:
    """What a run of `complete` did.

    Attributes:
        models: models that have descriptors now.
        logits: their searchable logits.
        excluded: logits left out because they were constant or not finite.
        partial: models not run on every probe, which have no descriptors yet.
        unchanged: files of responses whose descriptors were already there.
        run_id: name of the manifest in ``runs/``; empty for a dry run.
    """

    models: int
    logits: int
    excluded: int
    partial: int
    unchanged: int
    run_id: str


def complete(workspace: Workspace, *, dry_run: bool = False, progress: bool = True) -> CompleteSummary:
    """Write ``descriptors/<probe_set>/`` from ``responses/<probe_set>/``, one file for each file of responses.

    A model that was run on every probe passes through bit-equal. Only committed models count: those whose last
    attempt is ``ok``. Files whose responses have not changed are not written again.

    Raises `MissingStepError` when nothing was probed, `WorkspaceError` for a damaged file of responses.
    """
    started = now()
    probe_set = workspace.probe_set
    n_probes = len(workspace.probes(["probe_id"]))
    sources = table_files(workspace.responses_dir(probe_set))
    if not sources:
        raise MissingStepError("responses", "probe")
    committed = _committed(workspace, probe_set)
    folder = workspace.descriptors_dir(probe_set)
    counts = {"models": 0, "logits": 0, "excluded": 0, "partial": 0, "unchanged": 0}
    for source in tqdm(sources, desc="complete", unit="file", disable=None if progress else True):
        target = folder / source.name
        digest = _digest(source, committed)
        found = _unchanged(target, digest)
        if found is not None:
            counts["unchanged"] += 1
        else:
            table, found = _describe(source, committed, n_probes)
            if not dry_run:
                note = {_SOURCE: digest, _COUNTS: canonical_json(found).encode()}
                write_table(target, table.replace_schema_metadata({**(table.schema.metadata or {}), **note}))
        for name, value in found.items():
            counts[name] += value
    if not dry_run:
        _drop_orphans(folder, {s.name for s in sources})
    run_id = "" if dry_run else new_run_id("complete")
    summary = CompleteSummary(**counts, run_id=run_id)
    if not dry_run:
        times = {"started_at": started.isoformat(), "finished_at": now().isoformat()}
        content = {"verb": "complete", **times, "probe_set": probe_set, "counts": asdict(summary)}
        workspace.manifest(run_id, {**content, "versions": versions()})
    return summary


def _committed(workspace: Workspace, probe_set: str) -> set[Model]:
    attempts = workspace.attempts(["repo_id", "sha", "status", "probe_set"]).to_pylist()
    return {(a["repo_id"], a["sha"]) for a in attempts if a["status"] == "ok" and a["probe_set"] == probe_set}


def _describe(source: Path, committed: set[Model], n_probes: int) -> tuple[pa.Table, dict[str, int]]:
    check_version(source)
    counts = {"models": 0, "logits": 0, "excluded": 0, "partial": 0}
    done: list[pa.Table] = []
    try:
        for model in models_of(pq.read_table(source, schema=RESPONSES)):
            if model.key not in committed:
                continue  # renamed into place by a process that was killed before its attempt row
            if len(model.probe_ids) < n_probes:
                counts["partial"] += 1
                _LOG.warning("%s was run on %d of %d probes", model.key[0], len(model.probe_ids), n_probes)
                continue
            table = full_descriptors(model, n_probes)
            counts["models"] += 1
            counts["logits"] += table.num_rows
            counts["excluded"] += model.rows.num_rows - table.num_rows
            done.append(table)
    except (pa.ArrowInvalid, OSError, ValueError) as error:
        raise WorkspaceError(f"{source} is damaged ({error}): delete it and run 'hubprobe probe' again") from error
    return pa.concat_tables(done) if done else descriptors(n_probes).empty_table(), counts


def _digest(source: Path, committed: set[Model]) -> bytes:
    """Return what the descriptors of ``source`` depend on: its bytes, and which of its models are committed."""
    keys = pq.read_table(source, columns=["repo_id", "sha"]).group_by(["repo_id", "sha"]).aggregate([]).to_pylist()
    live = sorted((k["repo_id"], k["sha"]) for k in keys if (k["repo_id"], k["sha"]) in committed)
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _sha256(file.read())
    digest.update(repr(live).encode())
    return digest.hexdigest().encode()


def _sha256(content: bytes) -> hashlib._Hash:
    return hashlib.sha256(content)  # Python 3.10 has no file_digest


def _unchanged(target: Path, digest: bytes) -> dict[str, int] | None:
    """Return the counts kept in ``target`` when it was made from the same responses, else None."""
    if not target.exists():
        return None
    check_version(target)
    metadata = pq.read_schema(target).metadata or {}
    if metadata.get(_SOURCE) != digest:
        return None
    counts: dict[str, int] = json.loads(metadata[_COUNTS])
    return counts


def _drop_orphans(folder: Path, alive: set[str]) -> None:
    """Delete descriptors whose responses were compacted into another file or withdrawn."""
    for path in table_files(folder):
        if path.name not in alive:
            path.unlink()
