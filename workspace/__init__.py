"""What the four rooms share and nothing else: record schemas, folder layout, configuration, statuses and errors.

Names are imported when first used: the command line's help needs none of the Arrow machinery behind them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workspace.version import __version__

if TYPE_CHECKING:
    from workspace.config import Config, CrawlConfig, ProbeConfig, ProbesConfig, ReleaseConfig, SearchConfig
    from workspace.errors import (
        ConfigError,
        DamagedFileError,
        DiskError,
        HubError,
        HubprobeError,
        MissingStepError,
        ModelError,
        QueryError,
        WorkspaceError,
    )
    from workspace.layout import Workspace, model_file_name
    from workspace.status import LabelQuality, Outcome, Status

_NAMES = {
    "config": ("Config", "CrawlConfig", "ProbeConfig", "ProbesConfig", "ReleaseConfig", "SearchConfig"),
    "errors": (
        "ConfigError", "DamagedFileError", "DiskError", "HubError", "HubprobeError", "MissingStepError",
        "ModelError", "QueryError", "WorkspaceError",
    ),
    "layout": ("Workspace", "model_file_name"),
    "status": ("LabelQuality", "Outcome", "Status"),
}  # fmt: skip
_HOME = {name: f"workspace.{module}" for module, names in _NAMES.items() for name in names}

__all__ = [
    "Config",
    "ConfigError",
    "CrawlConfig",
    "DamagedFileError",
    "DiskError",
    "HubError",
    "HubprobeError",
    "LabelQuality",
    "MissingStepError",
    "ModelError",
    "Outcome",
    "ProbeConfig",
    "ProbesConfig",
    "QueryError",
    "ReleaseConfig",
    "SearchConfig",
    "Status",
    "Workspace",
    "WorkspaceError",
    "__version__",
    "model_file_name",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'workspace' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOME[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
