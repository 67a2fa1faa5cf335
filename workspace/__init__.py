"""What the four rooms share and nothing else: record schemas, folder layout, configuration, statuses and errors."""

from workspace.config import Config, CrawlConfig, ProbeConfig, ProbesConfig, SearchConfig
from workspace.errors import (
    ConfigError,
    HubError,
    HubprobeError,
    MissingStepError,
    ModelError,
    QueryError,
    WorkspaceError,
)
from workspace.layout import Workspace, model_file_name
from workspace.status import LabelQuality, Outcome, Status
from workspace.version import __version__

__all__ = [
    "Config",
    "ConfigError",
    "CrawlConfig",
    "HubError",
    "HubprobeError",
    "LabelQuality",
    "MissingStepError",
    "ModelError",
    "Outcome",
    "ProbeConfig",
    "ProbesConfig",
    "QueryError",
    "SearchConfig",
    "Status",
    "Workspace",
    "WorkspaceError",
    "__version__",
    "model_file_name",
]
