"""How long each phase of a model may take before it is stopped."""

from __future__ import annotations

from collections.abc import Mapping

from probing.attempts import PHASES
from workspace import ConfigError

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
