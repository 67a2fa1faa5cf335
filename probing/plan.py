"""What a run has to do: which rows are booked as skipped, which models are run in what order, and by which job."""

from __future__ import annotations

import logging
import os
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from probing import inflight
from probing.attempts import skipped
from workspace import ConfigError, Status, Workspace, model_file_name, runs

_log = logging.getLogger(__name__)

Key = tuple[str, str]
"""A model: repository and commit."""


@dataclass(frozen=True)
class Task:
    """One model to run: its catalog key, the number of this attempt, deaths of runs that had it in flight."""

    repo_id: str
    sha: str
    number: int
    deaths: int = 0


@dataclass(frozen=True)
class Plan:
    """``skip``: attempt rows to book at once. ``tasks``: models to run, largest first. ``done``: nothing to do.

    ``holes``: those of the tasks whose responses are gone or not what was committed, and why.
    """

    skip: list[dict[str, Any]]
    tasks: list[Task]
    done: int
    holes: dict[Key, str]


def statuses(names: Collection[str]) -> frozenset[str]:
    """Return ``names`` as values of the status enum; `ConfigError` names the unknown one."""
    known = {s.value for s in Status if s is not Status.ELIGIBLE}
    for name in names:
        if name not in known:
            raise ConfigError(f"--retry: '{name}' is no status; known: {', '.join(sorted(known))}")
    return frozenset(names)


def make(
    workspace: Workspace,
    probe_set: str,
    *,
    probes: int,
    limit: int | None,
    retry: Collection[str],
    models: Collection[str] | None,
    others: bool = False,
    **fields: Any,
) -> Plan:
    """Compare the catalog with the attempts.

    A model is done when its last attempt was made with this probe set, whatever its end, unless ``retry`` names that
    end, or its responses are not what that attempt committed. A repository that the catalog excludes is booked with the
    catalog's status and reason, once. ``limit`` takes the most downloaded of those still to be run. Order: largest
    weights first, so that no rank is left alone with a large one at the end; models that were in flight at two deaths
    of the run come last.

    A model that ran on fewer than ``probes`` is not done. With ``others``, independent jobs that share this crawl, what
    they run now comes last instead of being left to them. ``fields`` are columns common to the skipped rows; the rest
    is as `probing.probe` takes it.
    """
    wanted = statuses(retry)
    last = {(a["repo_id"], a["sha"]): a for a in workspace.attempts(_LAST).to_pylist()}
    holes = workspace.holes(probe_set)
    deaths, busy = inflight.recover(workspace, others=others)
    started = runs.now()
    skip: list[dict[str, Any]] = []
    runnable: list[tuple[Mapping[str, Any], Task]] = []
    done = 0
    for row in workspace.catalog(_COLUMNS).to_pylist():
        key: Key = (row["id"], row["sha"])
        if models is not None and row["id"] not in models and f"{row['id']}@{row['sha']}" not in models:
            continue
        before = last.get(key)
        number = before["attempt"] + 1 if before else 1
        if row["eligibility"] != Status.ELIGIBLE.value:
            if before is None or before["status"] != row["eligibility"]:
                skip.append(skipped(row, number, started, probe_set=probe_set, **fields))
            else:
                done += 1
        elif (key in busy and not others) or (
            before is not None and key not in holes and _is_done(before, probe_set, probes, wanted)
        ):
            done += 1
            if key in deaths:  # killed after its row was committed, before its mark went
                inflight.path_of(workspace, model_file_name(*key)).unlink(missing_ok=True)
        else:
            fresh = before is not None and before["status"] == Status.CRASHED.value  # asked for by --retry crashed
            runnable.append((row, Task(*key, number, 0 if fresh else deaths.get(key, 0))))
    if busy and not others:
        _log.warning("%d models are being run by another process in this workspace; they are left to it", len(busy))
    if limit is not None:
        runnable.sort(key=lambda pair: (-(pair[0]["downloads"] or 0), pair[1].repo_id))
        runnable = runnable[:limit]
    last_of_all = {
        task for _, task in runnable if task.deaths >= inflight.LAST_AFTER or (task.repo_id, task.sha) in busy
    }
    size = {task: row["weights_bytes"] or (row["safetensors"] or {}).get("total") or 0 for row, task in runnable}
    runnable.sort(key=lambda pair: (pair[1] in last_of_all, -int(size[pair[1]]), pair[1].repo_id))
    tasks = [task for _, task in runnable]
    again = {key: holes[key] for task in tasks if (key := (task.repo_id, task.sha)) in holes}
    for key, why in again.items():
        _log.warning("%s is run again: %s", key[0], why)
    return Plan(skip, tasks, done, again)


def _is_done(before: Mapping[str, Any], probe_set: str, probes: int, retry: Collection[str]) -> bool:
    if before["probe_set"] != probe_set or before["status"] in retry:
        return False
    tried = (before["probes_run"] or 0) + len(before["probes_refused"] or ())
    return bool(before["status"] != Status.OK.value or tried >= probes)


_LAST = ["repo_id", "sha", "attempt", "status", "probe_set", "probes_run", "probes_refused"]
_COLUMNS = [
    "id", "sha", "downloads", "weights_bytes", "safetensors", "eligibility", "reason", "label_quality", "problem_type",
]  # fmt: skip


AUTO = "auto"
"""Take the share from SLURM's variables of an array job."""

T = TypeVar("T", bound=Task)


@dataclass(frozen=True)
class Shard:
    """Job ``index``, from 0, of ``count``.

    Example:
        >>> Shard.parse("2/8")
        Shard(index=2, count=8)
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Shard:
        """Return the shard that ``I/N`` names, or ``auto`` for that of a SLURM array's task. Raises `ConfigError`."""
        if text == AUTO:
            first, task, count = (environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("MIN", "ID", "COUNT"))
            if task is None or count is None:
                raise ConfigError(
                    "--shard auto reads SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT, which are not set here: "
                    "write --shard I/N, I from 0 to N-1"
                )
            text = f"{int(task) - int(first or 0)}/{count}"
        found = re.fullmatch(r"(\d{1,7})/(\d{1,7})", text)
        if found is None or not int(found[1]) < int(found[2]):
            raise ConfigError(f"--shard {text}: write I/N, job I of N, I from 0 to N-1: 0/8 to 7/8")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def owns(self, repo_id: str, sha: str) -> bool:
        """Return whether a model is of this share: by its key alone, so that every job answers alike."""
        return int(model_file_name(repo_id, sha), 16) % self.count == self.index

    def order(self, tasks: Sequence[T]) -> list[T]:
        """Return ``tasks`` in this job's order: its own as they come, then the others', shuffled.

        Each job shuffles by its index: any common order would have all that are free run the same model. In the
        simulation (``benchmarks/scale``) shuffling repeats 6 % of the work where rotated or reversed shares triple it.
        """
        own, others = list[T](), list[T]()
        for task in tasks:
            (own if self.owns(task.repo_id, task.sha) else others).append(task)
        random.Random(self.index).shuffle(others)
        return own + others
