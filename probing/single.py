"""One model from its fetched folder to its responses file: load, preprocess, forward, write."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from probing import responses
from probing.attempts import Attempt, as_model_error
from probing.checks import Caps
from workspace import ModelError, Status, Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How models are run: plain values, because they also travel to a child process.

    Attributes:
        probe_set: the probes to run.
        n_probes: how many it holds.
        batch_size: images in a forward pass.
        device: a torch device.
        threads: batches run at once on a CPU.
        seconds_per_model: deadline of one model, all phases but fetching.
        max_parameters, max_labels, max_image_size: the workspace's caps.
    """

    probe_set: str
    n_probes: int
    batch_size: int
    device: str
    threads: int
    seconds_per_model: float
    max_parameters: int
    max_labels: int
    max_image_size: int

    @property
    def caps(self) -> Caps:
        """The caps alone."""
        return Caps(self.max_parameters, self.max_labels, self.max_image_size)


def run_model(workspace: Workspace, folder: Path, attempt: Attempt, row: Mapping[str, Any], settings: Settings) -> None:
    """Run the model in ``folder`` and write its responses; fill ``attempt`` with what became known.

    ``row`` is its catalog row, used only for labels that the folder does not give.

    Raises `ModelError` for every end but ``ok``.
    """
    import torch

    from probing import forward, inputs, loading

    deadline = monotonic() + settings.seconds_per_model
    fields = attempt.fields
    fields |= {"device": settings.device, "dtype": "float32", "probe_set": settings.probe_set}
    with attempt.phase("load"):
        loaded = loading.load(folder, settings.caps)
        fields |= {
            "parameters": loaded.parameters,
            "architecture": loaded.architecture,
            "num_logits": loaded.num_labels,
            "label_quality": loaded.label_quality,
            "problem_type": loaded.problem_type,
        }
    with attempt.phase("preprocess"):
        processor = loaded.processor()
        fields |= {
            "processor": processor.name,
            "processor_hash": processor.hash,
            "processor_source": processor.source,
        }
        prepared = inputs.prepare(
            workspace, settings.probe_set, processor, threads=settings.threads, max_edge=settings.max_image_size
        )
    probe_ids = np.arange(settings.n_probes, dtype=np.int32)
    with attempt.phase("forward"):
        # convolutions are quicker on channels-last memory; other layers do not mind
        loaded.module.to(settings.device).to(memory_format=torch.channels_last)
        outputs = forward.run(
            loaded.forward,
            prepared,
            probe_ids,
            num_labels=loaded.num_labels,
            batch_size=settings.batch_size,
            device=settings.device,
            threads=settings.threads,
            deadline=deadline,
        )
        fields |= {"batch_size": outputs.batch_size, "probes_run": len(probe_ids), "num_logits": outputs.raw.shape[1]}
    with attempt.phase("write"):
        table = responses.table(fields["repo_id"], fields["sha"], outputs.raw, probe_ids, _labels(loaded.labels, row))
        fields["num_excluded"] = table.num_rows - table.column("excluded").null_count
        responses.write(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet", table, len(probe_ids))
    fields["peak_memory_bytes"] = peak_memory(settings.device)


def run_to_end(
    workspace: Workspace, folder: Path, attempt: Attempt, row: Mapping[str, Any], settings: Settings
) -> None:
    """Run a model as `run_model` does and write its end, whatever it is, into ``attempt``."""
    try:
        run_model(workspace, folder, attempt, row, settings)
        attempt.ok()
    except ModelError as error:
        attempt.end(error)
    except Exception as error:  # noqa: BLE001 - an error of ours must not end the run: it is logged and booked
        _log.exception("%s: unexpected error", attempt.fields["repo_id"])
        attempt.end(as_model_error(error, Status.INTERNAL_ERROR))


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
