"""What of an encoder's files reaches a library: a release or a workspace of a stranger's names it, so they are his.

As with the models that are probed, the config is read as data and made anew from the numbers and words that its class
knows; nothing of it can name a kernel, code, another file or a backbone to be fetched, and what it asks for is counted
before any memory is.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from workspace import CrawlConfig, ModelError, Status
from workspace.architectures import Architectures
from workspace.model_config import longest, read_config, read_object
from workspace.model_options import known_settings, transformers_options
from workspace.model_rules import Announced, image_size, labels_count, layers, parameters_announced, quantised
from workspace.safetensors_header import weights_of

_RULES = (quantised, layers, labels_count, image_size, parameters_announced)
_SPARE = 50_000_000
"""Parameters that a model may have beyond those of its files: a pooler, say, that a classifier was saved without."""

MAX_EDGE = 2_048
"""Pixels: the longest edge that an encoder's processor may make of an image; 64 are made at once."""

_DTYPES = ("float32", "float16", "bfloat16")


def checked_config(folder: Path) -> tuple[Any, str]:
    """Return the config of the encoder in ``folder`` as an object of transformers, and its dtype, "auto" where none.

    Raises `ModelError` for one that is not built.
    """
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    limits = CrawlConfig()
    config = read_config(folder / "config.json", limits.max_labels)
    mapping: Any = CONFIG_MAPPING
    if config.kind != "transformers" or config.model_type not in mapping:
        raise ModelError(Status.UNKNOWN_ARCHITECTURE, "its config.json names no architecture that transformers knows")
    announced = Announced(config, limits, Architectures({}, {}, frozenset(), frozenset()))
    for rule in _RULES:
        if (verdict := rule(announced)) is not None:
            raise ModelError(verdict.status, verdict.reason)
    kind = mapping[config.model_type]
    built = kind.from_dict(transformers_options(config, known_settings(kind)))
    _check_weights(folder, AutoModel, built, limits)
    dtype = config.raw.get("dtype", config.raw.get("torch_dtype"))
    return built, dtype if dtype in _DTYPES else "auto"


def _check_weights(folder: Path, library: Any, built: Any, limits: CrawlConfig) -> None:
    """Compare what the config asks for with what the files hold, before any of it is in memory."""
    import torch

    stored = weights_of(folder)[1].parameters
    with torch.device("meta"):
        model = library.from_config(built)
    wanted = sum(math.prod(p.shape) for p in model.parameters())
    if wanted > min(limits.max_parameters, stored + _SPARE):
        text = f"its config asks for {wanted:,} parameters, its files hold {stored:,}"
        raise ModelError(Status.TOO_MANY_PARAMETERS, text)


def check_processor(processor: Any) -> None:
    """Raise `ModelError` for an image processor of no known class, or one that makes larger images than are made."""
    from transformers.models.auto import image_processing_auto as auto

    library: Any = auto
    known = {name for kinds in library.IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in kinds.values()}
    if type(processor).__name__ not in known:
        raise ModelError(Status.PROCESSOR_ERROR, f"its image processor is a {type(processor).__name__}")
    for name, value in processor.to_dict().items():
        if "size" in name and (longest(value) or 0) > MAX_EDGE:
            text = f"its processor's {name} is {longest(value):,} pixels, {MAX_EDGE:,} are allowed"
            raise ModelError(Status.IMAGE_TOO_LARGE, text)


def first_token(folder: Path) -> bool:
    """Return whether a sentence encoder stands for a text by its first token. Raises `ModelError`."""
    path = folder / "1_Pooling" / "config.json"
    wanted = read_object(path, Status.NO_CONFIG, Status.MALFORMED_CONFIG) if path.is_file() else {}
    return bool(wanted.get("pooling_mode_cls_token"))
