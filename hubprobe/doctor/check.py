"""What a check says, and what all checks are told."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from workspace.config import Config
from workspace.endpoint import checked
from workspace.errors import ConfigError
from workspace.layout import MARKER, Workspace
from workspace.text import printable

State = Literal["ok", "warn", "fail"]

NETWORK_SECONDS = 5.0
LEAST_BYTES = 2 * 10**9
"""A single large model and its cache of probes; a crawl wants ten times that and more."""


@dataclass(frozen=True)
class Check:
    """One row."""

    check: str  # what was looked at
    # ``ok``; ``warn``: works, but not as well as it could or not for long; ``fail``: some verb will not work
    state: State
    found: str  # what it is; from the Hub or a file it may be a stranger's text, so it is made printable here
    advice: str = ""  # what to do, a command where there is one; empty when nothing is to be done

    def __post_init__(self) -> None:
        object.__setattr__(self, "found", printable(self.found, 400))
        object.__setattr__(self, "advice", printable(self.advice, 400))


@dataclass(frozen=True)
class Setting:
    """What `examine` was asked for; see there."""

    root: Path
    endpoint: str | None
    token: str | None
    offline: bool
    seconds: float
    least_bytes: int
    is_run: bool = False  # whether a run is about to begin, which needs more than searching does
    probes_from: str | None = None
    limit: int | None = None
    # what one check found out and a later one need not ask again
    learned: dict[str, Any] = field(default_factory=dict, compare=False)

    @cached_property
    def own(self) -> Config:
        """The workspace's configuration; the defaults where there is none, or none that can be read."""
        try:
            return Config.load(self.root / MARKER)
        except (ConfigError, OSError):  # the workspace's own row says so
            return Config()

    @cached_property
    def workspace(self) -> Workspace:
        """The workspace as a verb would open it, whether or not its folder is there: nothing is written."""
        try:
            address = checked(self.endpoint or self.own.endpoint)
        except ConfigError:  # the row about the endpoint says so
            address = self.own.endpoint
        return Workspace(self.root, replace(self.own, endpoint=address))

    @property
    def has_workspace(self) -> bool:
        """Whether the folder is a workspace."""
        return (self.root / MARKER).is_file()

    @property
    def is_searchable(self) -> bool:
        """Whether there is an index: then searching needs no Hub."""
        return (self.root / "index" / "current.json").is_file()

    @property
    def bad(self) -> State:
        """What it is when something cannot be had that is needed for a run, and for no search."""
        return "warn" if self.is_searchable and not self.is_run else "fail"

    @property
    def is_asked(self) -> bool:
        """Whether the Hub may still be asked: nobody said not to, and it has not been silent before."""
        return not self.offline and not self.learned.get("silent")

    @property
    def is_named(self) -> bool:
        """Return whether somebody named a folder: then its absence is worth a warning."""
        return self.root != Path()

    def without_token(self, text: str) -> str:
        """Return ``text`` with the token, should a library have repeated it, taken out."""
        return text.replace(self.token, "[token]") if self.token else text
