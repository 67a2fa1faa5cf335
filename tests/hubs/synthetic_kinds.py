"""The kinds of repository a synthetic hub is made of: their share, files, columns of the listing, and right status."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

from hubprobe.demo import tiny
from hubprobe.demo.listing import Row, record
from hubprobe.demo.repository import Files, Repo, RepoFile
from workspace.status import Status

_LABEL_COUNTS = (2, 3, 5, 7, 10, 12, 20, 37)
_WORDS = ("cat", "dog", "ramen", "sushi", "rose", "tulip", "pneumonia", "normal", "truck", "ship", "mold", "leaf")
_KEPT = ("tags", "library_name", "safetensors", "config", "transformersInfo", "siblings", "cardData", "usedStorage")


def mixed(value: int) -> int:
    """Return 64 well-mixed bits of ``value``: the finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 31


@dataclass(frozen=True)
class Kind:
    """One kind.

    Attributes:
        name: part of the ids of its repositories.
        share: of all repositories, in thousandths.
        status: what a crawl must say of it.
        make: returns its files for a number of labels.
        facts: columns that its files do not show.
    """

    name: str
    share: int
    status: Status
    make: Callable[[int], Files]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def files(self, draw: int) -> dict[str, RepoFile]:
        """Return the files of the repository with this draw, all but its card; shared, so not to be changed."""
        return _files(self.name, _LABEL_COUNTS[draw >> 40 & 7])

    def columns(self, draw: int) -> Row:
        """Return the columns of its row that follow from its files; shared, so not to be changed."""
        return _columns(self.name, _LABEL_COUNTS[draw >> 40 & 7])


@cache
def _files(name: str, labels: int) -> dict[str, RepoFile]:
    return {path: RepoFile.of(path, content) for path, content in _BY_NAME[name].make(labels).items()}


@cache
def _columns(name: str, labels: int) -> Row:
    files = {**_files(name, labels), "README.md": RepoFile.of("README.md", tiny.card("owner/name", ""))}
    full = record(Repo("owner/name", files))
    return {column: full[column] for column in _KEPT}


def _named(labels: int) -> tuple[str, ...]:
    return tuple(f"{_WORDS[i % len(_WORDS)]} {i // len(_WORDS)}".removesuffix(" 0") for i in range(labels))


def _healthy(labels: int, **changes: Any) -> Files:
    files = tiny.files()
    names = _named(labels)
    files["config.json"] = tiny.json_file(tiny.config(names, **changes))
    files["model.safetensors"] = tiny.safetensors(tiny.weights(rows=labels, seed=labels))
    return files


def _unnamed(labels: int) -> Files:
    names = tuple(f"LABEL_{i}" for i in range(labels))
    return _healthy(labels) | {"config.json": tiny.json_file(tiny.config(names))}


def _without_weights(labels: int) -> Files:
    files = _healthy(labels)
    del files["model.safetensors"]
    return files


def _headless(labels: int) -> Files:
    tensors = {name: value for name, value in tiny.weights().items() if not name.startswith("classifier")}
    return _healthy(labels) | {"model.safetensors": tiny.safetensors(tensors)}


def _timm(labels: int) -> Files:
    """A timm ResNet-10t's config, and of its weights the stem and the head."""
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    pretrained = {"input_size": [3, 176, 176], "mean": mean, "std": std, "interpolation": "bicubic", "crop_pct": 0.875}
    config = {
        "architecture": "resnet10t",
        "num_classes": labels,
        "num_features": 512,
        "label_names": list(_named(labels)),
        "pretrained_cfg": {"num_classes": labels, "classifier": "fc", "first_conv": "conv1.0", **pretrained},
    }
    shapes = {"conv1.0.weight": (24, 3, 3, 3), "fc.weight": (labels, 512), "fc.bias": (labels,)}
    weights = tiny.safetensors(tiny.normal(shapes, seed=labels))
    return {"config.json": tiny.json_file(config), "model.safetensors": weights}


def _adapter(labels: int) -> Files:
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "google/vit-base-patch16-224", "task_type": None}
    weights = tiny.safetensors(tiny.normal({"base_model.model.classifier.weight": (labels, 16)}, seed=labels))
    return {"adapter_config.json": tiny.json_file(adapter), "adapter_model.safetensors": weights}


def _custom(labels: int) -> Files:
    auto = {"AutoModelForImageClassification": "modeling_own.OwnForImageClassification"}
    own = {"model_type": "own_vit", "architectures": ["OwnForImageClassification"], "auto_map": auto}
    return _healthy(labels, **own) | {"modeling_own.py": b"raise SystemExit('never to be run')\n"}


def _zero_shot(labels: int) -> Files:
    config = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 8}
    weights = tiny.safetensors(tiny.normal({"visual_projection.weight": (8, 16)}, seed=labels))
    return {"config.json": tiny.json_file(config), "model.safetensors": weights}


def _regression(labels: int) -> Files:
    config = tiny.config(("LABEL_0",), problem_type="regression")
    return _healthy(labels) | {
        "config.json": tiny.json_file(config),
        "model.safetensors": tiny.safetensors(tiny.weights(rows=1)),
    }


def _mismatched(labels: int) -> Files:
    return _healthy(labels) | {"model.safetensors": tiny.safetensors(tiny.weights(rows=labels + 1))}


def _only(name: str, data: bytes, config: bool = True) -> Callable[[int], Files]:
    def make(labels: int) -> Files:
        files: Files = {name: data * 8}
        return _without_weights(labels) | files if config else files

    return make


KINDS: tuple[Kind, ...] = (
    Kind("vit-named", 400, Status.ELIGIBLE, _healthy),
    Kind("vit-labels", 150, Status.ELIGIBLE, _unnamed),
    Kind("timm", 110, Status.ELIGIBLE, _timm),
    Kind("pickle", 130, Status.PICKLE_ONLY, _only("pytorch_model.bin", b"\x80\x02")),
    Kind("onnx", 30, Status.ONNX_ONLY, _only("onnx/model.onnx", b"\x08\x08")),
    Kind("keras", 40, Status.FOREIGN_FORMAT, _only("tf_model.h5", b"\x89HDF")),
    Kind("yolo", 40, Status.NO_CONFIG, _only("model.safetensors", bytes(8), config=False)),
    Kind("empty", 30, Status.NO_WEIGHTS, _without_weights),
    Kind("lora", 15, Status.ADAPTER, _adapter),
    Kind("own-code", 10, Status.CUSTOM_CODE, _custom),
    Kind("clip", 10, Status.ZERO_SHOT, _zero_shot),
    Kind("headless", 8, Status.HEAD_MISSING, _headless),
    Kind("mismatched", 4, Status.HEAD_MISMATCH, _mismatched),
    Kind("regression", 3, Status.REGRESSION, _regression),
    Kind("gated", 12, Status.GATED, _healthy, {"gated": "auto"}),
    Kind("disabled", 3, Status.DISABLED, _healthy, {"disabled": True}),
    Kind("gone", 5, Status.GONE, _healthy),
)
"""All kinds; their shares add up to a thousand."""

_BY_NAME = {kind.name: kind for kind in KINDS}
_UP_TO = list(accumulate(kind.share for kind in KINDS))


def kind_of(draw: int) -> Kind:
    """Return the kind that 64 random bits fall on."""
    return KINDS[bisect_right(_UP_TO, draw % 1000)]
