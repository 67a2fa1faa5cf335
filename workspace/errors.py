"""The errors hubprobe raises on purpose.

::

    HubprobeError
    ├── WorkspaceError          the folder, its configuration or its files are not what they should be
    │   ├── ConfigError         (also ValueError)
    │   ├── DamagedFileError    a file does not hold what was written to it
    │   ├── DiskError           (also OSError) the system refused to read or to write a file
    │   ├── MissingStepError    an earlier verb has to run first
    │   └── RemoteError         the workspace's remote refuses, cannot be reached, or holds what it should not
    ├── QueryError              (also ValueError) a search or filter that cannot be answered
    ├── HubError                the Hub as a whole cannot be used: listing refused, bad token
    └── ModelError              one model's end; `status` is the value that lands in the attempts table

Every message says what to do next. `ModelError` never stops a run: the rooms catch it and book its row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from workspace.status import Status

if TYPE_CHECKING:
    from pathlib import Path


class HubprobeError(Exception):
    """Base of every error raised on purpose."""


class WorkspaceError(HubprobeError):
    """The workspace folder or a file in it is not what it should be."""


class ConfigError(WorkspaceError, ValueError):
    """A setting in ``hubprobe.toml`` or on the command line is unknown or out of range."""


class DamagedFileError(WorkspaceError):
    """A file of the workspace does not hold what was written to it. ``path`` names it, ``why`` says what is wrong."""

    def __init__(self, path: Path, why: object, remedy: str) -> None:
        self.path, self.why = path, " ".join(str(why).split())  # Arrow ends some of its sentences in a line break
        super().__init__(f"{path} is damaged ({self.why}): {remedy}")


class DiskError(WorkspaceError, OSError):
    """The system refused to read or to write a file: nothing is wrong with what is in it. ``errno`` says why."""

    def __init__(self, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.errno = errno


class RemoteError(WorkspaceError):
    """The remote of a workspace refuses, cannot be reached, or holds what it should not."""


class MissingStepError(WorkspaceError):
    """A verb was asked for before the one it needs: what is ``missing``, and the ``verb`` that makes it."""

    def __init__(self, missing: str, verb: str) -> None:
        super().__init__(f"this workspace has no {missing} yet: run 'hubprobe {verb}' first")


class QueryError(HubprobeError, ValueError):
    """A query or a filter cannot be answered as asked."""


class HubError(HubprobeError):
    """The Hub cannot be used as a whole."""


class ModelError(HubprobeError):
    """One model, when known ``repo_id`` at ``sha``, came to an end that is not ``ok``.

    ``status`` is what lands in the attempts; ``reason`` a sentence about this very model, or the status's meaning.
    """

    def __init__(self, status: Status, reason: str = "", *, repo_id: str = "", sha: str = "") -> None:
        self.status, self.repo_id, self.sha = status, repo_id, sha
        self.reason = reason or status.meaning
        where = f"{repo_id}: " if repo_id else ""
        super().__init__(f"{where}{status.value}: {self.reason}")


for _error in (HubprobeError, *HubprobeError.__subclasses__(), *WorkspaceError.__subclasses__()):
    _error.__module__ = "hubprobe"  # where they are imported from, and what a traceback should say
