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
    for module in ("errors", "status", "config", "layout") if name in __all__ else ():  # the light ones first
        if hasattr(home := import_module(f"workspace.{module}"), name):
            value = globals()[name] = getattr(home, name)
            return value
    raise AttributeError(f"module 'workspace' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
