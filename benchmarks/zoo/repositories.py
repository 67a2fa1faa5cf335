"""A model as a repository has it, with random weights that make outputs differ from picture to picture."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

SIZES = ((320, 240), (180, 500), (96, 64), (256, 256), (500, 180), (240, 320), (200, 150), (640, 480), (333, 221))
"""Width and height of the pictures, in pixels: each shape asks another thing of resizing and cropping."""

Oracle = Callable[[Path, list[Image.Image]], "np.ndarray[Any, Any]"]
"""From a repository's folder and the pictures to what the library itself answers: float [pictures, outputs]."""


@dataclass(frozen=True)
class Case:
    """One repository.

    Attributes:
        name: of the repository.
        write: writes its files to a folder.
        oracle: asks the library itself.
        ends: the status it must end in; None: ``ok`` where the library runs it, and anything else where it does not.
        why: for a case that must end otherwise, the reason in words.
        of: what of the library it is, such as a class or a module.
        exactly: asks the library in float64, where there is a way: what float32 makes of it is then known.
    """

    name: str
    write: Callable[[Path], None]
    oracle: Oracle | None
    ends: str | None = None
    why: str = ""
    of: str = ""
    exactly: Oracle | None = None


def pictures(count: int) -> list[bytes]:
    """Return smooth coloured pictures with some noise as PNG files, of the first of `SIZES`: nobody's photographs."""
    random = np.random.default_rng(0)
    made = []
    for width, height in SIZES[:count]:
        coarse = Image.fromarray(random.integers(0, 256, (7, 9, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        noisy = smooth + random.normal(0, 12, smooth.shape)
        buffer = io.BytesIO()
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "PNG")
        made.append(buffer.getvalue())
    return made


def enliven(model: nn.Module, run: Callable[[torch.Tensor], Any], size: Iterable[int], seed: int = 0) -> None:
    """Give a model random weights with which each layer keeps the scale of what comes in, so that outputs differ.

    What libraries begin with makes nearly constant outputs: residual branches scaled by 1e-6, heads of zeros, batch
    norms that have seen nothing. ``run`` is called with such pictures as ours, of ``size`` [channels, height, width],
    to set the statistics of those.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: torch.Size, deviation: float, mean: float = 0.0) -> torch.Tensor:
        return torch.randn(shape, generator=generator) * deviation + mean

    norms = {id(m.weight) for m in model.modules() if "Norm" in type(m).__name__ and _tensor(m, "weight")}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            last = name.rpartition(".")[2]
            if id(parameter) in norms:
                parameter.copy_(draw(parameter.shape, 0.1, 1.0))
            elif last == "bias":
                parameter.copy_(draw(parameter.shape, 0.1))
            elif parameter.ndim >= 2 and last == "weight":
                parameter.copy_(draw(parameter.shape, float(np.prod(parameter.shape[1:])) ** -0.5))
            elif any(word in last for word in ("gamma", "scale", "lambda", "gain", "alpha")):
                parameter.copy_(draw(parameter.shape, 0.1, 0.5))
            elif parameter.ndim >= 2:
                parameter.copy_(draw(parameter.shape, 0.3))
        batch_norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if batch_norms:
            for module in batch_norms:
                module.reset_running_stats()
                module.momentum = None  # the plain mean of all that is seen
            model.eval()
            for module in batch_norms:
                module.train()
            channels, *edges = size
            coarse = torch.randn((6, channels, 7, 7), generator=generator)
            smooth = nn.functional.interpolate(coarse, tuple(edges), mode="bicubic")
            run(smooth + torch.randn(smooth.shape, generator=generator) / 5)
            for module in batch_norms:
                module.momentum = 0.1
    model.eval()


def _tensor(module: nn.Module, name: str) -> bool:
    return isinstance(getattr(module, name, None), torch.Tensor)


def each(one: Callable[[Image.Image], Any], images: Sequence[Image.Image]) -> np.ndarray[Any, Any]:
    """Return what ``one`` [1, outputs] answers for each image, a row of NaN where it fails; it may fail on half."""
    rows: list[Any] = []
    failure: Exception | None = None
    for image in images:
        try:
            rows.append(np.asarray(one(image), np.float64)[0])
        except Exception as error:  # noqa: BLE001 - whatever it is: the library does not run it
            rows.append(None)
            failure = failure or error
    good = [row for row in rows if row is not None]
    if failure and 2 * len(good) < len(rows):
        raise failure
    return np.stack([np.full_like(good[0], np.nan) if row is None else row for row in rows])


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def labels(count: int) -> dict[str, str]:
    """Return an ``id2label`` of distinct names."""
    return {str(i): f"thing {i}" for i in range(count)}
