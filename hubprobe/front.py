"""The front door: the verbs that need more than one room, and how far a workspace has come."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from workspace import HubprobeError, MissingStepError, Outcome, Status, Workspace, WorkspaceError
from workspace.files import num_rows, table_files
from workspace.locks import lock

if TYPE_CHECKING:
    import pyarrow as pa

    from completion import CompleteSummary
    from crawler import CrawlSummary
    from hubprobe.doctor import Check
    from probing import ProbesSummary, ProbeSummary
    from search import Index, IndexSummary
    from workspace.seams import Sight


R = TypeVar("R")
_LOG = logging.getLogger(__name__)


def taking_paths(verb: Callable[..., R], *, make: bool = False) -> Callable[..., R]:
    """Return ``verb`` so that it takes a workspace's path in place of the workspace, made if need be when ``make``.

    Where the workspace has a remote, what the verb of this name reads is pulled before, and what it wrote pushed after.
    """
    from hubprobe.sync import synced

    by_itself = verb.__name__ in ("probe", "run")  # the one pushes every model, the other is several verbs

    @wraps(verb)
    def taking(workspace: Workspace | str | Path, *args: Any, **kwargs: Any) -> R:
        if not isinstance(workspace, Workspace):
            workspace = Workspace.create(workspace) if make else Workspace.open(workspace)
        if by_itself or kwargs.get("dry_run"):
            return verb(workspace, *args, **kwargs)
        with synced(workspace, verb.__name__, progress=bool(kwargs.get("progress", True))):
            return verb(workspace, *args, **kwargs)

    return taking


@dataclass(frozen=True)
class RunSummary:
    """What each step of `run` did; None of one that is another job's."""

    crawl: CrawlSummary | None
    probe: ProbeSummary
    complete: CompleteSummary | None
    index: IndexSummary | None


def open(path: str | Path | Workspace) -> Index:  # noqa: A001 - as pathlib's and gzip's open
    """Open an index for searching.

    Args:
        path: a workspace, or the address of an index that is published: ``hf://datasets/ORG/NAME``, ``s3://``,
            ``https://`` and so on. Of that only what a query needs is read, and kept in the user's cache.

    Raises `WorkspaceError` when ``path`` is no workspace, `MissingStepError` when it has no index yet.
    """
    return opened(path, "open")


def opened(path: str | Path | Workspace, verb: str) -> Index:
    """Open an index as `open` does, and what else ``verb`` reads of the workspace."""
    import search
    from hubprobe.sync import checked_index, fresh
    from workspace.published import Published, is_address

    if is_address(path):
        published = Published(str(path), check=checked_index)
        return search.open(published.workspace, source=published)
    return search.open(fresh(path, verb))


HOLE = "probed, but its responses are gone or damaged: the next 'hubprobe probe' runs it again"
"""What is said of models that are holes; see `workspace.holes`."""


@dataclass(frozen=True)
class StatusReport:
    """Counts over the newest catalog row and the last attempt of every repository."""

    listed: int  # repositories in the catalog
    eligible: int  # those the crawler found fit to be probed
    attempted: int  # models with an attempt row; always ``ok + skipped + failed``
    ok: int  # probed
    skipped: int  # not run, for a reason known beforehand
    failed: int  # tried, without responses
    waiting: int  # listed, not attempted yet, or probed with responses that are gone or damaged since
    logits: int  # searchable logits in the descriptors
    # one dict per status present: ``outcome``, ``status``, ``repositories``, ``meaning``
    by_status: list[dict[str, Any]]
    holes: int = 0  # the latter of those waiting; the next ``probe`` runs them again
    converted: int = 0  # of the eligible, those whose weights are taken from a conversion bot's pull request


def status(path: str | Path | Workspace) -> StatusReport:
    """Count a workspace's repositories by how they ended. Raises `MissingStepError` when nothing was crawled."""
    from hubprobe.sync import fresh

    workspace = fresh(path, "status")
    catalog = workspace.catalog(["id", "sha", "eligibility", "weights_ref"]).to_pylist()
    last = {(a["repo_id"], a["sha"]): a["status"] for a in workspace.attempts(["repo_id", "sha", "status"]).to_pylist()}
    try:
        holes, folder = workspace.holes(), workspace.descriptors_dir(workspace.probe_set)
        logits = sum(num_rows(file) for file in table_files(folder))
    except MissingStepError:  # no probe set: nothing was probed
        holes, logits = {}, 0
    again = sum((row["id"], row["sha"]) in holes for row in catalog)
    for key in holes:
        del last[key]
    # Attempts at earlier commits stay in the table; a repository counts once, by the commit its catalog row names.
    ends = Counter(Status(last[key]) for row in catalog if (key := (row["id"], row["sha"])) in last)
    left = [row for row in catalog if (row["id"], row["sha"]) not in last]
    waiting = Counter(Status(row["eligibility"]) for row in left if (row["id"], row["sha"]) not in holes)
    outcomes = {kind.value: sum(n for value, n in ends.items() if value.outcome is kind) for kind in Outcome}
    rows = [_row(value.outcome.value, value, value.meaning, count) for value, count in ends.items()]
    for value, count in waiting.items():
        meaning = "not attempted yet" if value is Status.ELIGIBLE else value.meaning
        rows.append(_row("waiting", value, meaning, count))
    if again:
        rows.append(_row("waiting", "hole", HOLE, again))
    order = {"ok": 0, "failed": 1, "skipped": 2, "waiting": 3}
    rows.sort(key=lambda row: (order[row["outcome"]], -row["repositories"], row["status"]))
    return StatusReport(
        listed=len(catalog),
        eligible=sum(row["eligibility"] == "eligible" for row in catalog),
        attempted=sum(ends.values()),
        **outcomes,
        waiting=len(left),
        holes=again,
        converted=sum(row["eligibility"] == "eligible" and row["weights_ref"] is not None for row in catalog),
        logits=logits,
        by_status=rows,
    )


def _row(outcome: str, status: str, meaning: str, count: int) -> dict[str, Any]:
    status = status.value if isinstance(status, Status) else status
    return {"outcome": outcome, "status": status, "repositories": count, "meaning": meaning}


def concepts(path: str | Path | Workspace, *, kind: str | None = None, missing: bool = False) -> pa.Table:
    """Return every concept of the bank and how many models of the index answer it, those of most models first.

    Args:
        path: a workspace.
        kind: only those of one of the bank's groups, such as ``animal``.
        missing: only those that no model answers and no search probably finds.

    Returns a table ``concept, kind, models, covered, probability, repo_id, sha, logit, label, score``; the last five
    are of the output that does best. Raises `MissingStepError` without an index that has one, `QueryError` for a kind
    that there is not.

    >>> hubprobe.concepts("my-index", kind="animal").to_pandas()  # doctest: +SKIP
    """
    import pyarrow.compute as pc

    from hubprobe.sync import fresh
    from search.views import read_view
    from workspace import QueryError

    table = read_view(fresh(path, "open"), "concepts")
    if kind is not None:
        kinds = sorted(set(table.column("kind").to_pylist()))
        if kind not in kinds:
            raise QueryError(f"there is no kind {kind[:40]!r} of concepts: {', '.join(kinds)}")
        table = table.filter(pc.equal(table.column("kind"), kind))
    if missing:
        table = table.filter(pc.and_not(pc.equal(table.column("models"), 0), table.column("covered")))
    return table.sort_by([("models", "descending"), ("probability", "descending"), ("concept", "ascending")])


def probe(
    workspace: Workspace,
    *,
    token: str | None = None,
    keep: bool = False,
    max_disk_bytes: int | None = None,
    ray: Mapping[str, Any] | None = None,
    **options: Any,
) -> ProbeSummary:
    """Run every eligible model that was not run yet on the probe set: `probing.probe` with the crawler's fetcher.

    Args:
        workspace: has a catalog and a probe set.
        token: Hugging Face token for the downloads; the environment's when None.
        keep: keep model files after probing.
        max_disk_bytes: what fetched files may take; no bound when None.
        ray: run them on a Ray cluster; options of `hubprobe.cluster.Ray`: ``address``, ``workers``, ``cpus``, ``gpus``.
        **options: those of `probing.probe`.

    """
    import crawler
    import probing
    from hubprobe.machine import is_first_process
    from hubprobe.sync import synced

    kept: dict[str, Any] = {"keep": keep, "max_disk_bytes": max_disk_bytes}
    if ray is not None:
        from hubprobe.cluster import Ray

        options["engine"] = Ray(workspace, **ray, token=token, fetcher=kept, device=options.get("device"))
    fetcher = crawler.Fetcher(workspace, token=token, **kept)
    progress = bool(options.get("progress", True))
    try:
        with synced(workspace, "probe", progress=progress, alone=is_first_process()) as remote:
            return probing.probe(workspace, fetcher, remote=remote, **options)
    finally:
        fetcher.close()


def run(
    workspace: Workspace,
    *,
    limit: int | None = None,
    token: str | None = None,
    probes_from: str | None = None,
    progress: bool = True,
    check: bool = True,
    tell: Callable[[Check], None] | None = None,
    shard: str | None = None,
) -> RunSummary:
    """Crawl, probe, complete and index, each step going on where an earlier run left off.

    Before any of it the Hub, the encoder, the probe images and the disks are looked at, for minutes now may save hours.

    Args:
        workspace: where everything goes.
        limit: repositories to list at most; all when None.
        token: Hugging Face token; the environment's when None.
        probes_from: folder or dataset of the probe images, used when the workspace has no probe set yet;
            the configuration's ``[probes] source`` when None.
        progress: whether to show progress bars on stderr.
        check: whether to look first.
        tell: told of every check as it is made.
        shard: ``I/N``: this is one of N independent jobs, see `probing.probe`. The catalog is taken as it is, for one
            of them crawls; the job after which no model waits completes and indexes.

    Raises `WorkspaceError` with what is wrong and what to do when a check fails; nothing was crawled then.
    """
    import completion
    import crawler
    import search
    from hubprobe.sync import fresh

    fresh(workspace, "run")  # the probe set above all: a host that is new would make one of its own
    if check:
        require_ready(workspace, limit=limit, token=token, probes_from=probes_from, tell=tell)
    search.settle(workspace, token=token)
    ensure_probes(workspace, probes_from, token=token, progress=progress)
    crawled = None if shard else taking_paths(crawler.crawl)(workspace, limit=limit, token=token, progress=progress)
    probed = probe(workspace, token=token, progress=progress, shard=shard)
    finishing = lock(workspace.runs_dir / ".finishing") if shard else nullcontext()
    if finishing is None or (shard and status(workspace).waiting):
        return RunSummary(crawled, probed, None, None)
    with finishing:
        completed = taking_paths(completion.complete)(workspace, spare=True, progress=progress)
        indexed = taking_paths(search.index)(workspace, token=token, progress=progress)
    return RunSummary(crawled, probed, completed, indexed)


def require_ready(
    workspace: Workspace,
    *,
    limit: int | None = None,
    token: str | None = None,
    probes_from: str | None = None,
    tell: Callable[[Check], None] | None = None,
) -> None:
    """Look at what `run` needs, as ``hubprobe doctor`` does; raises `WorkspaceError` when something is missing."""
    from hubprobe.doctor import before_run
    from workspace.endpoint import token_for

    failed = []
    endpoint = workspace.config.endpoint
    secret = token_for(endpoint, token) or ""  # decided here: to name the endpoint again is not to let it have a token
    for found in before_run(workspace.root, endpoint=endpoint, token=secret, probes_from=probes_from, limit=limit):
        if tell is not None:
            tell(found)
        if found.state == "fail":
            failed.append(f"{found.check}: {found.found}; {found.advice}" if found.advice else found.found)
    if failed:
        raise WorkspaceError(f"nothing was crawled: {'. '.join(failed)}")


def sight(workspace: Workspace, *, token: str | None = None, progress: bool = True) -> Sight:
    """Return how the workspace's encoder sees images: what `build_probes` chooses by.

    Raises `HubError` when the encoder cannot be had, `WorkspaceError` when there is to be none.
    """
    import search

    encoder = search.load_choice(workspace, token=token)
    if encoder is None:
        raise WorkspaceError(
            "[search] encoder = 'none': nothing can say what images show, so only a sample can be drawn"
        )
    return search.sight(workspace, encoder, progress=progress)


def build_probes(
    workspace: Workspace,
    source: str | Path,
    *,
    cover: bool | None = None,
    token: str | None = None,
    progress: bool = True,
    dry_run: bool = False,
    **options: Any,
) -> ProbesSummary:
    """Build the probe set: `probing.probes.build`, of the images that cover the concept bank as the encoder sees them.

    With ``cover`` False a sample is drawn; when None they are chosen if the encoder can be had and sees these images. A
    ``dry_run`` chooses nothing. Other options are those of `probing.probes.build`.
    """
    from probing import probes

    seen = None
    if cover is not False and not dry_run and (cover or probes.has_choice(workspace, source, **options)):
        try:
            seen = sight(workspace, token=token, progress=progress)
        except HubprobeError as error:
            if cover:
                raise
            _LOG.warning("the probes are a random sample, for there is no encoder to choose by: %s", error)
    return probes.build(workspace, source, sight=seen, token=token, progress=progress, dry_run=dry_run, **options)


def ensure_probes(workspace: Workspace, source: str | None, *, token: str | None = None, progress: bool) -> None:
    """Build the probe set from ``source``, or from the configuration's, unless the workspace has one."""
    from probing import probes

    if (workspace.root / "probes" / "current.json").exists():
        return
    settings = workspace.config.probes
    place = probes.wanted(workspace, source, token=token)
    try:
        build_probes(
            workspace, place.source, n=settings.n, seed=settings.seed, split=place.split, token=token, progress=progress
        )
    except WorkspaceError as error:
        if source is not None:
            raise
        raise WorkspaceError(
            f"this workspace has no probe images, and those of its configuration cannot be had ({error}): name a "
            "folder of images, a Parquet file or a dataset with --probes-from"
        ) from error
