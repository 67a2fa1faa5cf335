"""Build a model from a fetched folder: offline, safetensors only, no code from the repository, caps before weights.

Nothing of the repository is handed to a library as it lies there: the config is read and filtered below
(`workspace.model_config`, `workspace.model_options`), the weights are read here, and what became of each tensor of the
model is compared with them afterwards, whatever the library forgives.
"""

from __future__ import annotations

import inspect
import math
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probing.images.processors import Processor, for_timm, for_transformers
from workspace import ModelError, Status
from workspace.architectures import Architectures
from workspace.model_config import ModelConfig, read_config
from workspace.model_options import known_settings, timm_options, transformers_options
from workspace.model_rules import refusal
from workspace.safetensors_header import Header, weights_of

if TYPE_CHECKING:
    import torch
    from torch import nn

MAX_MODULES = 50_000
"""Modules of a model: those of 1,000 layers with 30 each, and some. Building them without memory takes seconds."""

_HEADS = ("classifier", "head", "fc", "score", "logits", "cls_classifier", "distillation_classifier", "last_linear")
"""Names under which models keep the layer that gives the outputs; only their weights decide what an output means."""

_WRAPPER = "timm_model."  # before every name in the weights of some models saved by transformers' TimmWrapper


@dataclass(frozen=True)
class Caps:
    """The workspace's limits, as `CrawlConfig` states them; what memory there is, in bytes, and the probes to run."""

    max_parameters: int
    max_labels: int
    max_image_size: int
    memory_bytes: int = 2**63
    probes: int = 0


@dataclass(frozen=True)
class Loaded:
    """A model ready to run."""

    forward: Callable[..., Any]  # from float32 [batch, channels, height, width] to what should be [batch, num_labels]
    module: nn.Module  # the model itself, in evaluation mode, float32
    num_labels: int  # outputs the config announces
    # their names in order of index, "" where one has none; None when the config gives no labels
    labels: list[str] | None
    label_quality: str
    problem_type: str
    processor: Callable[[], Processor]  # its image processor
    architecture: str  # class of the model
    parameters: int  # how many it has


def load(folder: Path, caps: Caps) -> Loaded:
    """Build the model in ``folder`` on the CPU in float32.

    Raises `ModelError` with the status that says why it cannot be run. The caps are checked on the meta device, where
    a tensor has a shape and no memory, before any weights are read.
    """
    config = read_config(folder / "config.json", caps.max_labels)
    verdict = refusal(config, caps, Architectures.here())
    if verdict is not None:
        raise ModelError(verdict.status, verdict.reason)
    files, header = weights_of(folder)
    if header.packed is not None:
        raise ModelError(Status.QUANTISED, header.packed)
    with _quietly():
        build = _timm if config.kind == "timm" else _transformers
        model, parameters = build(config, files, header, caps)
    _check_stored(header, model)
    _check_finite(model)
    model.eval()
    model.requires_grad_(False)
    multi = config.problem_type == "multi_label_classification"

    def processor() -> Processor:
        if config.kind == "timm":
            return for_timm(config, model)
        return for_transformers(folder, model.config, inspect.signature(model.forward).parameters)

    return Loaded(
        forward=model if config.kind == "timm" else _logits(model),
        module=model,
        num_labels=config.num_labels,
        labels=None if config.labels is None else [name or "" for name in config.labels],
        label_quality=config.label_quality.value,
        problem_type="multi_label_classification" if multi else "single_label_classification",
        processor=processor,
        architecture=config.architectures[0] if config.kind == "timm" else type(model).__name__,
        parameters=parameters,
    )


def _tensors(files: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Read them all; complete 32-bit floats stay on the disk until they are used."""
    from safetensors.torch import load_file

    return {name: tensor for path in files for name, tensor in load_file(path).items()}


# ── transformers ────────────────────────────────────────────────────────────────────────────────────────────────────
def _transformers(config: ModelConfig, files: Sequence[Path], header: Header, caps: Caps) -> tuple[nn.Module, int]:
    import torch
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    mapping: Any = CONFIG_MAPPING
    config_class = mapping[config.model_type]
    options = transformers_options(config, known_settings(config_class))
    try:
        built = config_class.from_dict(options | {"num_labels": config.num_labels})
    except Exception as error:
        text = " ".join(str(error).split())
        raise ModelError(Status.MALFORMED_CONFIG, f"model_type {config.model_type!r}: {text}") from error
    classes: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING[config_class]
    candidates = classes if isinstance(classes, (tuple, list)) else [classes]
    chosen = next((c for c in candidates if c.__name__ in config.architectures), candidates[0])
    parameters = _measured(lambda: chosen(built), caps, config.num_labels)
    _check_count(parameters, header)
    model, info = chosen.from_pretrained(
        None,
        config=built,
        state_dict=_tensors(files),
        local_files_only=True,
        dtype=torch.float32,
        ignore_mismatched_sizes=True,  # so that they are listed, and refused below
        output_loading_info=True,
    )
    _check_loaded(
        [str(k) for k in info["missing_keys"]],
        [str(m[0] if isinstance(m, (tuple, list)) else m) for m in info["mismatched_keys"]],
        model,
        getattr(model, "base_model_prefix", ""),
    )
    return model, parameters


def _logits(model: nn.Module) -> Callable[..., Any]:
    """Return what gives the logits of an image, and of what its processor makes beside it and the model reads."""
    read = inspect.signature(model.forward).parameters

    def forward(x: torch.Tensor, **beside: torch.Tensor) -> Any:
        out = model(x, **{name: value for name, value in beside.items() if name in read})
        logits = getattr(out, "logits", None)
        if logits is None:  # PPLCNet's class gives its head's outputs under this name
            logits = getattr(out, "last_hidden_state", None)
        if logits is None:
            raise ModelError(Status.WRONG_SHAPE, f"returns {type(out).__name__}, which has no logits")
        return logits

    return forward


# ── timm ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _timm(config: ModelConfig, files: Sequence[Path], header: Header, caps: Caps) -> tuple[nn.Module, int]:
    import timm
    from timm.models import PretrainedCfg

    name = config.architectures[0].partition(".")[0]
    options = timm_options(config) | {"num_classes": config.num_labels}
    named = {field.name for field in fields(PretrainedCfg)}
    pretrained = {k: tuple(v) if isinstance(v, list) else v for k, v in config.pretrained.items() if k in named}

    def make(**more: Any) -> nn.Module:
        model: nn.Module = timm.create_model(name, pretrained=bool(more), pretrained_cfg=pretrained | more, **options)
        return model

    parameters = _measured(make, caps, config.num_labels)
    _check_count(parameters, header)
    wrapped = all(tensor.name.startswith(_WRAPPER) for tensor in header.tensors)
    try:
        with _copied() as copied:
            if wrapped or len(files) > 1:
                tensors = {k.removeprefix(_WRAPPER): v for k, v in _tensors(files).items()}
                model = make(state_dict=tensors)
                vars(model).get("pretrained_cfg", {}).pop("state_dict", None)
            else:
                model = make(file=str(files[0]))
    except RuntimeError as error:
        text = str(error)
        if "Missing key" not in text and "size mismatch" not in text:
            raise
        status = Status.HEAD_MISMATCH if "size mismatch" in text else Status.HEAD_MISSING
        if not any(f'"{name}.' in text or f"for {name}." in text or f".{name}." in text for name in _HEADS):
            status = Status.LOAD_ERROR
        raise ModelError(status, " ".join(text.split())[:300]) from error
    kept = model.state_dict(keep_vars=True).items()
    _check_loaded([k for k, v in kept if copied.get(id(v), (v, -1))[1] != v._version], [], model, "")
    return model, parameters


@contextmanager
def _copied() -> Iterator[dict[int, tuple[torch.Tensor, int]]]:
    """Yield the tensors that are copied into while the context lasts, by id, with their version after that.

    timm loads leniently for some architectures, and says nothing of what it leaves as it was made. A tensor that is as
    it was after the last copy into it holds what was copied: nothing else made or changed it since.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    copied: dict[int, tuple[torch.Tensor, int]] = {}

    class Copies(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is torch.Tensor.copy_:
                copied[id(args[0])] = args[0], args[0]._version
            return result

    with Copies():
        yield copied


# ── checks ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _measured(make: Callable[[], nn.Module], caps: Caps, num_labels: int) -> int:
    """Build a model without memory and return how many parameters it has. Raises `ModelError` when it is too large."""
    import torch

    with torch.device("meta"), _bounded(caps):
        model = make()
    count = sum(math.prod(p.shape) for p in model.parameters())
    tables = sum(math.prod(b.shape) * b.element_size() for b in model.buffers())
    if count > caps.max_parameters:
        raise _too_many(count, caps)
    # float32 weights; outputs as float32 and twice more as the float16 that is written
    needed = 4 * count + tables + 8 * num_labels * caps.probes
    if needed > caps.memory_bytes:
        has = f"this process may use {caps.memory_bytes / 1e9:.1f} GB"
        text = f"needs {needed / 1e9:.1f} GB for weights and outputs; {has}"
        raise ModelError(Status.EXCEEDS_MEMORY, text)
    return count


def _check_count(parameters: int, header: Header) -> None:
    """Refuse a model far larger than its files, before it is in memory: most of it would be random.

    Which weights are not there is told by their names, once it is built; this is for the absurd.
    """
    if parameters > 2 * header.parameters + 10_000_000:
        text = f"its config asks for {parameters:,} parameters, its files hold {header.parameters:,}"
        raise ModelError(Status.LOAD_ERROR, text)


def _too_many(count: int, caps: Caps) -> ModelError:
    text = f"{count:,} parameters; at most {caps.max_parameters:,} are allowed"
    return ModelError(Status.TOO_MANY_PARAMETERS, text)


@contextmanager
def _bounded(caps: Caps) -> Iterator[None]:
    """Stop the building of a model, in this thread, at too many modules or at twice the parameters allowed.

    Twice, because some replace a layer once it is made.
    """
    from torch.nn.modules import module

    thread, modules, parameters = threading.get_ident(), 0, 0

    def count_module(*_: Any) -> None:
        nonlocal modules
        modules += threading.get_ident() == thread
        if modules > MAX_MODULES:
            raise ModelError(Status.TOO_MANY_PARAMETERS, f"its config asks for more than {MAX_MODULES:,} modules")

    def count_parameter(_parent: Any, _name: str, parameter: Any) -> None:
        nonlocal parameters
        if parameter is not None and threading.get_ident() == thread:
            parameters += math.prod(parameter.shape)
        if parameters > 2 * caps.max_parameters:
            raise _too_many(parameters, caps)

    hooks = [
        module.register_module_module_registration_hook(count_module),
        module.register_module_parameter_registration_hook(count_parameter),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _check_loaded(missing: Sequence[str], mismatched: Sequence[str], model: nn.Module, base: str) -> None:
    """Refuse a model with numbers that did not come from its weights: its outputs would be random."""
    if mismatched:
        head = any(_in_head(name, base) for name in mismatched)
        raise ModelError(
            Status.HEAD_MISMATCH if head else Status.LOAD_ERROR,
            f"weights of another shape than the config asks for: {', '.join(sorted(mismatched)[:3])}",
        )
    # Integers are tables of indices and counters, which a model computes by itself.
    own = {name for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    random = [name for name in missing if name in own]
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


def _check_stored(header: Header, model: nn.Module) -> None:
    """Refuse integers in the file where the model computes with real numbers: what scales them is not known."""
    own = {name: tensor.is_floating_point() for name, tensor in model.state_dict().items()}
    for tensor in header.tensors:
        if not tensor.is_float and own.get(tensor.name.removeprefix(_WRAPPER)):
            raise ModelError(Status.QUANTISED, f"{tensor.name[:80]} is stored as {tensor.dtype}, not as real numbers")


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
    """Keep the libraries' own talk off stderr while a model is built."""
    from transformers.utils import logging

    talk: Any = logging
    level = talk.get_verbosity()
    talk.set_verbosity_error()
    talk.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        talk.set_verbosity(level)
