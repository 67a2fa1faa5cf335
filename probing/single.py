"""One model from its fetched folder to its responses file, in three stages: prepare, execute, store."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from probing import responses, subset
from probing.attempts import Attempt
from probing.checks import Caps
from probing.responses import Earlier
from probing.subset import Ids
from workspace import Workspace

if TYPE_CHECKING:
    from probing.forward import Outputs
    from probing.inputs import Inputs
    from probing.loading import Loaded

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
        max_parameters: cap of the workspace; so are max_labels and max_image_size (pixels).
        probes_per_model: probes each model is run on; ``n_probes`` for all.
        core: how many of them are common to all models.
        precision: ``float32``, or ``auto``: half precision where the device has it and the first batch agrees.
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
    probes_per_model: int
    core: int = 0
    precision: str = "auto"

    @property
    def caps(self) -> Caps:
        """The caps alone."""
        return Caps(self.max_parameters, self.max_labels, self.max_image_size)


@dataclass
class Prepared:
    """A model ready to run on ``probe_ids``; ``earlier`` holds what an earlier, smaller share left."""

    loaded: Loaded
    inputs: Inputs
    probe_ids: Ids
    earlier: Earlier | None
    seconds_left: float


def prepare(workspace: Workspace, folder: Path, attempt: Attempt, settings: Settings) -> Prepared:
    """Load the model in ``folder`` and its inputs; fill ``attempt`` with what became known. Raises `ModelError`."""
    import torch

    from probing import inputs, loading

    started = monotonic()
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
        # convolutions are quicker on channels-last memory; other layers do not mind
        loaded.module.to(settings.device).to(memory_format=torch.channels_last)
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
        wanted = subset.choose(
            settings.n_probes,
            settings.probes_per_model,
            fields["repo_id"],
            fields["sha"],
            settings.probe_set,
            settings.core,
        )
        earlier = responses.read_earlier(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet")
        if earlier is not None:
            missing = wanted[~np.isin(wanted, earlier.probe_ids)]
            if len(missing) and len(missing) < len(wanted):
                wanted = missing
            else:  # asked to run again what was run: nothing of the old is kept
                earlier = None
    return Prepared(loaded, prepared, wanted, earlier, settings.seconds_per_model - (monotonic() - started))


def execute(prepared: Prepared, attempt: Attempt, settings: Settings) -> Outputs:
    """Run the model; returns its outputs for ``prepared.probe_ids``. Raises `ModelError`."""
    from probing import forward

    with attempt.phase("forward"):
        outputs = forward.run(
            prepared.loaded.forward,
            prepared.inputs,
            prepared.probe_ids,
            num_labels=prepared.loaded.num_labels,
            batch_size=settings.batch_size,
            device=settings.device,
            threads=settings.threads,
            deadline=monotonic() + prepared.seconds_left,
            precision=settings.precision,
        )
        attempt.fields |= {
            "batch_size": outputs.batch_size,
            "dtype": outputs.dtype,
            "num_logits": outputs.raw.shape[1],
        }
    return outputs


def store(
    workspace: Workspace,
    prepared: Prepared,
    outputs: Outputs,
    attempt: Attempt,
    row: Mapping[str, Any],
    settings: Settings,
) -> None:
    """Write the responses, those of an earlier share included. Raises `ModelError`."""
    fields = attempt.fields
    with attempt.phase("write"):
        raw, ids = outputs.raw, prepared.probe_ids
        if prepared.earlier is not None:
            raw, ids = prepared.earlier.merged(raw, ids)
        table = responses.table(fields["repo_id"], fields["sha"], raw, ids, _labels(prepared.loaded.labels, row))
        fields["num_excluded"] = table.num_rows - table.column("excluded").null_count
        fields["probes_run"] = len(ids)
        responses.write(workspace.responses_dir(settings.probe_set) / f"{attempt.stem}.parquet", table, len(ids))
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
