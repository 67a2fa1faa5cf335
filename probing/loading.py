"""Build a model from a fetched folder: offline, safetensors only, no code from the repository, caps before weights."""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from probing.checks import Caps, ConfigFile, read_config
from probing.processors import Processor, for_timm, for_transformers
from workspace import ModelError, Status

if TYPE_CHECKING:
    import torch
    from torch import nn

_log = logging.getLogger(__name__)

_HEADS = ("classifier", "head", "fc", "score", "logits", "cls_classifier", "distillation_classifier", "last_linear")
"""Names under which models keep the layer that gives the outputs; only their weights decide what an output means."""


@dataclass(frozen=True)
class Loaded:
    """A model ready to run.

    Attributes:
        forward: from float32 [batch, channels, height, width] to what should be [batch, num_labels].
        module: the model itself, in evaluation mode, float32.
        num_labels: outputs the config announces; None when it does not say.
        labels: their names in order of index, or None.
        processor: its image processor.
        architecture: class of the model.
        parameters: how many it has.
    """

    forward: Callable[[torch.Tensor], Any]
    module: nn.Module
    num_labels: int | None
    labels: list[str] | None
    label_quality: str
    problem_type: str
    processor: Callable[[], Processor]
    architecture: str
    parameters: int


def load(folder: Path, caps: Caps) -> Loaded:
    """Build the model in ``folder`` on the CPU in float32.

    Raises `ModelError` with the status that says why it cannot be run. The caps are checked on the meta device, where
    a tensor has a shape and no memory, before any weights are read.
    """
    config = read_config(folder, caps)
    _check_files(folder)
    with _quietly():
        loaded = _load_timm(folder, config, caps) if config.is_timm else _load_transformers(folder, config, caps)
    _check_finite(loaded.module)
    loaded.module.requires_grad_(False)
    return loaded


def _check_files(folder: Path) -> None:
    weights = [p for p in folder.glob("*.safetensors") if p.is_file()]
    if not weights:
        raise ModelError(Status.NO_WEIGHTS, "no safetensors file among the fetched files")
    from safetensors import SafetensorError, safe_open

    opened: Any = safe_open
    for path in weights:
        try:
            with opened(path, framework="numpy") as file:
                packed = [name for name in file.keys() if _is_packed(file.get_slice(name))]  # noqa: SIM118
        except SafetensorError as error:
            text = str(error)
            short = "incomplete" in text.lower() or "InvalidOffset" in text
            raise ModelError(
                Status.TRUNCATED_WEIGHTS if short else Status.INVALID_HEADER, f"{path.name}: {text}"
            ) from error
        if packed:
            raise ModelError(Status.QUANTISED, f"weights stored in 8 bits, without what scales them: {packed[0]}")


def _is_packed(tensor: Any) -> bool:
    """Return whether these are weights in 8 bits or fewer: cast to float32 they would be other numbers, silently."""
    return len(tensor.get_shape()) > 1 and str(tensor.get_dtype()).startswith(("I8", "U8", "F8", "F6", "F4"))


def _load_transformers(folder: Path, config: ConfigFile, caps: Caps) -> Loaded:
    import torch
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.auto import configuration_auto
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
        MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING,
    )

    try:
        built = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError) as error:
        named, known = config.raw.get("model_type"), cast("Any", configuration_auto).CONFIG_MAPPING_NAMES
        unknown = not isinstance(named, str) or named not in known
        status = Status.UNKNOWN_ARCHITECTURE if unknown else Status.MALFORMED_CONFIG
        raise ModelError(status, f"model_type {config.raw.get('model_type')!r}: {error}") from error
    if type(built) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        dual = type(built) in MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING
        raise ModelError(Status.ZERO_SHOT if dual else Status.NOT_A_CLASSIFIER)
    auto: Any = AutoModelForImageClassification
    with torch.device("meta"):
        shape = auto.from_config(built, trust_remote_code=False)
    parameters = _check_parameters(shape, caps, int(built.num_labels))
    del shape
    model, info = auto.from_pretrained(
        str(folder),
        config=built,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused below
        output_loading_info=True,
    )
    model.eval()
    base = getattr(model, "base_model_prefix", "")
    _check_loaded(
        [str(k) for k in info["missing_keys"]],
        [str(m[0] if isinstance(m, (tuple, list)) else m) for m in info["mismatched_keys"]],
        {name for name, _ in model.named_parameters()},
        base,
    )

    def forward(x: torch.Tensor) -> Any:
        out = model(x)
        logits = getattr(out, "logits", None)
        if logits is None:
            raise ModelError(Status.WRONG_SHAPE, f"returns {type(out).__name__}, which has no logits")
        return logits

    return Loaded(
        forward,
        model,
        int(built.num_labels),
        config.labels,
        config.label_quality,
        config.problem_type,
        lambda: for_transformers(folder, built),
        type(model).__name__,
        parameters,
    )


def _load_timm(folder: Path, config: ConfigFile, caps: Caps) -> Loaded:
    import timm
    import torch

    architecture = str(config.raw["architecture"])
    if not timm.is_model(architecture):
        raise ModelError(Status.UNKNOWN_ARCHITECTURE, f"timm has no architecture {architecture!r}")
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ModelError(Status.NO_WEIGHTS, "a timm repository without model.safetensors")
    arguments = config.raw.get("model_args")
    options: dict[str, Any] = dict(arguments) if isinstance(arguments, dict) else {}
    for key in ("num_classes", "global_pool"):
        if config.raw.get(key) is not None:
            options[key] = config.raw[key]
    options.pop("pretrained", None)
    if config.num_labels is not None:
        options["num_classes"] = config.num_labels
    with torch.device("meta"):
        shape = timm.create_model(architecture, pretrained=False, **options)
        parameters = _check_parameters(shape, caps, int(cast("int", shape.num_classes)))
    pretrained = config.raw.get("pretrained_cfg")
    known = {k: v for k, v in (pretrained if isinstance(pretrained, dict) else {}).items() if k in _TIMM_SAFE}
    known |= {"file": str(weights), "source": "file", "hf_hub_id": None, "url": "", "custom_load": False}
    if config.num_labels is not None:
        known["num_classes"] = config.num_labels  # else timm drops the head and starts a new one, silently
    try:
        model = timm.create_model(architecture, pretrained=True, pretrained_cfg_overlay=known, **options)
    except RuntimeError as error:
        text = str(error)
        if "Missing key" in text or "size mismatch" in text:
            raise _timm_mismatch(text) from error
        raise
    model.eval()
    return Loaded(
        model,
        model,
        config.num_labels if config.num_labels is not None else int(cast("int", model.num_classes)),
        config.labels,
        config.label_quality,
        config.problem_type,
        lambda: for_timm(config, model),
        architecture,
        parameters,
    )


_TIMM_SAFE = {
    "classifier", "crop_mode", "crop_pct", "first_conv", "fixed_input_size", "input_size", "interpolation",
    "label_offset", "mean", "num_classes", "pool_size", "std", "tag", "test_crop_pct", "test_input_size",
}  # fmt: skip
"""Keys of a stranger's pretrained_cfg that are passed on: none of them names a file, a URL or a loader."""


def _timm_mismatch(text: str) -> ModelError:
    head = any(f'"{name}.' in text or f"for {name}." in text or f".{name}." in text for name in _HEADS)
    line = " ".join(text.split())[:300]
    if "size mismatch" in text:
        return ModelError(Status.HEAD_MISMATCH if head else Status.LOAD_ERROR, line)
    return ModelError(Status.HEAD_MISSING if head else Status.LOAD_ERROR, line)


def _check_parameters(model: nn.Module, caps: Caps, num_labels: int) -> int:
    count = sum(math.prod(p.shape) for p in model.parameters())
    if count > caps.max_parameters:
        raise ModelError(
            Status.TOO_MANY_PARAMETERS, f"{count:,} parameters; at most {caps.max_parameters:,} are allowed"
        )
    # float32 weights; outputs as float32 and twice more as the float16 that is written
    needed = 4 * count + 8 * num_labels * caps.probes
    if needed > caps.memory_bytes:
        has = f"this process may use {caps.memory_bytes / 1e9:.1f} GB"
        text = f"needs {needed / 1e9:.1f} GB for weights and outputs; {has}"
        raise ModelError(Status.EXCEEDS_MEMORY, text)
    return count


def _check_loaded(missing: list[str], mismatched: list[str], parameters: set[str], base: str) -> None:
    """Refuse a model with parameters that did not come from its weights: their outputs would be random."""
    if mismatched:
        head = any(_in_head(name, base) for name in mismatched)
        raise ModelError(
            Status.HEAD_MISMATCH if head else Status.LOAD_ERROR,
            f"weights of another shape than the config asks for: {', '.join(sorted(mismatched)[:3])}",
        )
    random = [name for name in missing if name in parameters]
    if not random:
        return
    of_head = [name for name in random if _in_head(name, base)]
    shown = ", ".join(sorted(of_head or random)[:3])
    if of_head:
        raise ModelError(Status.HEAD_MISSING, f"the weights do not hold its head ({shown})")
    raise ModelError(
        Status.LOAD_ERROR, f"{len(random)} weights are not in its files ({shown}): outputs would be random"
    )


def _in_head(name: str, base: str) -> bool:
    parts = name.split(".")
    return bool(set(parts) & set(_HEADS)) or (bool(base) and parts[0] != base)


def _check_finite(model: nn.Module) -> None:
    """Refuse NaN and infinite weights. A sum is finite only if all terms are, and reads the memory once."""
    import torch

    with torch.inference_mode():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if not tensor.is_floating_point() or torch.isfinite(tensor.sum(dtype=torch.float64)):
                continue
            broken = int((~torch.isfinite(tensor)).sum())
            # a buffer of -inf is an attention mask, not damage
            if broken and not (name not in dict(model.named_parameters()) and not torch.isnan(tensor).any()):
                raise ModelError(Status.NONFINITE_WEIGHTS, f"{broken} of {tensor.numel()} values of {name}")


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep the libraries' own talk off stderr, and their converter bot off the network, while a model is built."""
    from transformers.utils import logging

    talk: Any = logging

    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    level = talk.get_verbosity()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(level)
