"""What a check says, and what all checks are told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from workspace.text import printable

State = Literal["ok", "warn", "fail"]

NETWORK_SECONDS = 5.0
LEAST_BYTES = 2 * 10**9
"""A single large model and its cache of probes; a crawl wants ten times that and more."""


@dataclass(frozen=True)
class Check:
    """One row.

    Attributes:
        check: what was looked at.
        state: ``ok``; ``warn``: works, but not as well as it could or not for long; ``fail``: some verb will not work.
        found: what it is; from the Hub or a file it may be a stranger's text, so it is made printable here.
        advice: what to do, a command where there is one; empty when nothing is to be done.
    """

    check: str
    state: State
    found: str
    advice: str = ""

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

    @property
    def is_named(self) -> bool:
        """Return whether somebody named a folder: then its absence is worth a warning."""
        return self.root != Path()

    def without_token(self, text: str) -> str:
        """Return ``text`` with the token, should a library have repeated it, taken out."""
        return text.replace(self.token, "[token]") if self.token else text
