"""The verb: pull a model, fetch it, run it, book its end, until the queue is empty."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import pyarrow.parquet as pq

from probing import attempts, inflight, plan
from probing.attempts import Attempt
from probing.group import Group, choose_device, cpu_threads
from probing.plan import Task
from probing.report import Bar, ProbeSummary, summarise, write_manifest
from probing.single import Settings, run_to_end
from probing.worker import Child
from workspace import ConfigError, ModelError, Status, Workspace, runs
from workspace.files import write_table
from workspace.seams import Fetch, Fetched

_log = logging.getLogger(__name__)


class Runner(Protocol):
    """Runs one model to its end."""

    def run(self, attempt: Attempt, row: Mapping[str, Any], folder: Path) -> None:
        """Run the model in ``folder``; ``attempt`` holds its end."""
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


@dataclass
class InProcess:
    """Runs models in this very process: quick to start and easy to debug, but a model's crash is ours."""

    workspace: Workspace
    settings: Settings

    def run(self, attempt: Attempt, row: Mapping[str, Any], folder: Path) -> None:
        """Run the model in ``folder``; ``attempt`` holds its end."""
        run_to_end(self.workspace, folder, attempt, row, self.settings)

    def close(self) -> None:
        """Hold nothing."""


@dataclass
class _Taken:
    """A task with its files, or with the error that fetching them met."""

    task: Task
    row: Mapping[str, Any]
    attempt: Attempt
    fetched: Fetched | None
    error: ModelError | None


def probe(
    workspace: Workspace,
    fetch: Fetch,
    *,
    limit: int | None = None,
    retry: Collection[str] = (),
    batch_size: int | None = None,
    device: str | None = None,
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
        batch_size: images in a forward pass; the configuration's when None. Part of what decides the last bits.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``; what there is when None.
        models: keep to these repositories.
        run_id: name of the run's manifest; made up when None.
        progress: show a bar on stderr.
        isolate: run models in a child process, so that a crash or a hang is the model's alone.

    Returns:
        Counts over the whole catalog (attempted = ok + skipped + failed) and figures of this run.

    Raises:
        MissingStepError: no catalog or no probe set yet.
        ConfigError: an unknown status in ``retry``, or a size that is not positive.
    """
    for name, value in (("limit", limit), ("batch_size", batch_size)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be positive, not {value}")
    plan.statuses(retry)
    started, started_at = perf_counter(), runs.now().isoformat()
    group = Group.join()
    probe_set = str(group.share("probe_set", workspace.probe_set if group.is_first else None))
    run = str(group.share("run_id", (run_id or runs.new_run_id("probe")) if group.is_first else None))
    common = {"probe_set": probe_set, "run_id": run, "config_hash": workspace.config.hash, "versions": runs.versions()}
    tasks = _tasks(workspace, group, probe_set, common, limit, retry, models)
    settings = _settings(workspace, group, probe_set, batch_size, device)
    if tasks:
        _run_all(workspace, fetch, group, tasks, settings, common, progress=progress, isolate=isolate)
    group.done()
    summary = summarise(
        workspace,
        run,
        probe_set,
        seconds=perf_counter() - started,
        processes=group.size,
        device=settings.device,
    )
    if group.is_first:
        write_manifest(workspace, summary, started_at, asdict(settings) | {"isolate": isolate, "limit": limit})
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
) -> list[Task]:
    """Return the queue, the same for all processes; the first one makes it and books what is skipped."""
    made: list[list[Any]] | None = None
    if group.is_first:
        todo = plan.make(workspace, probe_set, limit=limit, retry=retry, models=models, **_without(common, "probe_set"))
        if todo.skip:
            write_table(workspace.attempts_dir / f"skipped-{common['run_id']}.parquet", attempts.table(todo.skip))
        made = [[t.repo_id, t.sha, t.number, t.deaths] for t in todo.tasks]
    return [Task(*task) for task in group.share("tasks", made)]


def _settings(
    workspace: Workspace, group: Group, probe_set: str, batch_size: int | None, device: str | None
) -> Settings:
    path = workspace.probes_dir(probe_set) / "probes.parquet"
    caps, config = workspace.config.crawl, workspace.config.probe
    return Settings(
        probe_set=probe_set,
        n_probes=pq.read_metadata(path).num_rows,
        batch_size=batch_size or config.batch_size,
        device=choose_device(device, group.local_rank),
        threads=cpu_threads(group.local_size),
        seconds_per_model=config.seconds_per_model,
        max_parameters=caps.max_parameters,
        max_labels=caps.max_labels,
        max_image_size=caps.max_image_size,
    )


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
    rows = {(r["id"], r["sha"]): r for r in workspace.catalog().to_pylist()}
    runner: Runner = Child(workspace, settings) if isolate else InProcess(workspace, settings)
    bar = Bar(len(tasks), progress and group.is_first)

    def take() -> _Taken | None:
        place = group.pull()
        if place >= len(tasks):
            return None
        task = tasks[place]
        row = rows[task.repo_id, task.sha]
        attempt = Attempt(task.repo_id, task.sha, task.number, rank=group.rank, **common)
        return _fetch(fetch, task, row, attempt)

    # one model ahead: while one runs, the next is fetched
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as ahead:
        try:
            coming = ahead.submit(take)
            while (taken := coming.result()) is not None:
                coming = ahead.submit(take)
                _run_one(workspace, runner, taken)
                bar.add(taken.attempt.fields, group.booked())
        finally:
            runner.close()
            bar.close()


def _fetch(fetch: Fetch, task: Task, row: Mapping[str, Any], attempt: Attempt) -> _Taken:
    try:
        if task.deaths >= inflight.GIVE_UP_AFTER:
            reason = f"was being run each of the {task.deaths} times that the whole run ended in between"
            raise ModelError(Status.CRASHED, f"{reason}; '--retry crashed' tries it again")
        with attempt.phase("fetch"):
            fetched = fetch(row)
        attempt.fields["bytes_fetched"] = fetched.bytes_fetched
    except ModelError as error:
        return _Taken(task, row, attempt, None, error)
    return _Taken(task, row, attempt, fetched, None)


def _run_one(workspace: Workspace, runner: Runner, taken: _Taken) -> None:
    """Run one model and commit its row. Its mark stays only if this process dies in between."""
    attempt, task = taken.attempt, taken.task
    mark = inflight.path_of(workspace, attempt.stem)
    try:
        if taken.error is not None:
            attempt.end(taken.error)
        else:
            assert taken.fetched is not None
            inflight.put(workspace, attempt.stem, task.repo_id, task.sha, task.deaths)
            runner.run(attempt, taken.row, taken.fetched.folder)
        attempt.commit(workspace)
    finally:  # also on Ctrl-C, which is no death
        mark.unlink(missing_ok=True)
        if taken.fetched is not None:
            taken.fetched.release()


def _without(fields: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in fields.items() if k != key}
