"""What a run records of itself: an id, versions, start and end, so that any row can be traced to what made it."""

from __future__ import annotations

import platform
import sys
from datetime import datetime, timezone
from importlib import metadata
from secrets import token_hex

from workspace.version import __version__

_LIBRARIES = (
    "accelerate", "duckdb", "huggingface_hub", "lancedb", "numpy", "pyarrow", "timm", "torch", "torchvision",
    "transformers",
)  # fmt: skip


def now() -> datetime:
    """Return the present moment in UTC."""
    return datetime.now(timezone.utc)


def new_run_id(verb: str) -> str:
    """Return a name for a run that sorts by time: ``20261122T235900Z-probe-1a2b``."""
    return f"{now():%Y%m%dT%H%M%SZ}-{verb}-{token_hex(2)}"


def versions() -> dict[str, str]:
    """Return the versions of hubprobe, Python and the libraries that shape results, without importing them."""
    found = {"hubprobe": __version__, "python": platform.python_version(), "platform": sys.platform}
    for name in _LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
