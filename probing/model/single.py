"""One model from its fetched folder to its responses file, in three stages: prepare, execute, store.

Inside a process, while one model runs, the next is loaded and the last is written: three threads, with room for one
model between each two, so at most three models are in memory.
"""

from __future__ import annotations

import logging
import math
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing import responses, subset
from probing.attempts import PHASES, Attempt, as_model_error
from probing.model import batches
from probing.responses import Earlier
from probing.settings import Settings
from probing.subset import Ids
from workspace import ModelError, Status, Workspace
from workspace.files import canonical_json

if TYPE_CHECKING:
    from probing.images.inputs import Inputs
    from probing.model.forward import Outputs
    from probing.model.loading import Loaded
    from probing.subset import Factors


@dataclass(frozen=True)
class Share:
    """The probes of one model.

    Attributes:
        probe_ids: to run first, ascending.
        earlier: responses of an earlier, smaller share, which these add to.
        factors: by them ``to_choose`` further probes are chosen.
        random_ids: of all, those drawn at random; None when all are.
        refused: those of the share that cannot be prepared for the model, and are not run.
    """

    probe_ids: Ids
    earlier: Earlier | None = None
    factors: Factors | None = None
    to_choose: int = 0
    random_ids: Ids | None = None
    refused: Ids = field(default_factory=lambda: np.empty(0, np.int32))

    def with_earlier(self, raw: npt.NDArray[np.float32], ids: Ids) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return responses ``raw`` to ``ids`` and those of the earlier share together, in ascending order of probes."""
        if self.earlier is not None:
            return self.earlier.merged(raw, ids)
        order = np.argsort(ids)
        return raw[order], ids[order]


def of_model(workspace: Workspace, attempt: Attempt, settings: Settings, refused: Ids) -> Share:
    """Return the share of the model of ``attempt``; probes ``refused`` cannot be prepared for it, and are not in it."""
    share = _random_share(workspace, attempt, settings, refused)
    if not settings.adaptive or settings.probes_per_model >= settings.n_probes:
        return share
    factors = subset.read_factors(workspace.factors_path(settings.probe_set), settings.probe_set, settings.n_probes)
    if factors is None:
        return share
    tenth = max(2, math.ceil(subset.RANDOM_SHARE * settings.n_probes))
    random, done = _draw(attempt, settings, min(settings.probes_per_model, tenth)), np.empty(0, np.int32)
    random = random[~np.isin(random, refused)]
    wanted = random
    if share.earlier is not None:
        done = share.earlier.probe_ids
        wanted = random[~np.isin(random, done)]
        drawn = done if share.earlier.random_ids is None else share.earlier.random_ids
        random = np.union1d(random, drawn).astype(np.int32)
    rest = max(0, settings.probes_per_model - len(done) - len(wanted))
    return Share(wanted, share.earlier, factors, rest, random, refused)


def _random_share(workspace: Workspace, attempt: Attempt, settings: Settings, refused: Ids) -> Share:
    drawn = _draw(attempt, settings, settings.probes_per_model)
    wanted, refused = drawn[~np.isin(drawn, refused)], refused[np.isin(refused, drawn)]
    earlier = responses.read_earlier(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet")
    missing = wanted if earlier is None else wanted[~np.isin(wanted, earlier.probe_ids)]
    if earlier is None or len(missing) == 0 or len(earlier.probe_ids) >= settings.probes_per_model:
        return Share(wanted, refused=refused)  # asked to run again what was run: nothing of the old is kept
    partial = len(missing) + len(earlier.probe_ids) < settings.n_probes
    return Share(missing, earlier, random_ids=earlier.random_ids if partial else None, refused=refused)


def _draw(attempt: Attempt, settings: Settings, count: int) -> Ids:
    key = attempt.fields["repo_id"], attempt.fields["sha"], settings.probe_set
    return subset.choose(settings.n_probes, count, *key, settings.core)


DEVICE_BATCH = 256
"""Images in the first batch on an accelerator, before it is grown: fewer leave a GPU idle between kernels."""

DEVICE_MOST = 4096
"""Most images in a batch on an accelerator."""


@dataclass
class Prepared:
    """A model ready to run on its share of the probes. ``probe_ids``: those it was run on, once it was."""

    loaded: Loaded
    inputs: Inputs
    share: Share
    probe_ids: Ids


@contextmanager
def _timed(attempt: Attempt, settings: Settings, name: str) -> Iterator[float]:
    """Run a phase and yield the seconds it may take: its own, or what the model has left. `ModelError` after more.

    Nothing here can stop a library in the middle; but what came too late is no result, whatever it is.
    """
    spent = sum(attempt.fields.get(f"seconds_{phase}", 0.0) for phase in PHASES if phase != "fetch")
    limit = min(settings.deadline(name), settings.seconds_per_model - spent)
    with attempt.phase(name):
        started = monotonic()
        yield limit
        if (taken := monotonic() - started) > limit:
            raise ModelError(Status.TIMEOUT, f"took {taken:.1f} s in {name}, where it had {max(limit, 0):.1f} s")


def prepare(workspace: Workspace, folder: Path, attempt: Attempt, settings: Settings) -> Prepared:
    """Load the model in ``folder`` and its inputs; fill ``attempt`` with what became known. Raises `ModelError`."""
    from probing.images import inputs
    from probing.model import forward, loading, placement

    fields = attempt.fields
    fields |= {"device": settings.device, "dtype": "float32", "probe_set": settings.probe_set}
    fields["kernels"] = forward.kernels(settings.device)
    with _timed(attempt, settings, "load"):
        loaded = loading.load(folder, settings.caps)
        fields |= {
            "parameters": loaded.parameters,
            "architecture": loaded.architecture,
            "num_logits": loaded.num_labels,
            "label_quality": loaded.label_quality,
            "problem_type": loaded.problem_type,
        }
        fields["device"] = placement.place(loaded.module, settings.device, lone=settings.lone)
    with _timed(attempt, settings, "preprocess"):
        processor = loaded.processor()
        fields |= {
            "processor": processor.name,
            "processor_hash": processor.hash,
            "processor_source": processor.source,
            "processor_assumed": processor.assumed or None,
            "processor_settings": canonical_json({"mode": processor.mode, **processor.settings}),
        }
        ready = inputs.prepare(
            workspace, settings.probe_set, processor, threads=settings.threads, max_edge=settings.max_image_size
        )
        fields["input_dtype"] = str(ready.pixels.dtype)
        share = of_model(workspace, attempt, settings, np.array(sorted(ready.refused), np.int32))
        if len(share.refused):
            fields["probes_refused"] = share.refused.tolist()
            fields["refused_reason"] = ready.refused[int(share.refused[0])]
    return Prepared(loaded, ready, share, share.probe_ids)


def execute(workspace: Workspace, prepared: Prepared, attempt: Attempt, settings: Settings) -> Outputs:
    """Run the model; returns its outputs for ``prepared.probe_ids``, which is set to all that were run.

    Raises `ModelError`.
    """
    share = prepared.share
    with _timed(attempt, settings, "forward") as seconds:
        run = _Runs(workspace, prepared, attempt, settings, seconds)
        if len(share.probe_ids):
            run.more(share.probe_ids)
        if share.factors is not None and share.random_ids is not None:
            for count in subset.rounds(share.to_choose):
                raw, ids = run.so_far()
                run.more(subset.choose_next(share.factors, raw, ids, share.random_ids, count, share.refused))
        assert run.made is not None
        prepared.probe_ids = run.ids
        attempt.fields |= {
            "batch_size": run.made.batch_size,
            "dtype": run.made.dtype,
            "half_error": run.made.half_error,
            "num_logits": run.made.raw.shape[1],
        }
    return run.made


class _Runs:
    """The forward passes of one model, on one set of probes after the other: ``made`` holds the outputs for ``ids``."""

    def __init__(
        self, workspace: Workspace, prepared: Prepared, attempt: Attempt, settings: Settings, seconds: float
    ) -> None:
        self.made: Outputs | None = None
        self.ids = np.empty(0, np.int32)
        self._prepared, self._settings = prepared, settings
        self._deadline = monotonic() + seconds
        self._memory = batches.Memory(workspace.cache_dir / "batches.json")
        fields, shape = attempt.fields, "x".join(map(str, prepared.inputs.shape))
        self._key = f"{fields['architecture']} {fields['parameters']} {shape} {fields['device']} {settings.precision}"

    def so_far(self) -> tuple[Any, Ids]:
        """Return all responses known, those of an earlier share included, and their probes, ascending."""
        share = self._prepared.share
        width = 0 if share.earlier is None else share.earlier.raw.shape[1]
        return share.with_earlier(np.empty((0, width), np.float32) if self.made is None else self.made.raw, self.ids)

    def more(self, ids: Ids) -> None:
        """Run the model on ``ids``, with the batch and the dtype of the first time."""
        from probing.model import forward

        if not len(ids):
            return
        batch, grow_to = self._batch() if self.made is None else (self.made.batch_size, 0)
        new = forward.run(
            self._prepared.loaded.forward,
            self._prepared.inputs,
            ids,
            num_labels=self._prepared.loaded.num_labels,
            max_labels=self._settings.max_labels,
            batch_size=batch,
            device=self._settings.device,
            threads=self._settings.threads,
            deadline=self._deadline,
            precision=self._settings.precision if self.made is None else self.made.dtype,
            grow_to=grow_to,
        )
        if grow_to and 2 * new.batch_size <= len(ids):  # else the knee may lie further on
            self._memory.put(self._key, new.batch_size)
        if self.made is not None:
            raw = np.concatenate([self.made.raw, new.raw])
            new = replace(self.made, raw=raw, batch_size=new.batch_size)
        self.made, self.ids = new, np.concatenate([self.ids, ids])

    def _batch(self) -> tuple[int, int]:
        """Return the images in the first batch, and how many it may grow to."""
        settings, shape = self._settings, self._prepared.inputs.shape
        if self._prepared.inputs.one_at_a_time:
            return 1, 0
        if settings.fixed_batch:
            return settings.batch_size, 0
        if settings.device == "cpu":
            return batches.for_cpu(shape, settings.batch_size), 0
        known = self._memory.get(self._key)
        return (known, 0) if known is not None else (DEVICE_BATCH, DEVICE_MOST)


def store(
    workspace: Workspace,
    prepared: Prepared,
    outputs: Outputs,
    attempt: Attempt,
    row: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Write the responses, those of an earlier share included. Raises `ModelError`."""
    fields, share = attempt.fields, prepared.share
    with _timed(attempt, settings, "write"):
        raw, ids = share.with_earlier(outputs.raw, prepared.probe_ids)
        labels = _labels(prepared.loaded.labels, row)
        table = responses.table(fields["repo_id"], fields["sha"], raw, ids, labels, share.random_ids)
        fields["num_excluded"] = table.num_rows - table.column("excluded").null_count
        fields["probes_run"] = len(ids)
        responses.write(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet", table)
    fields["peak_memory_bytes"] = peak_memory(settings.device)


def _labels(own: list[str] | None, row: Mapping[str, Any]) -> list[str] | None:
    if own is not None:
        return own
    listed = row.get("id2label")
    return [str(x)[:200] if x is not None else "" for x in listed] if listed else None


def peak_memory(device: str) -> int:
    """Return the peak memory of the device since the start, or of this process for a CPU, in bytes."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # pragma: no cover - Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


_log = logging.getLogger(__name__)

WINDOW = 3
"""Models in a process at once: one that is loaded, one that runs, one that is written."""


@dataclass
class Job:
    """One model to run: its attempt so far, its catalog row, and the folder of its files."""

    attempt: Attempt
    row: Mapping[str, Any]
    folder: Path
    prepared: Any = None  # a Prepared, between the first stage and the last
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
        job.prepared = prepare(self._workspace, job.folder, job.attempt, self._settings)

    def _execute(self, job: Job) -> None:
        job.outputs = execute(self._workspace, job.prepared, job.attempt, self._settings)

    def _store(self, job: Job) -> None:
        store(self._workspace, job.prepared, job.outputs, job.attempt, job.row, self._settings)
        job.attempt.ok()
