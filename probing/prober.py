"""The verb: pull a model, fetch it, run it, book its end, until the queue is empty."""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

from probing import attempts, inflight, plan, subset
from probing.attempts import Attempt
from probing.child.runners import Child, InProcess, Runner
from probing.child.stages import Job
from probing.compaction import compact_attempts, compact_responses, mend, recover, set_holes_aside, split_responses
from probing.fetching import Fetching, Taken
from probing.group import Group
from probing.plan import Task
from probing.report import Bar, Log, ProbeSummary, summarise, write_manifest
from probing.settings import Settings, by_factors, in_words, make
from workspace import ConfigError, ModelError, Status, Workspace, WorkspaceError, runs
from workspace.files import write_table
from workspace.seams import Fetch

_log = logging.getLogger(__name__)


def probe(
    workspace: Workspace,
    fetch: Fetch,
    *,
    limit: int | None = None,
    retry: Collection[str] = (),
    batch_size: int | None = None,
    device: str | None = None,
    fraction: float | None = None,
    probes_per_model: int | None = None,
    core: int = 0,
    adaptive: bool = False,
    precision: str = "auto",
    deadlines: Mapping[str, float] | None = None,
    models: Collection[str] | None = None,
    run_id: str | None = None,
    progress: bool = True,
    isolate: bool = True,
) -> ProbeSummary:
    """Run every eligible model of the catalog that has not been run on the probe set in use.

    Call it in one process, or in each of several that accelerate launched together. What is committed is never run
    again; calling it after a kill goes on where the files say.

    Args:
        workspace: catalog, probes; responses and attempts are written to it.
        fetch: brings a model's files; the front door passes the crawler's.
        limit: run at most so many models, the most downloaded first.
        retry: statuses whose models are run again, such as ``("timeout", "crashed")``.
        batch_size: images in a forward pass. When None a CPU takes what `batches.for_cpu` says, at most the
            configuration's, and an accelerator what it measures. Part of what decides the last bits.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; what there is when None.
        fraction: run each model on this share of the probes, a random subset of its own; all when None. Raised
            later, only what is missing is run; so a call without it completes what was run in part.
        probes_per_model: the same, as a number of probes.
        core: how many of them are the same for all models.
        adaptive: choose the share: a tenth of all probes at random, then in four rounds those that the completion's
            factors expect some output to answer most strongly. All at random when there are no factors yet.
        precision: ``auto`` uses half precision on a GPU when the first batch agrees with float32; or ``float32``.
        deadlines: seconds that a phase (fetch, load, preprocess, forward, write) may take; `deadlines.DEFAULTS` for
            those not named.
        models: keep to these repositories.
        run_id: name of the run's manifest; made up when None.
        progress: show a bar on stderr.
        isolate: run models in a child process, so that a crash or a hang is the model's alone.

    Returns:
        Counts over the whole catalog (attempted = ok + skipped + failed) and figures of this run.

    Raises:
        MissingStepError: no catalog or no probe set yet.
        ConfigError: an unknown status in ``retry``, a size that is not positive, or ``adaptive`` without a share.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be positive, not {value}")
    if precision not in ("auto", "float32"):
        raise ConfigError(f"precision must be 'auto' or 'float32', not {precision!r}")
    if adaptive and fraction is None and probes_per_model is None:
        raise ConfigError("adaptive chooses a share of the probes: give a fraction, or a number of probes per model")
    plan.statuses(retry)
    started, started_at = perf_counter(), runs.now().isoformat()
    group = Group.join()
    probe_set = str(group.share("probe_set", workspace.probe_set if group.is_first else None))
    run = str(group.share("run_id", (run_id or runs.new_run_id("probe")) if group.is_first else None))
    common = {"probe_set": probe_set, "run_id": run, "config_hash": workspace.config.hash, "versions": runs.versions()}
    settings = make(workspace, group, probe_set, batch_size, device, deadlines)
    count = max(subset.size(settings.n_probes, fraction, probes_per_model), min(core, settings.n_probes))
    chosen = by_factors(workspace, settings) if adaptive else False
    settings = replace(settings, probes_per_model=count, core=core, precision=precision, adaptive=chosen)

    def report(**more: Any) -> ProbeSummary:
        summary = summarise(
            workspace,
            run,
            probe_set,
            seconds=perf_counter() - started,
            processes=group.size,
            device=settings.device,
            selection=in_words(settings, adaptive),
        )
        if group.is_first:
            told = asdict(settings) | {"isolate": isolate, "limit": limit} | more
            write_manifest(workspace, summary, started_at, told)
        return summary

    tasks = _tasks(workspace, group, probe_set, common, limit, retry, models, count)
    try:
        if tasks:
            _run_all(workspace, fetch, group, tasks, settings, common, progress=progress, isolate=isolate)
    except KeyboardInterrupt:  # what was done stands, and is told; the others are not waited for
        report(interrupted=True)
        raise
    group.done()
    if group.is_first:
        compact_attempts(workspace)
        compact_responses(workspace, probe_set)
    summary = report()
    group.leave()
    return summary


def _tasks(
    workspace: Workspace,
    group: Group,
    probe_set: str,
    common: Mapping[str, Any],
    limit: int | None,
    retry: Collection[str],
    models: Collection[str] | None,
    count: int,
) -> list[Task]:
    """Return the queue, the same for all processes; the first one makes it and books what is skipped."""
    made: list[list[Any]] | None = None
    if group.is_first:
        recover(workspace, probe_set)
        mend(workspace)
        todo = plan.make(
            workspace,
            probe_set,
            probes=count,
            limit=limit,
            retry=retry,
            models=models,
            **_without(common, "probe_set"),
        )
        if todo.skip:
            write_table(workspace.attempts_dir / f"skipped-{common['run_id']}.parquet", attempts.table(todo.skip))
        split_responses(workspace, probe_set, {(t.repo_id, t.sha) for t in todo.tasks})
        set_holes_aside(workspace, probe_set, todo.holes)
        made = [[t.repo_id, t.sha, t.number, t.deaths] for t in todo.tasks]
    return [Task(*task) for task in group.share("tasks", made)]


def _run_all(
    workspace: Workspace,
    fetch: Fetch,
    group: Group,
    tasks: list[Task],
    settings: Settings,
    common: Mapping[str, Any],
    *,
    progress: bool,
    isolate: bool,
) -> None:
    """Keep the fetchers and the runner busy, and book what ends, until the queue is empty. One thread decides."""
    events: queue.Queue[Any] = queue.Queue()
    runner: Runner = (Child if isolate else InProcess)(workspace, settings, events)
    rows = {(r["id"], r["sha"]): r for r in workspace.catalog().to_pylist()}
    bar = Bar(len(tasks), progress and group.is_first)
    log = Log(workspace, str(common["run_id"]), group.rank)

    def take() -> Taken | None:
        place = group.pull()
        if place >= len(tasks):
            return None
        task = tasks[place]
        attempt = Attempt(task.repo_id, task.sha, task.number, rank=group.rank, **common)
        return Taken(task, rows[task.repo_id, task.sha], attempt)

    fetching = Fetching(fetch, take, events, settings.deadline("fetch"))
    ready: deque[Taken] = deque()
    inside: dict[str, Taken] = {}

    def book(taken: Taken) -> None:
        _commit(workspace, taken)
        inside.pop(taken.attempt.stem, None)
        fetching.booked(taken)
        log.add(taken.attempt.fields)
        bar.add(taken.attempt.fields, group.booked())

    coming = True
    patience: float | None = 5.0
    try:
        while coming or ready or inside:
            while ready and runner.free() > 0 and _has_room(inside, ready[0], settings):
                taken = ready.popleft()
                inside[taken.attempt.stem] = taken
                inflight.put(workspace, taken.attempt.stem, taken.task.repo_id, taken.task.sha, taken.task.deaths)
                assert taken.fetched is not None
                runner.submit(Job(taken.attempt, taken.row, taken.fetched.folder))
            for hung in fetching.late():
                assert hung.error is not None
                hung.attempt.end(hung.error)
                book(hung)
            ended = runner.tick()
            try:
                event = events.get(timeout=1.0)
            except queue.Empty:
                pass
            else:
                if event is None:
                    coming = False
                elif isinstance(event, Exception):
                    raise event
                elif not isinstance(event, Taken):
                    ended += runner.handle(event)
                elif (error := event.error or _given_up(event.task)) is not None:
                    event.attempt.end(error)
                    book(event)
                else:
                    ready.append(event)
            for job in ended:
                book(inside[job.attempt.stem])
        patience = None  # all were fetched: there is nothing to wait for
    finally:  # also on Ctrl-C, which is no death
        for taken in [*inside.values(), *ready]:
            _let_go(workspace, taken)
        runner.close()
        fetching.stop(patience)
        bar.close()


def _has_room(inside: Mapping[str, Taken], wanted: Taken, settings: Settings) -> bool:
    """Return whether ``wanted`` and the models inside fit into memory together; one alone is let in, judged there."""
    return not inside or sum(map(_weights, [*inside.values(), wanted])) <= settings.memory_bytes


def _weights(taken: Taken) -> int:
    """Return the bytes of a model's weights as float32: files may hold half of that."""
    total = (taken.row["safetensors"] or {}).get("total") or 0
    return max(4 * int(total), int(taken.row["weights_bytes"] or 0))


def _given_up(task: Task) -> ModelError | None:
    if task.deaths < inflight.GIVE_UP_AFTER:
        return None
    reason = f"was being run each of the {task.deaths} times that the whole run ended in between"
    return ModelError(Status.CRASHED, f"{reason}; '--retry crashed' tries it again")


def _commit(workspace: Workspace, taken: Taken) -> None:
    """Write the row of a model that ended. A full disk ends the run instead: it is nothing the model did."""
    try:
        if taken.attempt.fields["status"] == Status.DISK_FULL.value:
            raise WorkspaceError(f"the disk is full ({taken.attempt.fields['reason']}): free space and run again")
        taken.attempt.commit(workspace)
    finally:
        _let_go(workspace, taken)


def _let_go(workspace: Workspace, taken: Taken) -> None:
    inflight.path_of(workspace, taken.attempt.stem).unlink(missing_ok=True)
    if taken.fetched is not None:
        taken.fetched.release()


def _without(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k != key}
