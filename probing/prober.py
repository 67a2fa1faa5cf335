"""The verb: pull a model, fetch it, run it, book its end, until the queue is empty."""

from __future__ import annotations

import logging
import queue
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from time import monotonic, perf_counter
from typing import Any

from probing import attempts, inflight, plan, subset
from probing.attempts import Attempt
from probing.child.runners import Child, InProcess
from probing.fetching import Fetching, Taken
from probing.group import Group, choose_device
from probing.model.single import Job
from probing.plan import Shard, Task
from probing.report import Bar, Log, ProbeSummary, summarise, write_manifest
from probing.responses import compact_attempts, compact_responses, mend, recover, set_holes_aside, split_responses
from probing.settings import Settings, by_factors, in_words, make
from workspace import ConfigError, ModelError, Status, Workspace, WorkspaceError, model_file_name, runs
from workspace.files import write_table
from workspace.locks import lock
from workspace.remote import Remote
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
    shard: str | None = None,
    remote: Remote | None = None,
    engine: Engine | None = None,
) -> ProbeSummary:
    """Run every eligible model of the catalog that has not been run on the probe set in use.

    Call it in one process, or in each of several that accelerate launched together. What is committed is never run
    again; calling it after a kill goes on where the files say.

    Args:
        workspace: catalog, probes; responses and attempts are written to it.
        fetch: brings a model's files; the front door passes the crawler's.
        limit: run at most so many models, the most downloaded first.
        retry: statuses whose models are run again, such as ``("timeout", "crashed")``.
        batch_size: images in a forward pass. When None a CPU takes what `forward.for_cpu` says, at most the
            configuration's, and an accelerator what it measures. Part of what decides the last bits.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; what there is when None.
        fraction: run each model on this share of the probes, a random subset of its own; all when None. Raised
            later, only what is missing is run; so a call without it completes what was run in part.
        probes_per_model: the same, as a number of probes.
        core: how many of them are the same for all models.
        adaptive: choose the share: some at random (`subset.at_random`), then in four rounds those that the completion's
            factors expect some output to answer most strongly. All at random when there are no factors yet.
        precision: ``auto`` uses half precision on a GPU when the first batch agrees with float32; or ``float32``.
        deadlines: seconds that a phase (fetch, load, preprocess, forward, write) may take; `settings.DEFAULTS` for
            those not named.
        models: keep to these repositories.
        run_id: name of the run's manifest; made up when None.
        progress: show a bar on stderr.
        isolate: run models in a child process, so that a crash or a hang is the model's alone.
        shard: ``I/N``, or ``auto`` in a SLURM array: this is one of N independent jobs, I from 0. It runs its own
            share of the models, by their keys, then those of the others that nobody has committed by then.
        remote: is sent every model as soon as it is committed.
        engine: runs the models elsewhere in place of this process.

    Returns:
        Counts over the whole catalog (attempted = ok + skipped + failed) and figures of this run.

    Raises:
        MissingStepError: no catalog or no probe set yet.
        ConfigError: an unknown status in ``retry``, a size that is not positive, ``adaptive`` without a share, or a
            shard that is none.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be positive, not {value}")
    if precision not in ("auto", "float32"):
        raise ConfigError(f"precision must be 'auto' or 'float32', not {precision!r}")
    if adaptive and fraction is None and probes_per_model is None:
        raise ConfigError("adaptive chooses a share of the probes: give a fraction, or a number of probes per model")
    plan.statuses(retry)
    part = None if shard is None else Shard.parse(shard)
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
            processes=group.count("processes", 0) or group.size,
            device=settings.device,
            selection=in_words(settings, adaptive),
            duplicates=group.count("duplicates", 0),
        )
        if group.is_first:
            told = asdict(settings) | {"isolate": isolate, "limit": limit, "shard": part and str(part)} | more
            write_manifest(workspace, summary, started_at, told)
        return summary

    wanted: dict[str, Any] = {"limit": limit, "retry": retry, "models": models, "probes": count}
    wanted["others"] = part is not None or engine is not None
    tasks, left = _tasks(workspace, group, probe_set, common, part, wanted)
    try:
        if tasks:
            settings = replace(settings, device=choose_device(device, group.local_rank))
            own = sum(part is None or part.owns(task.repo_id, task.sha) for task in tasks)
            bar = Bar(own, progress and group.is_first)
            log = Log(workspace, run, group.rank)
            work = _from_group(workspace, group, tasks, own, bar, log, remote if engine is None else None)
            try:
                if engine is None:
                    run_all(workspace, fetch, work, settings, common, isolate=isolate)
                else:
                    group.count("processes", engine(tasks, settings, common, _kept(workspace, work)))
            finally:
                bar.close()
    except KeyboardInterrupt:  # what was done stands, and is told; the others are not waited for
        report(interrupted=True)
        raise
    if remote is not None:  # before files are merged
        remote.close()
    group.done()
    if group.is_first:
        _tidy(workspace, probe_set, run, part, left)
    summary = report()
    group.leave()
    return summary


Told = Callable[[dict[str, Any], bool], None]


@dataclass(frozen=True)
class Work:
    """Where a process has its models from, and who is told how they end."""

    # returns the next one, or None when there is none; it may wait. Called by one thread at a time.
    take: Callable[[], Task | None]
    # called with the row of each attempt that ended here, and whether it was committed: another job may have been first
    told: Told
    is_done: Callable[[Task], bool]  # whether another job has committed a model meanwhile
    rank: int = 0  # the process's number


Engine = Callable[[Sequence[Task], Settings, Mapping[str, Any], Told], int]
"""Runs tasks on other machines, each by `run_all`, tells of each that ended, and returns how many processes took part.

It is given the settings of this machine, see `settings.here`, and columns of every attempt.
"""


def _kept(workspace: Workspace, work: Work) -> Told:
    """Return `Work.told` of an engine, whose rows may have been committed on other disks: they are kept here, too."""

    def told(fields: dict[str, Any], committed: bool) -> None:
        if committed:
            attempt = Attempt(fields["repo_id"], fields["sha"])
            attempt.fields = fields
            attempt.commit(workspace)
        work.told(fields, committed)

    return told


def is_booked(workspace: Workspace, remote: Remote | None, task: Task) -> bool:
    """Return whether anybody has committed a task's attempt, here or in the remote."""
    if attempts.path_of(workspace, task.repo_id, task.sha, task.number).exists():
        return True
    return remote is not None and remote.has((model_file_name(task.repo_id, task.sha), task.number))


def _from_group(
    workspace: Workspace,
    group: Group,
    tasks: Sequence[Task],
    own: int,
    bar: Bar,
    log: Log,
    remote: Remote | None,
) -> Work:
    """Return the work of one of the processes that share ``tasks``, the first ``own`` theirs, through their store."""

    def is_done(task: Task) -> bool:
        return is_booked(workspace, remote, task)

    def take() -> Task | None:
        while (place := group.pull()) < len(tasks):
            if not is_done(tasks[place]):
                return tasks[place]
            if place < own:  # others helped
                bar.show(group.count("booked"))
        return None

    def told(fields: dict[str, Any], committed: bool) -> None:
        group.count("duplicates", 0 if committed else 1)
        if committed and remote is not None:
            remote.committed((model_file_name(fields["repo_id"], fields["sha"]), fields["attempt"]))
        log.add(fields)
        bar.add(fields, group.count("booked"))

    return Work(take, told, is_done, group.rank)


def _tasks(
    workspace: Workspace,
    group: Group,
    probe_set: str,
    common: Mapping[str, Any],
    part: Shard | None,
    wanted: Mapping[str, Any],
) -> tuple[list[Task], list[dict[str, Any]]]:
    """Return the queue, the same for all processes; the first one makes it and books what is skipped.

    With it come the rows of skipped repositories of other shares, to be booked in the end if nobody else has.
    """
    made: list[list[Any]] | None = None
    left: list[dict[str, Any]] = []
    if group.is_first:
        with _one_at_a_time(workspace, part):
            recover(workspace, probe_set)
            mend(workspace)
            fields = {name: value for name, value in common.items() if name != "probe_set"}
            todo = plan.make(workspace, probe_set, **wanted, **fields)
            skip = [row for row in todo.skip if part is None or part.owns(row["repo_id"], row["sha"])]
            left = [row for row in todo.skip if part is not None and not part.owns(row["repo_id"], row["sha"])]
            _skip(workspace, str(common["run_id"]), skip)
            split_responses(workspace, probe_set, {(t.repo_id, t.sha) for t in todo.tasks})
            set_holes_aside(workspace, probe_set, todo.holes)
        tasks = todo.tasks if part is None else part.order(todo.tasks)
        made = [[t.repo_id, t.sha, t.number, t.deaths] for t in tasks]
    return [Task(*task) for task in group.share("tasks", made)], left


def _one_at_a_time(workspace: Workspace, part: Shard | None) -> AbstractContextManager[Any]:
    """Return what holds off the other jobs that share this disk while one plans."""
    if part is None:
        return nullcontext()
    workspace.attempts_dir.mkdir(parents=True, exist_ok=True)
    return lock(workspace.attempts_dir / ".lock", wait=True) or nullcontext()


def _skip(workspace: Workspace, name: str, rows: list[dict[str, Any]]) -> None:
    if rows:
        write_table(workspace.attempts_dir / f"skipped-{name}.parquet", attempts.table(rows))


def _tidy(workspace: Workspace, probe_set: str, run: str, part: Shard | None, left: list[dict[str, Any]]) -> None:
    """Merge small files; a job among others leaves them, and books what others should have skipped and did not."""
    if part is None:
        compact_attempts(workspace)
        compact_responses(workspace, probe_set)
    elif left:
        booked = {tuple(row.values()) for row in workspace.attempts(["repo_id", "sha", "attempt"]).to_pylist()}
        _skip(workspace, f"{run}-others", [r for r in left if (r["repo_id"], r["sha"], r["attempt"]) not in booked])


def run_all(
    workspace: Workspace,
    fetch: Fetch,
    work: Work,
    settings: Settings,
    common: Mapping[str, Any],
    *,
    isolate: bool,
) -> None:
    """Keep the fetchers and the runner busy, and book what ends, until there is no work. One thread decides."""
    events: queue.Queue[Any] = queue.Queue()
    runner = (Child if isolate else InProcess)(workspace, settings, events)
    rows = {(r["id"], r["sha"]): r for r in workspace.catalog().to_pylist()}

    def take() -> Taken | None:
        task = work.take()
        if task is None:
            return None
        attempt = Attempt(task.repo_id, task.sha, task.number, rank=work.rank, **common)
        return Taken(task, rows[task.repo_id, task.sha], attempt)

    fetching = Fetching(fetch, take, events, settings.deadline("fetch"))
    ready: deque[Taken] = deque()
    inside: dict[str, Taken] = {}

    def book(taken: Taken) -> None:
        committed = _commit(workspace, taken)
        inside.pop(taken.attempt.stem, None)
        fetching.booked(taken)
        work.told(taken.attempt.fields, committed)

    coming = True
    patience: float | None = 5.0
    beaten = monotonic()
    try:
        while coming or ready or inside:
            # one alone is let in, and judged there
            while (
                ready
                and runner.free() > 0
                and (not inside or sum(map(_weights, [*inside.values(), ready[0]])) <= settings.memory_bytes)
            ):
                taken = ready.popleft()
                if work.is_done(taken.task):  # while it was fetched
                    _let_go(workspace, taken)
                    fetching.booked(taken)
                    continue
                inside[taken.attempt.stem] = taken
                inflight.put(workspace, taken.attempt.stem, taken.task.repo_id, taken.task.sha, taken.task.deaths)
                assert taken.fetched is not None
                runner.submit(Job(taken.attempt, taken.row, taken.fetched.folder))
            for hung in fetching.late():
                assert hung.error is not None
                hung.attempt.end(hung.error)
                book(hung)
            ended = runner.tick()
            if monotonic() - beaten > inflight.BEAT_SECONDS:
                beaten = monotonic()
                inflight.touch(workspace, inside)
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


def _weights(taken: Taken) -> int:
    """Return the bytes of a model's weights as float32: files may hold half of that."""
    total = (taken.row["safetensors"] or {}).get("total") or 0
    return max(4 * int(total), int(taken.row["weights_bytes"] or 0))


def _given_up(task: Task) -> ModelError | None:
    if task.deaths < inflight.GIVE_UP_AFTER:
        return None
    reason = f"was being run each of the {task.deaths} times that the whole run ended in between"
    return ModelError(Status.CRASHED, f"{reason}; '--retry crashed' tries it again")


def _commit(workspace: Workspace, taken: Taken) -> bool:
    """Write the row of a model that ended, unless another job did; return whether it was written.

    A full disk ends the run instead: it is nothing the model did.
    """
    try:
        if taken.attempt.fields["status"] == Status.DISK_FULL.value:
            raise WorkspaceError(f"the disk is full ({taken.attempt.fields['reason']}): free space and run again")
        return taken.attempt.commit(workspace)
    finally:
        _let_go(workspace, taken)


def _let_go(workspace: Workspace, taken: Taken) -> None:
    inflight.path_of(workspace, taken.attempt.stem).unlink(missing_ok=True)
    if taken.fetched is not None:
        taken.fetched.release()
