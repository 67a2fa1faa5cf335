"""hubprobe: find public image classifiers by what their outputs recognise.

>>> import hubprobe
>>> index = hubprobe.open("my-index")                                   # doctest: +SKIP
>>> index.search("dog").where("downloads > 1000").limit(10).to_pandas()  # doctest: +SKIP

Each verb of the command line is a function with the same name and meaning: `crawl`, `probe`, `complete`, `index`,
`evaluate`, `status`, `run`; the demo is `hubprobe.demo.run.demo`. Rooms are imported when first used, so that
``import hubprobe`` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from workspace.version import __version__

if TYPE_CHECKING:
    from completion import complete
    from crawler import crawl
    from hubprobe.front import open, probe, run, status  # noqa: A004 - as pathlib's and gzip's open
    from search import evaluate, index
    from workspace import HubprobeError, Workspace

_HOME = {
    "HubprobeError": "workspace",
    "Workspace": "workspace",
    "complete": "completion",
    "crawl": "crawler",
    "evaluate": "search",
    "index": "search",
    "open": "hubprobe.front",
    "probe": "hubprobe.front",
    "run": "hubprobe.front",
    "status": "hubprobe.front",
}

__all__ = [
    "HubprobeError",
    "Workspace",
    "__version__",
    "complete",
    "crawl",
    "evaluate",
    "index",
    "open",
    "probe",
    "run",
    "status",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'hubprobe' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
