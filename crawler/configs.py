"""``config.json`` of transformers and timm models, read as data: what it announces, never what it can run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from crawler.labels import ordered, quality
from crawler.rows import text
from workspace import LabelQuality, ModelError, Status

MAX_CONFIG = 32 * 1024**2  # bytes: 21,843 labels with long names take about 3 MB
_WIDTHS = ("hidden_size", "hidden_sizes", "embed_dim", "embed_dims", "d_model", "dim", "dims", "width")
_DEPTHS = ("num_hidden_layers", "num_layers", "depth", "depths", "n_layer")


@dataclass(frozen=True)
class ModelConfig:
    """What a config announces.

    Attributes:
        kind: 'transformers', 'timm', or '' when it says neither.
        model_type: transformers' ``model_type``; 'timm' for timm.
        architectures: class names, or timm's architecture.
        num_labels: number of outputs; for transformers 2 when nothing says, as the library does.
        labels: label by index, None when the config gives none.
        image_size: longest edge of the input in pixels.
        parameters: a number of parameters the model cannot have fewer than by orders of magnitude; 0 when unknown.
    """

    kind: str
    model_type: str | None
    architectures: tuple[str, ...]
    num_labels: int
    labels: tuple[str | None, ...] | None
    label_quality: LabelQuality
    problem_type: str | None
    image_size: int | None
    custom_code: bool
    quantised: bool
    parameters: int


def parse_config(raw: bytes, max_labels: int) -> ModelConfig:
    """Read a ``config.json``; at most ``max_labels + 1`` labels are kept. Raises `ModelError` (malformed_config)."""
    try:
        config = json.loads(raw.decode("utf-8"), parse_int=_bounded)
    except (ValueError, RecursionError) as error:
        raise ModelError(Status.MALFORMED_CONFIG, f"config.json is not JSON: {type(error).__name__}") from error
    if not isinstance(config, dict):
        raise ModelError(Status.MALFORMED_CONFIG, f"config.json is a {type(config).__name__}, not an object")
    pretrained = config.get("pretrained_cfg")
    pretrained = pretrained if isinstance(pretrained, dict) else {}
    model_type = text(config.get("model_type"), 100)
    timm = isinstance(config.get("architecture"), str) and (
        bool(pretrained) or model_type in (None, "timm_wrapper") or "num_classes" in config
    )
    most = max_labels + 1
    if timm:
        named = next((v for c in (config, pretrained) if (v := c.get("label_names"))), None)
        labels = ordered(named if named is not None else config.get("id2label"), most)
        count = _first_count(config.get("num_classes"), pretrained.get("num_classes"))
        count = count if count is not None else (len(labels) if labels else 1000)  # timm's own default
        architectures: tuple[str, ...] = (text(config["architecture"], 200) or "",)
    else:
        id2label = config.get("id2label")
        labels = ordered(id2label, most)
        stated = len(id2label) if isinstance(id2label, (dict, list)) and id2label else None
        count = _first_count(stated, config.get("num_labels"))
        count = count if count is not None else 2
        names = config.get("architectures")
        names = names if isinstance(names, list) else ([names] if isinstance(names, str) else [])
        architectures = tuple(name for value in names[:20] if (name := text(value, 200)))
    size = pretrained.get("input_size") if timm else _image_size(config)
    return ModelConfig(
        kind="timm" if timm else ("transformers" if model_type else ""),
        model_type="timm" if timm else model_type,
        architectures=architectures,
        num_labels=count,
        labels=tuple(labels) if labels is not None else None,
        label_quality=quality(labels, count, timm=timm),
        problem_type=text(config.get("problem_type"), 100),
        image_size=_longest(size),
        custom_code=_custom_code(config.get("auto_map")),
        quantised=isinstance(config.get("quantization_config"), Mapping),
        parameters=_at_least(config, count),
    )


def _custom_code(auto_map: Any) -> bool:
    if not isinstance(auto_map, Mapping):
        return False
    return any(isinstance(name, str) and name.startswith(("AutoConfig", "AutoModel")) for name in auto_map)


def _first_count(*values: Any) -> int | None:
    return next((v for v in values if type(v) is int and 0 <= v < 2**31), None)


def _image_size(config: Mapping[str, Any]) -> Any:
    nested = config.get("vision_config")
    inner = nested.get("image_size") if isinstance(nested, Mapping) else None
    return config.get("image_size", inner)


def _longest(size: Any) -> int | None:
    if isinstance(size, Mapping):
        size = list(size.values())
    values = size if isinstance(size, list) else [size]
    edges = [int(v) for v in values[:8] if type(v) in (int, float) and 0 < v < 2**31]
    return max(edges, default=None)


def _at_least(config: Mapping[str, Any], outputs: int) -> int:
    """Return a floor of the parameter count from widths and depths, to refuse a config that asks for the absurd.

    A layer of width d has about d^2 parameters in a bottleneck block and 12 d^2 in a transformer block; depthwise
    blocks have fewer, so the figure only means something when it is far over the cap.
    """
    nested = config.get("vision_config")
    floor = 0
    for source in (config, nested) if isinstance(nested, Mapping) else (config,):
        widths = [_numbers(source.get(name)) for name in _WIDTHS]
        depths = [_numbers(source.get(name)) for name in _DEPTHS]
        width = max((max(values) for values in widths if values), default=0)
        layers = max((sum(values) for values in depths), default=0) or 1
        # Stages have different widths: where there are several, a quarter of the layers counts as the widest.
        share = 4 if any(len(values) > 1 for values in (*widths, *depths)) else 1
        floor = max(floor, width * outputs, layers * width**2 // share)
    return floor


def _numbers(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [int(v) for v in values[:200] if type(v) in (int, float) and 0 < v < 1e18]


def _bounded(digits: str) -> int:
    """An integer of a million digits takes minutes to read and fits nothing."""
    return int(digits) if len(digits) <= 20 else 2**63
