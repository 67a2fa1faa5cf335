"""The pipeline inside a process: while one model runs, the next is loaded and the last is written.

Three threads, with room for one model between each two: at most three models are in memory.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from probing.attempts import Attempt, as_model_error
from probing.model import single
from probing.settings import Settings
from workspace import ModelError, Status, Workspace

_log = logging.getLogger(__name__)

WINDOW = 3
"""Models in a process at once: one that is loaded, one that runs, one that is written."""


@dataclass
class Job:
    """One model to run: its attempt so far, its catalog row, and the folder of its files."""

    attempt: Attempt
    row: Mapping[str, Any]
    folder: Path
    prepared: Any = None  # a single.Prepared, between the first stage and the last
    outputs: Any = None  # a forward.Outputs, between the second and the last


class Stages:
    """Runs jobs through prepare, execute and store.

    Args:
        workspace: responses are written to it.
        settings: how models are run.
        watch: called with a job and each of its phases that begins, and with None when that is over.
        ended: called with a job when it has come to its end, which its attempt holds.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        watch: Callable[[Job, str | None], None],
        ended: Callable[[Job], None],
    ) -> None:
        self._workspace, self._settings = workspace, settings
        self._watch, self._ended = watch, ended
        self._queues: list[queue.Queue[Job | None]] = [queue.Queue(), queue.Queue(1), queue.Queue(1)]
        work = [("load", self._prepare), ("forward", self._execute), ("write", self._store)]
        self._threads = [
            threading.Thread(target=self._serve, args=(i, step), name=name, daemon=True)
            for i, (name, step) in enumerate(work)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Take a job; it ends through ``ended``, always."""
        job.attempt.watch = partial(self._watch, job)
        self._queues[0].put(job)

    def close(self) -> None:
        """Finish what was submitted and stop."""
        self._queues[0].put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self, place: int, step: Callable[[Job], None]) -> None:
        following = self._queues[place + 1] if place + 1 < len(self._queues) else None
        while (job := self._queues[place].get()) is not None:
            try:
                step(job)
            except ModelError as error:
                job.attempt.end(error)
            except Exception as error:  # noqa: BLE001 - an error of ours must not end the run: logged and booked
                job.attempt.end(as_model_error(error, Status.INTERNAL_ERROR))
            if "status" in job.attempt.fields or following is None:
                job.prepared = job.outputs = None
                self._ended(job)
            else:
                following.put(job)
        if following is not None:
            following.put(None)

    def _prepare(self, job: Job) -> None:
        job.prepared = single.prepare(self._workspace, job.folder, job.attempt, self._settings)

    def _execute(self, job: Job) -> None:
        job.outputs = single.execute(self._workspace, job.prepared, job.attempt, self._settings)

    def _store(self, job: Job) -> None:
        single.store(self._workspace, job.prepared, job.outputs, job.attempt, job.row, self._settings)
        job.attempt.ok()
