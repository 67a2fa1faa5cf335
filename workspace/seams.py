"""The one place where two rooms touch while running: the prober asks for a model's files, the crawler brings them.

Rooms do not import each other, so the front door hands the crawler's fetcher to the prober through this protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Fetched:
    """A model's files, complete and verified against the hashes its repository states.

    Attributes:
        folder: holds exactly the files a probe needs (config, preprocessor, safetensors), by their own names.
        bytes_fetched: size of those files, whether or not they came from the cache.
        seconds: wall time of fetching and verifying.
        release: call when the files are no longer needed; the fetcher may then delete them.
    """

    folder: Path
    bytes_fetched: int
    seconds: float
    release: Callable[[], None]


class Fetch(Protocol):
    """Brings the files of one catalog row."""

    def __call__(self, row: Mapping[str, Any]) -> Fetched:
        """Fetch the files of ``row`` (a dict with the columns of `records.CATALOG`), pinned to ``row["sha"]``.

        Raises `ModelError` with the status that says what went wrong; never hands on a partial folder.
        """
        ...
