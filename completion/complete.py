"""The completion job: from the responses that were run to one descriptor per searchable logit."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from completion.responses import Known, Model, ModelResponses, block, models_in, moments, overview, verify
from completion.settings import Settings, Trained, least_probes
from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import (
    IMPORTED_PREFIX,
    canonical_json,
    notes_of,
    set_aside,
    table_files,
    table_writer,
    verify_table,
)
from workspace.holes import difference
from workspace.records import descriptors
from workspace.runs import new_run_id, now, versions

if TYPE_CHECKING:
    from completion.factors import Completer

_LOG = logging.getLogger(__name__)


_CARRIED = ("repo_id", "sha", "logit", "label", "mean", "std")
_SOURCE = "hubprobe.responses_sha256"
_COUNTS = "hubprobe.counts"
_ROW_GROUP = 1024


@dataclass(frozen=True)
class Describer:
    """Turns files of responses into files of descriptors.

    Attributes:
        n_probes: probes in all.
        completer: completes partial models; None where all are full or refused, or nothing is written.
        refused: models that get no descriptors.
        device: where to compute.
    """

    n_probes: int
    completer: Completer | None
    refused: Collection[Model]
    device: str

    def describe(self, source: Path, models: Collection[Model], target: Path | None, digest: str) -> dict[str, int]:
        """Write the descriptors of ``models`` in ``source`` to ``target``, and return what they count.

        Args:
            source: file of responses.
            models: those of its models that are committed.
            target: file of descriptors; None writes nothing.
            digest: what the result depends on, kept in the file.
        """
        counts = Counter({"models": 0, "logits": 0, "excluded": 0, "partial": 0, "completed": 0, "refused": 0})
        tables = self._tables(source, models, counts)
        if target is None:
            for _ in tables:
                pass
            return dict(counts)
        with table_writer(target, descriptors(self.n_probes)) as writer:
            held: list[pa.Table] = []
            for table in tables:  # never more than a row group and a model in memory
                held.append(table)
                if sum(len(part) for part in held) >= _ROW_GROUP:
                    writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
                    held = []
            if held:
                writer.write_table(pa.concat_tables(held), row_group_size=_ROW_GROUP)
            writer.add_key_value_metadata({_SOURCE: digest, _COUNTS: canonical_json(dict(counts))})
        return dict(counts)

    def _tables(self, source: Path, models: Collection[Model], counts: Counter[str]) -> Iterator[pa.Table]:
        for model in models_in(source, models):
            whole = len(model.probe_ids) == self.n_probes
            counts["partial"] += not whole
            if model.key in self.refused:
                counts["refused"] += 1
                continue
            size = model.searchable().num_rows
            counts["models"] += 1
            counts["completed"] += not whole
            counts["logits"] += size
            counts["excluded"] += model.rows.num_rows - size
            if whole:
                yield full(model)
            elif self.completer is not None:
                yield completed(model, self.completer, self.n_probes, self.device)


def full(model: ModelResponses) -> pa.Table:
    """Return the descriptors of a fully probed model, bit-equal; excluded logits have none."""
    rows, n = model.searchable(), len(model.probe_ids)
    flat = pc.list_flatten(rows["response"]).combine_chunks()
    columns = {name: rows[name] for name in _CARRIED}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, n)
    columns["observed"] = pa.nulls(rows.num_rows, pa.binary())
    columns["variance"] = pa.array(np.zeros(rows.num_rows, np.float32))
    columns["deviation"] = pa.nulls(rows.num_rows, pa.list_(pa.float16()))
    columns["logsumexp"] = _logsumexp(model, rows.num_rows)
    return pa.table(columns, schema=descriptors(n))


def completed(model: ModelResponses, completer: Completer, n_probes: int, device: str) -> pa.Table:
    """Return the descriptors of a partially probed model.

    Responses to a random share of the probes are kept as they are. Where probes were chosen by predicted response,
    all are put in deviations from the mean over the random ones, and ``mean`` and ``std`` are those.
    """
    rows = model.searchable()
    mean, deviation = moments(model)
    values, variance = completer.complete(block(model).to(device))
    vectors = values.cpu().numpy().astype(np.float16)
    spread = variance.cpu().numpy()
    run = np.zeros(n_probes, np.bool_)
    run[model.probe_ids] = True
    count = rows.num_rows
    columns = {name: rows[name] for name in _CARRIED}
    old_mean, old_std = (rows[name].to_numpy().astype(np.float32) for name in ("mean", "std"))
    columns["mean"] = pa.array(old_mean + old_std * mean[:, 0])
    columns["std"] = pa.array(old_std * deviation[:, 0])
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), n_probes)
    columns["observed"] = pa.array([np.packbits(run).tobytes()] * count, pa.binary())
    columns["variance"] = pa.array(np.full(count, spread[~run].mean(), np.float32))
    shared = [np.sqrt(spread).astype(np.float16)] + [None] * (count - 1)
    columns["deviation"] = pa.array(shared[:count], pa.list_(pa.float16()))
    columns["logsumexp"] = _logsumexp(model, count)
    return pa.table(columns, schema=descriptors(n_probes))


def _logsumexp(model: ModelResponses, count: int) -> pa.Array:
    """Return the column for ``count`` rows: the model's own on the first, whether or not output 0 is searchable."""
    own = model.rows["logsumexp"].slice(0, min(count, 1)).combine_chunks()
    return pa.concat_arrays([own, pa.nulls(count - len(own), own.type)])


def was_described(target: Path, digest: str) -> bool:
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


def drop_orphans(workspace: Workspace, folder: Path, alive: Collection[str]) -> None:
    """Delete descriptors whose responses were compacted into another file or withdrawn; a release's never had any."""
    orphans = [p for p in table_files(folder) if p.name not in alive and not p.name.startswith(IMPORTED_PREFIX)]
    if orphans:
        workspace.require_own(folder)
    for path in orphans:
        path.unlink()


@dataclass(frozen=True)
class CompleteSummary:
    """What a run of `complete` did.

    Attributes:
        models: models that have descriptors now.
        logits: their searchable logits.
        excluded: logits left out because they were constant or not finite.
        partial: models not run on every probe: completed or refused.
        completed: those of them that were completed.
        refused: those that were not, and have no descriptors; the log and the run's manifest say why.
        unchanged: files of responses whose descriptors were already there.
        holes: models whose responses are not what their attempt committed; they have no descriptors, and the next
            `probe` runs them again.
        rank: rank of the factors; 0 without.
        r2: share of the squared responses, hidden from the fit, that it predicted; empty when nothing was fitted.
        run_id: name of the manifest in ``runs/``; empty for a dry run.
    """

    models: int
    logits: int
    excluded: int
    partial: int
    completed: int
    refused: int
    unchanged: int
    holes: int = 0
    rank: int = 0
    r2: float | str = ""
    run_id: str = ""


@dataclass
class _Scan:
    """What lies in ``responses/``, before any response is used."""

    models: dict[Path, list[Known]] = field(default_factory=dict)
    holes: dict[Model, str] = field(default_factory=dict)
    digests: dict[Path, str] = field(default_factory=dict)

    @property
    def known(self) -> list[Known]:
        return [known for models in self.models.values() for known in models]


def complete(
    workspace: Workspace, settings: Settings | None = None, *, spare: bool = False, dry_run: bool = False,
    progress: bool = True,
) -> CompleteSummary:  # fmt: skip
    """Write ``descriptors/<probe_set>/`` from ``responses/<probe_set>/``, one file for each file of responses.

    A model that was run on every probe passes through bit-equal. One that was not is completed by factors fitted to
    the gallery, which are kept in ``factors/`` and fitted anew when the gallery has changed enough. Only committed
    models count: those whose last attempt is ``ok``. Files whose responses and factors have not changed are not
    written again.

    Args:
        workspace: has responses.
        settings: how to fit; the defaults when None.
        spare: fit nothing where no model is partial: factors would serve ``probe --adaptive`` alone.
        dry_run: count what would be written; fit and write nothing.
        progress: show progress bars on stderr.

    Raises `MissingStepError` when nothing was probed, `DiskError` when the disk refuses, and `WorkspaceError` for
    damaged files of responses, which are set aside so that the next `probe` runs their models again.
    """
    started, settings = now(), settings or Settings()
    probe_set = workspace.probe_set
    n_probes = len(workspace.probes(["probe_id"]))
    sources = table_files(workspace.responses_dir(probe_set))
    if not sources:
        raise MissingStepError("responses", "probe")
    folder = workspace.descriptors_dir(probe_set)
    scan = _scan(workspace, sources, n_probes, dry_run=dry_run, progress=progress)
    holes = workspace.holes(probe_set) | scan.holes
    refused = _refused(scan.known, n_probes)
    usable = [model for model in scan.known if model.key not in refused and model.logits]
    if spare and all(model.observed == n_probes for model in scan.known):
        trained = Trained(None)
    else:
        from completion.train import train

        trained = train(workspace, usable, sources, n_probes, settings, dry_run=dry_run, progress=progress)
    if trained.reason:
        refused = {m.key: trained.reason for m in scan.known if m.observed < n_probes} | refused
    device = settings.chosen_device() if trained.factors else ""  # nothing is computed without
    describer = Describer(n_probes, None if dry_run else trained.factors, refused.keys(), device)
    counts: Counter[str] = Counter()
    for source in tqdm(sources, desc="complete", unit="file", disable=None if progress else True):
        models = scan.models[source]
        digest = scan.digests[source]
        if partial := [model.key in refused for model in models if model.observed < n_probes]:
            digest += f":{trained.digest}:{sum(partial)}"
        target = folder / source.name
        found = found_unchanged(target, digest)
        counts["unchanged"] += found is not None
        if found is None:
            found = describer.describe(source, {m.key for m in models}, None if dry_run else target, digest)
        counts.update(found)
    for key, reason in holes.items():
        _LOG.warning("%s has no descriptors: %s; 'hubprobe probe' runs it again", key[0], reason)
    for key, reason in refused.items():
        _LOG.warning("%s is refused: %s", key[0], reason)
    summary = CompleteSummary(
        models=counts["models"],
        logits=counts["logits"],
        excluded=counts["excluded"],
        partial=counts["partial"],
        completed=counts["completed"],
        refused=counts["refused"],
        unchanged=counts["unchanged"],
        holes=len(holes),
        rank=trained.factors.rank if trained.factors else 0,
        r2=trained.diagnostics.get("r2", ""),
    )
    if dry_run:
        return summary
    drop_orphans(workspace, folder, {s.name for s in sources})
    summary = replace(summary, run_id=new_run_id("complete"))
    content: dict[str, object] = {
        "verb": "complete",
        "started_at": started.isoformat(),
        "finished_at": now().isoformat(),
        "probe_set": probe_set,
        "counts": asdict(summary),
        "refused": [{"repo_id": key[0], "sha": key[1], "reason": reason} for key, reason in sorted(refused.items())],
        "settings": asdict(settings),
        "fit": trained.diagnostics,
        "versions": versions(),
    }
    workspace.manifest(summary.run_id, content)
    return summary


def _scan(workspace: Workspace, sources: list[Path], n_probes: int, *, dry_run: bool, progress: bool) -> _Scan:
    """Look through every file of responses, and read to its end any whose descriptors are not there yet.

    Models whose rows are not what their attempt committed are left out. Raises `WorkspaceError` for damaged files,
    after all were looked at and the damaged ones set aside.
    """
    probe_set = workspace.probe_set
    folder = workspace.descriptors_dir(probe_set)
    attempts = workspace.attempts(["repo_id", "sha", "status", "probe_set", "num_logits", "probes_run"]).to_pylist()
    done = [a for a in attempts if a["status"] == "ok" and a["probe_set"] == probe_set]
    if not done:
        raise MissingStepError("attempt at this probe set that ended ok", "probe")
    committed = {(a["repo_id"], a["sha"]): a for a in done}
    scan, bad = _Scan(), list[DamagedFileError]()
    for source in tqdm(sources, desc="scan", unit="file", disable=None if progress else True):
        try:
            models, digest = overview(source, committed)
            wrong = {m.key: why for m in models if (why := difference(committed[m.key], m.held))}
            scan.holes |= wrong
            scan.models[source] = [m for m in models if m.key not in wrong]
            scan.digests[source] = f"{digest}:{len(wrong)} holes" if wrong else digest
            if not was_described(folder / source.name, digest):
                verify(source, {m.key for m in models} - wrong.keys(), n_probes)
        except DamagedFileError as error:
            bad.append(error)
    if bad:
        raise _damaged(workspace, bad, dry_run)
    return scan


def _damaged(workspace: Workspace, found: list[DamagedFileError], dry_run: bool) -> WorkspaceError:
    """Set damaged files of responses aside, unless ``dry_run``; return the error that names the first of them."""
    for error in () if dry_run else found:
        workspace.require_own(error.path.parent)
    kept = [error.path if dry_run else set_aside(error.path) for error in found]
    for error, path in zip(found[1:], kept[1:], strict=True):
        _LOG.warning("%s is damaged (%s), kept as %s", error.path, error.why, path.name)
    more = f", and {len(found) - 1} more are" if len(found) > 1 else ""
    return WorkspaceError(
        f"{found[0].path} is damaged ({found[0].why}){more}. It is kept as {kept[0].name}. "
        "Run 'hubprobe probe': it runs their models again"
    )


def _refused(known: list[Known], n_probes: int) -> dict[Model, str]:
    """Return the models run on too few probes for what a completion would add, and why."""
    least = least_probes(n_probes)
    return {
        m.key: f"it was run on {m.observed} of {n_probes} probes, completing takes {least}: probe it on more"
        for m in known
        if m.observed < min(least, n_probes)
    }
