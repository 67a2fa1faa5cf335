"""The completion job: from the responses that were run to one descriptor per searchable logit."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tqdm import tqdm

from completion.descriptors import Describer, drop_orphans, found_unchanged, was_described
from completion.responses import Known, Model, overview, verify
from completion.train import Settings, least_probes, train
from workspace import MissingStepError, Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import set_aside, table_files
from workspace.holes import difference
from workspace.runs import new_run_id, now, versions

_LOG = logging.getLogger(__name__)


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
    workspace: Workspace, settings: Settings | None = None, *, dry_run: bool = False, progress: bool = True
) -> CompleteSummary:
    """Write ``descriptors/<probe_set>/`` from ``responses/<probe_set>/``, one file for each file of responses.

    A model that was run on every probe passes through bit-equal. One that was not is completed by factors fitted to
    the gallery, which are kept in ``factors/`` and fitted anew when the gallery has changed enough. Only committed
    models count: those whose last attempt is ``ok``. Files whose responses and factors have not changed are not
    written again.

    Args:
        workspace: has responses.
        settings: how to fit; the defaults when None.
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
    trained = train(workspace, usable, sources, n_probes, settings, dry_run=dry_run, progress=progress)
    if trained.reason:
        refused = {m.key: trained.reason for m in scan.known if m.observed < n_probes} | refused
    describer = Describer(n_probes, None if dry_run else trained.factors, refused.keys(), settings.chosen_device())
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
