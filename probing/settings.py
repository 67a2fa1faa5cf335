"""How models are run: what the parent decides once and the process that runs models is told."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from probing.attempts import PHASES
from probing.group import Group, choose_device, cpu_threads
from probing.model.loading import Caps
from probing.model.placement import host_memory
from probing.subset import read_factors
from workspace import ConfigError, Workspace
from workspace.files import num_rows

_log = logging.getLogger(__name__)

MEMORY_SHARE = 0.8
"""Share of this machine's memory that all processes' weights and outputs may take together."""


@dataclass(frozen=True)
class Settings:
    """How models are run: plain values, because they also travel to a child process."""

    probe_set: str  # the probes to run
    n_probes: int  # how many it holds
    batch_size: int  # most images in a forward pass
    device: str  # a torch device; as it was asked for, or ``auto``, until there is a model to run
    threads: int  # batches run at once on a CPU
    seconds_per_model: float  # deadline of one model, all phases but fetching
    max_parameters: int  # cap of the workspace; so are max_labels and max_image_size (pixels)
    max_labels: int
    max_image_size: int
    probes_per_model: int  # probes each model is run on; ``n_probes`` for all
    core: int = 0  # how many of them are common to all models
    # ``float32``, or ``auto``: half precision where the device has it and the first batch agrees
    precision: str = "auto"
    fixed_batch: bool = False  # exactly so many
    # seconds that each phase may take; `seconds_per_model` where it is not named
    deadlines: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 2**63 - 1  # memory of this process: its share of the machine's
    lone: bool = False  # no other process of the run is on this host, so all its devices are this one's
    adaptive: bool = False  # choose which probes a model is run on by the completion's factors, after a random share

    @property
    def caps(self) -> Caps:
        """The caps alone."""
        limits = self.max_parameters, self.max_labels, self.max_image_size
        return Caps(*limits, self.memory_bytes, self.probes_per_model)

    def deadline(self, phase: str) -> float:
        """Return the seconds that ``phase`` may take."""
        return self.deadlines.get(phase, self.seconds_per_model)


def make(
    workspace: Workspace,
    group: Group,
    probe_set: str,
    batch_size: int | None,
    device: str | None,
    deadlines: Mapping[str, float] | None,
) -> Settings:
    """Return how this process runs models on all probes: by the arguments, the configuration and the machine."""
    path = workspace.probes_dir(probe_set) / "probes.parquet"
    caps, config = workspace.config.crawl, workspace.config.probe
    n_probes = num_rows(path)
    return Settings(
        probe_set=probe_set,
        n_probes=n_probes,
        probes_per_model=n_probes,
        batch_size=batch_size or config.batch_size,
        fixed_batch=batch_size is not None,
        device=device or "auto",
        **_of_machine(group),
        seconds_per_model=config.seconds_per_model,
        deadlines=of_phases(deadlines, config.seconds_per_model),
        max_parameters=caps.max_parameters,
        max_labels=caps.max_labels,
        max_image_size=caps.max_image_size,
    )


def here(settings: Settings, peers: int, device: str | None) -> Settings:
    """Return settings that were made on another machine as they are on this one, which ``peers`` processes share."""
    return replace(settings, **_of_machine(Group(0, 1, 0, peers)), device=choose_device(device, 0))


def _of_machine(group: Group) -> dict[str, Any]:
    return {
        "threads": cpu_threads(group.local_size),
        "memory_bytes": int(MEMORY_SHARE * host_memory() / group.local_size),
        "lone": group.local_size == 1,
    }


def by_factors(workspace: Workspace, settings: Settings) -> bool:
    """Return whether there are factors to choose probes by; they are read here so that damage ends the run at once."""
    path = workspace.factors_path(settings.probe_set)
    if read_factors(path, settings.probe_set, settings.n_probes) is not None:
        return True
    _log.warning("there are no factors to choose probes by (%s): they are drawn at random", path.name)
    return False


def in_words(settings: Settings, adaptive: bool) -> str:
    """Return which probes are run: all, or how the share is chosen, and why it is not as asked."""
    if settings.probes_per_model >= settings.n_probes:
        return "all"
    if adaptive and not settings.adaptive:
        return "random, because there were no factors to choose by: run 'hubprobe complete' first"
    return "adaptive" if settings.adaptive else "random"


# ── how long each phase of a model may take before it is stopped ──────────────────────────────────────────────────────
DEFAULTS = {"fetch": 3600.0, "load": 900.0, "preprocess": 1800.0, "forward": 1800.0, "write": 600.0}
"""Seconds, generous: 8 GB at 2.5 MB/s; a model of 2 billion parameters from a network disk; the first model of a
geometry makes the pixels of all probes; 200,000 outputs of 4,000 probes are 1.6 GB of Parquet. Their sum, fetching
aside, has a bound of its own: ``[probe] seconds_per_model``."""


def of_phases(given: Mapping[str, float] | None, seconds_per_model: float) -> dict[str, float]:
    """Return the deadline of every phase in seconds; ``given`` replaces the default of those it names.

    Raises `ConfigError` for a phase that there is not, or a time that is not positive.
    """
    for name, seconds in (given or {}).items():
        if name not in PHASES:
            raise ConfigError(f"there is no phase '{name}' to have a deadline: {', '.join(PHASES)}")
        if not seconds > 0:
            raise ConfigError(f"the deadline of '{name}' must be positive, not {seconds}")
    return DEFAULTS | {"forward": seconds_per_model} | dict(given or {})
