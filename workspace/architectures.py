"""What transformers and timm can build: names only, asked of the installed libraries in a process of their own.

Importing both takes seconds and 700 MB, which a crawl of a million rows has no other use for; the answer is kept in the
workspace's cache under the libraries' versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from workspace.errors import HubError
from workspace.files import read_json, short_hash, write_json

_SECONDS = 300  # for a cold import on a busy machine
_NOT_HERE = frozenset({"shieldgemma2"})
"""In transformers' mapping, but a language model that answers policies, not a classifier with outputs of its own."""


@dataclass(frozen=True)
class Architectures:
    """Names of what can be built."""

    classifiers: dict[str, frozenset[str]]  # classes of image classifiers by transformers' ``model_type``
    zero_shot: dict[str, frozenset[str]]  # classes of zero-shot image-text models by ``model_type``
    model_types: frozenset[str]  # every ``model_type`` transformers knows
    timm: frozenset[str]  # every model name timm knows, old ones included

    @classmethod
    def load(cls, folder: Path) -> Architectures:
        """Return what the installed versions know, asking them once per cache folder. Raises `HubError`."""
        versions = [f"{name}-{metadata.version(name)}" for name in ("transformers", "timm")]
        path = folder / f"architectures-{short_hash('+'.join(versions))}.json"
        if not path.exists():
            imported = _here.cache_info().currsize > 0  # by this process, so that no other need be asked
            write_json(path, names() if imported else _ask())
        return cls.of(read_json(path))

    @classmethod
    def here(cls) -> Architectures:
        """Return what the installed versions know, in a process that imports them anyway."""
        return _here()

    @classmethod
    def of(cls, names: dict[str, Any]) -> Architectures:
        """Return the names as the function `names` gives them."""
        return cls(
            classifiers={k: frozenset(v) for k, v in names["classifiers"].items() if k not in _NOT_HERE},
            zero_shot={k: frozenset(v) for k, v in names["zero_shot"].items()},
            model_types=frozenset(names["model_types"]),
            timm=frozenset(names["timm"]),
        )

    def knows_timm(self, architecture: str) -> bool:
        """Return whether timm can build ``architecture``; a pretrained tag after a dot does not matter."""
        return architecture.partition(".")[0] in self.timm


@cache
def _here() -> Architectures:
    return Architectures.of(names())


def lazy(folder: Path) -> Callable[[], Architectures]:
    """Return a function that asks transformers and timm when it is first called, once, whichever thread calls it."""
    lock = threading.Lock()
    known: list[Architectures] = []

    def ask() -> Architectures:
        with lock:
            if not known:
                known.append(Architectures.load(folder))
            return known[0]

    return ask


def names() -> dict[str, Any]:
    """Ask the installed libraries, in this process."""
    import timm
    from timm.models import _registry
    from transformers.models.auto import configuration_auto, modeling_auto

    def classes(mapping: str) -> dict[str, list[str]]:
        table = getattr(modeling_auto, mapping)
        return {k: [v] if isinstance(v, str) else list(v) for k, v in table.items()}

    known: Any = configuration_auto
    return {
        "classifiers": classes("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
        "zero_shot": classes("MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES"),
        "model_types": sorted(known.CONFIG_MAPPING_NAMES),
        "timm": sorted({*timm.list_models(), *getattr(_registry, "_deprecated_models", {})}),
    }


def _ask() -> Any:
    command = [sys.executable, "-m", "workspace.architectures"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
        return json.loads(done.stdout)
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise HubError(
            f"cannot ask transformers and timm which models they know: {said.strip()[-500:]}; "
            "check that both import in this environment"
        ) from error


if __name__ == "__main__":
    json.dump(names(), sys.stdout)
