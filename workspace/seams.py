"""The places where two rooms touch while running: what the prober needs of the crawler, and of search.

Rooms do not import each other, so the front door hands the prober the crawler's fetcher, which brings a model's files,
and search's encoder, which sees what images show, as these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Fetched:
    """A model's files, complete and verified against the hashes its repository states."""

    folder: Path  # holds exactly the files a probe needs (config, preprocessor, safetensors), by their own names
    bytes_fetched: int  # size of those files, whether or not they came from the cache
    seconds: float  # wall time of fetching and verifying
    release: Callable[[], None]  # call when the files are no longer needed; the fetcher may then delete them


class Fetch(Protocol):
    """Brings the files of one catalog row."""

    def __call__(self, row: Mapping[str, Any]) -> Fetched:
        """Fetch the files of ``row`` (a dict with the columns of `records.CATALOG`), pinned to ``row["sha"]``.

        Raises `ModelError` with the status that says what went wrong; never hands on a partial folder.
        """
        ...


@dataclass(frozen=True, eq=False)
class Sight:
    """How an encoder sees images beside a bank of concepts."""

    encoder: str  # its name
    commit: str  # its version
    concepts: tuple[str, ...]  # names of the bank
    texts: NDArray[np.float32]  # float32 ``[concepts, dim]``, their embeddings, of unit length
    # embeds pictures, given encoded and with their captions (or None), float32 ``[pictures, dim]`` of unit length; a
    # row of zeros is like nothing
    embed: Callable[[Sequence[bytes], Sequence[str | None]], NDArray[np.float32]]
