"""hubprobe: find public image classifiers by what their outputs recognise.

>>> import hubprobe
>>> index = hubprobe.open("my-index")                                   # doctest: +SKIP
>>> index.search("dog").where("downloads > 1000").limit(10).to_pandas()  # doctest: +SKIP

Each verb of the command line is a function with the same name and meaning: `crawl`, `probe`, `complete`, `index`,
`evaluate`, `status`, `run`, `use`, `compare`, `concepts`; its first argument is a workspace or the path of one. The
demo is `hubprobe.demo.run.demo`. Rooms are imported when first used, so that ``import hubprobe`` stays light.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING

from workspace.version import __version__

if TYPE_CHECKING:
    from typing import Any

    import completion
    import crawler
    import search
    from hubprobe import comparison, front, usage
    from hubprobe.front import concepts, open, status, taking_paths  # noqa: A004 - as pathlib's and gzip's open
    from search import Index, Query
    from workspace import (
        Config,
        ConfigError,
        DamagedFileError,
        DiskError,
        HubError,
        HubprobeError,
        MissingStepError,
        ModelError,
        QueryError,
        Workspace,
        WorkspaceError,
    )

    complete = taking_paths(completion.complete)
    crawl = taking_paths(crawler.crawl)
    evaluate = taking_paths(search.evaluate)
    index = taking_paths(search.index)
    probe = taking_paths(front.probe)
    compare = taking_paths(comparison.compare)
    run = taking_paths(front.run)
    use = taking_paths(usage.use)

_VERBS = {
    "compare": "hubprobe.comparison",
    "complete": "completion",
    "crawl": "crawler",
    "evaluate": "search",
    "index": "search",
    "probe": "hubprobe.front",
    "run": "hubprobe.front",
    "use": "hubprobe.usage",
}
_OTHERS = {**dict.fromkeys(("concepts", "open", "status"), "hubprobe.front"), "Index": "search", "Query": "search"}

__all__ = [
    "Config",
    "ConfigError",
    "DamagedFileError",
    "DiskError",
    "HubError",
    "HubprobeError",
    "Index",
    "MissingStepError",
    "ModelError",
    "Query",
    "QueryError",
    "Workspace",
    "WorkspaceError",
    "__version__",
    "compare",
    "complete",
    "concepts",
    "crawl",
    "evaluate",
    "index",
    "open",
    "probe",
    "run",
    "status",
    "use",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hubprobe' has no attribute {name!r}")
    home = _VERBS.get(name) or _OTHERS.get(name) or "workspace"
    value = getattr(_import_module(home), name)
    if name in _VERBS:
        value = _import_module("hubprobe.front").taking_paths(value, make=name in ("crawl", "run"))
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
