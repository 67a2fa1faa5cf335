"""One model from its fetched folder to its responses file, in three stages: prepare, execute, store.

Inside a process, while one model runs, the next is loaded and the last is written: three threads, with room for one
model between each two, so at most three models are in memory.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt

from probing import responses, subset
from probing.attempts import PHASES, Attempt, as_model_error
from probing.images import inputs
from probing.model import forward, loading, placement
from probing.responses import Earlier
from probing.settings import Settings
from probing.subset import Factors, Ids
from workspace import ModelError, Status, Workspace
from workspace.files import canonical_json


@dataclass(frozen=True)
class Share:
    """The probes of one model."""

    probe_ids: Ids  # to run first, ascending
    earlier: Earlier | None = None  # responses of an earlier, smaller share, which these add to
    factors: Factors | None = None  # by them ``to_choose`` further probes are chosen
    to_choose: int = 0
    random_ids: Ids | None = None  # of all, those drawn at random; None when all are
    # those of the share that cannot be prepared for the model, and are not run
    refused: Ids = field(default_factory=lambda: np.empty(0, np.int32))


def of_model(workspace: Workspace, attempt: Attempt, settings: Settings, outputs: int, refused: Ids) -> Share:
    """Return the share of the model of ``attempt``, which has so many ``outputs``.

    Probes ``refused`` cannot be prepared for it, and are not in it.
    """
    share = _random_share(workspace, attempt, settings, refused)
    if not settings.adaptive or settings.probes_per_model >= settings.n_probes:
        return share
    factors = subset.read_factors(workspace.factors_path(settings.probe_set), settings.probe_set, settings.n_probes)
    if factors is None:
        return share
    first = subset.at_random(settings.n_probes, settings.probes_per_model, outputs)
    random, done = _draw(attempt, settings, first), np.empty(0, np.int32)
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


WINDOW = 3
"""Models in a process at once: one that is loaded, one that runs, one that is written."""


@dataclass
class Job:
    """One model to run: its attempt so far, its catalog row, and the folder of its files.

    From the first stage to the last it has the model with its inputs and its share of the probes, and from the second
    on what it ``made`` of the probes ``ids``.
    """

    attempt: Attempt
    row: Mapping[str, Any]
    folder: Path
    loaded: Any = None  # a loading.Loaded
    inputs: Any = None  # an Inputs
    share: Share = field(default_factory=lambda: Share(np.empty(0, np.int32)))
    made: forward.Outputs | None = None
    ids: Ids = field(default_factory=lambda: np.empty(0, np.int32))

    def responses(self) -> tuple[npt.NDArray[np.float32], Ids]:
        """Return all responses known, those of an earlier share included, and their probes, ascending."""
        earlier, made = self.share.earlier, self.made
        if earlier is not None:
            none = np.empty((0, earlier.raw.shape[1]), np.float32)
            return earlier.merged(none if made is None else made.raw, self.ids)
        assert made is not None
        order = np.argsort(self.ids)
        return made.raw[order], self.ids[order]


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


def prepare(workspace: Workspace, settings: Settings, job: Job) -> None:
    """Load a model and its inputs; fill its attempt with what became known. Raises `ModelError`."""
    attempt, fields = job.attempt, job.attempt.fields
    fields |= {"device": settings.device, "dtype": "float32", "probe_set": settings.probe_set}
    fields["kernels"] = forward.kernels(settings.device)
    with _timed(attempt, settings, "load"):
        job.loaded = loaded = loading.load(job.folder, settings.caps)
        known = ("parameters", "architecture", "label_quality", "problem_type")
        fields |= {"num_logits": loaded.num_labels, **{name: getattr(loaded, name) for name in known}}
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
        job.inputs = ready = inputs.prepare(
            workspace, settings.probe_set, processor, threads=settings.threads, max_edge=settings.max_image_size
        )
        fields["input_dtype"] = str(ready.pixels.dtype)
        refused = np.array(sorted(ready.refused), np.int32)
        job.share = of_model(workspace, attempt, settings, loaded.num_labels, refused)
        if len(refused := job.share.refused):
            fields["probes_refused"] = refused.tolist()
            fields["refused_reason"] = ready.refused[int(refused[0])]


def execute(workspace: Workspace, settings: Settings, job: Job) -> None:
    """Run a model on its share of the probes, and on what is chosen by its responses. Raises `ModelError`."""
    share = job.share
    with _timed(job.attempt, settings, "forward") as seconds:
        more = partial(_run, workspace, settings, job, monotonic() + seconds)
        more(share.probe_ids)
        if share.factors is not None and share.random_ids is not None:
            for count in subset.rounds(share.to_choose):
                raw, ids = job.responses()
                more(subset.choose_next(share.factors, raw, ids, share.random_ids, count, share.refused))
        assert job.made is not None
        about = {name: getattr(job.made, name) for name in ("batch_size", "dtype", "half_error")}
        job.attempt.fields |= {**about, "num_logits": job.made.raw.shape[1]}


def _run(workspace: Workspace, settings: Settings, job: Job, deadline: float, ids: Ids) -> None:
    """Run a model on ``ids``, with the batch and the dtype of the first time, and add what it makes to the job."""
    if not len(ids):
        return
    loaded, memory = job.loaded, forward.Memory(workspace.cache_dir / "batches.json")
    fields, shape = job.attempt.fields, "x".join(map(str, job.inputs.shape))
    key = f"{fields['architecture']} {fields['parameters']} {shape} {fields['device']} {settings.precision}"
    precision, grow_to = settings.precision, 0
    if job.made is not None:
        batch, precision = job.made.batch_size, job.made.dtype
    elif job.inputs.one_at_a_time or settings.fixed_batch:
        batch = 1 if job.inputs.one_at_a_time else settings.batch_size
    elif settings.device == "cpu":
        batch = forward.for_cpu(job.inputs.shape, settings.batch_size)
    elif (known := memory.get(key)) is not None:
        batch = known
    else:
        batch, grow_to = DEVICE_BATCH, DEVICE_MOST
    limits = batch, settings.device, deadline, settings.max_labels
    work = forward.Work(loaded.forward, job.inputs, ids, loaded.num_labels, *limits)
    new = forward.run(work, threads=settings.threads, precision=precision, grow_to=grow_to)
    if grow_to and 2 * new.batch_size <= len(ids):  # else the knee may lie further on
        memory.put(key, new.batch_size)
    if job.made is not None:
        new = replace(job.made, raw=np.concatenate([job.made.raw, new.raw]), batch_size=new.batch_size)
    job.made, job.ids = new, np.concatenate([job.ids, ids])


def store(workspace: Workspace, settings: Settings, job: Job) -> None:
    """Write the responses, those of an earlier share included. Raises `ModelError`."""
    fields = job.attempt.fields
    with _timed(job.attempt, settings, "write"):
        raw, ids = job.responses()
        labels = _labels(job.loaded.labels, job.row)
        table = responses.table(fields["repo_id"], fields["sha"], raw, ids, labels, job.share.random_ids)
        fields["num_excluded"] = table.num_rows - table.column("excluded").null_count
        fields["probes_run"] = len(ids)
        responses.write(workspace.responses_dir(settings.probe_set) / f"{job.attempt.stem}.parquet", table)
    fields["peak_memory_bytes"] = peak_memory(settings.device)
    job.attempt.ok()


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


class Stages:
    """Runs jobs through prepare, execute and store.

    ``watch`` is called with a job and each of its phases that begins, and with None when that is over; ``ended`` with a
    job when it has come to its end, which its attempt holds.
    """

    def __init__(
        self,
        workspace: Workspace,
        settings: Settings,
        watch: Callable[[Job, str | None], None],
        ended: Callable[[Job], None],
    ) -> None:
        self._watch, self._ended = watch, ended
        self._queues: list[queue.Queue[Job | None]] = [queue.Queue(), queue.Queue(1), queue.Queue(1)]
        steps = [partial(step, workspace, settings) for step in (prepare, execute, store)]
        self._threads = [
            threading.Thread(target=self._serve, args=(i, step), name=name, daemon=True)
            for i, (name, step) in enumerate(zip(("load", "forward", "write"), steps, strict=True))
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
                job.loaded = job.inputs = job.made = None
                self._ended(job)
            else:
                following.put(job)
        if following is not None:
            following.put(None)
