"""What is checked before any weights are read: a config is a stranger's text and decides what would be allocated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workspace import LabelQuality, ModelError, Status

MAX_CONFIG_BYTES = 32 * 1024 * 1024
"""Largest config read: 200,000 labels with names of 100 characters are 25 MB."""

MAX_LAYERS = 2000
"""Deepest model built: a config of a million layers would keep even the meta device busy for hours."""

MAX_LABEL = 200  # characters kept of a label

_LAYER_KEYS = ("num_hidden_layers", "depth", "depths", "layers", "num_layers", "n_layer", "num_stages", "layer_depths")


@dataclass(frozen=True)
class Caps:
    """The workspace's limits, as `CrawlConfig` states them; what memory there is, in bytes, and the probes to run."""

    max_parameters: int
    max_labels: int
    max_image_size: int
    memory_bytes: int = 2**63
    probes: int = 0


@dataclass(frozen=True)
class ConfigFile:
    """A config.json that passed the checks, and what it says of the model's outputs."""

    raw: dict[str, Any]
    is_timm: bool
    num_labels: int | None
    labels: list[str] | None
    label_quality: str
    problem_type: str


def read_config(folder: Path, caps: Caps) -> ConfigFile:
    """Read and check ``folder/config.json``; raises `ModelError` with the reason why it will not be run."""
    raw = read_object(folder / "config.json", Status.NO_CONFIG, Status.MALFORMED_CONFIG)
    is_timm = "model_type" not in raw and "architecture" in raw
    if "auto_map" in raw:
        raise ModelError(Status.CUSTOM_CODE, "its config names code of its own (auto_map), which is never run")
    if raw.get("quantization_config"):
        raise ModelError(Status.QUANTISED, "its config has a quantization_config")
    _check_size(raw, caps)
    num_labels, labels = _labels(raw, is_timm)
    if num_labels is not None and num_labels > caps.max_labels:
        raise ModelError(Status.TOO_MANY_LABELS, f"{num_labels} labels; at most {caps.max_labels} are allowed")
    _check_kind(raw, is_timm, num_labels)
    return ConfigFile(raw, is_timm, num_labels, labels, _quality(labels, is_timm, num_labels), _problem(raw))


def read_object(path: Path, missing: Status, malformed: Status) -> dict[str, Any]:
    """Return the JSON object in ``path``; `ModelError` with one of the two statuses otherwise."""
    if not path.is_file():
        raise ModelError(missing, f"has no {path.name}")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise ModelError(malformed, f"{path.name} has more than {MAX_CONFIG_BYTES} bytes")
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ModelError(malformed, f"{path.name} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ModelError(malformed, f"{path.name} is not a JSON object")
    return value


def _check_size(raw: dict[str, Any], caps: Caps) -> None:
    for key in _LAYER_KEYS:
        value = raw.get(key)
        counts = value if isinstance(value, list) else [value]
        layers = sum(c for c in counts if type(c) is int and c > 0)
        if layers > MAX_LAYERS:
            raise ModelError(Status.TOO_MANY_PARAMETERS, f"{key} asks for {layers} layers; at most {MAX_LAYERS}")
    size = raw.get("image_size")
    sizes = size if isinstance(size, list) else [size]
    largest = max((s for s in sizes if isinstance(s, (int, float))), default=0)
    if largest > caps.max_image_size:
        raise ModelError(
            Status.IMAGE_TOO_LARGE, f"wants images of {largest} pixels; at most {caps.max_image_size} are allowed"
        )


def _check_kind(raw: dict[str, Any], is_timm: bool, num_labels: int | None) -> None:
    architectures = [a for a in _list(raw.get("architectures")) if isinstance(a, str)]
    if raw.get("problem_type") == "regression":
        raise ModelError(Status.REGRESSION)
    if is_timm:
        if num_labels == 0:
            raise ModelError(Status.HEAD_MISSING, "a timm backbone with num_classes 0: it has no classification head")
        return
    if num_labels == 1 and raw.get("problem_type") is None:
        raise ModelError(Status.REGRESSION, "one output and no problem_type: transformers trains that as a regression")
    if any("ZeroShot" in a for a in architectures):
        raise ModelError(Status.ZERO_SHOT)
    dual = "text_config" in raw and "vision_config" in raw
    if dual and not any(a.endswith("ForImageClassification") for a in architectures):
        raise ModelError(Status.ZERO_SHOT, "an image-text model without a classification head of its own")


def _labels(raw: dict[str, Any], is_timm: bool) -> tuple[int | None, list[str] | None]:
    """Return the number of outputs announced, and their names in order of index; None for what is not said."""
    if is_timm:
        pretrained = raw.get("pretrained_cfg") if isinstance(raw.get("pretrained_cfg"), dict) else {}
        count = raw.get("num_classes", pretrained.get("num_classes"))  # type: ignore[union-attr]
        names = raw.get("label_names") or pretrained.get("label_names")  # type: ignore[union-attr]
        count = count if type(count) is int and count >= 0 else None
        named = [_label(n) for n in names] if isinstance(names, list) and len(names) == count else None
        return count, named
    id2label = raw.get("id2label")
    if isinstance(id2label, list):
        id2label = dict(enumerate(id2label))
    if not isinstance(id2label, dict) or not id2label:
        count = raw.get("num_labels")
        # transformers' own default: a config without id2label has two labels
        return (count if type(count) is int and count > 0 else 2), None
    names_by_index: dict[int, str] = {}
    for key, value in id2label.items():
        try:
            names_by_index[int(key)] = _label(value)
        except (TypeError, ValueError) as error:
            raise ModelError(Status.MALFORMED_CONFIG, f"id2label has the key {key!r}, which is no index") from error
    count = len(id2label)
    if sorted(names_by_index) != list(range(count)):
        return count, [names_by_index.get(i, "") for i in range(count)]
    return count, [names_by_index[i] for i in range(count)]


def _quality(labels: list[str] | None, is_timm: bool, num_labels: int | None) -> str:
    if labels is None:
        guessed = is_timm and num_labels in (1000, 11221, 11821, 21841, 21842, 21843)
        return str((LabelQuality.GUESSED_BY_COUNT if guessed else LabelQuality.MISSING).value)
    texts = [t.strip() for t in labels]
    if all(t.upper() in (f"LABEL_{i}", "") for i, t in enumerate(texts)):
        return LabelQuality.LABEL_I.value if any(texts) else LabelQuality.MISSING.value
    if all(t.lstrip("-").replace(".", "", 1).isdigit() for t in texts if t):
        return LabelQuality.NUMERIC.value
    return LabelQuality.NAMED.value


def _problem(raw: dict[str, Any]) -> str:
    multi = raw.get("problem_type") == "multi_label_classification"
    return "multi_label_classification" if multi else "single_label_classification"


def _label(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode("utf-8")[:MAX_LABEL]


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
