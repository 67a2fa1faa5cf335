"""Run every eligible model on the probes: build the probe set, load safely, write responses and attempts.

Importing this package is cheap; torch and transformers are imported when a verb runs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probing import probes
    from probing.prober import probe
    from probing.probes import ProbesSummary
    from probing.report import ProbeSummary

__all__ = ["ProbeSummary", "ProbesSummary", "probe", "probes"]

_HOMES = {"ProbeSummary": "report", "ProbesSummary": "probes", "probe": "prober"}


def __getattr__(name: str) -> Any:
    if name == "probes":
        return import_module("probing.probes")
    if name in _HOMES:
        return getattr(import_module(f"probing.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'probing' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
