"""``config.json`` of transformers and timm models, read as data: what it announces, never what it can run.

Crawler and prober read through this module alone, so that they cannot disagree about what a config says; whether such a
model is run is decided in `workspace.model_rules`, what of the config reaches a library in `workspace.model_options`.
timm's own form is read as timm reads it (``timm.models._hub``), without importing timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, Strict, StrictBool, StrictStr, TypeAdapter, ValidationError

from workspace import bounded_json
from workspace.errors import ModelError
from workspace.model_labels import IMAGENET_SIZES, Labels, from_id2label, from_names, imagenet_names
from workspace.status import LabelQuality, Status
from workspace.text import MAX_LABEL, plain

MAX_CONFIG = 32 * 1024**2  # bytes: 21,843 labels with long names take about 3 MB
MAX_DEPTH = 50  # objects and lists inside one another

TIMM_DEFAULTS: Mapping[str, Any] = {
    "input_size": (3, 224, 224),
    "fixed_input_size": False,
    "interpolation": "bicubic",
    "crop_pct": 0.875,
    "crop_mode": "center",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "num_classes": 1000,
}
"""What timm takes for a setting that ``pretrained_cfg`` does not state: ``timm.models.PretrainedCfg``, not the defaults
of the architecture."""


@dataclass(frozen=True)
class ModelConfig:
    """What a config announces."""

    kind: str  # 'transformers', 'timm', or '' when it says neither
    model_type: str | None  # transformers' ``model_type``; 'timm' for timm
    architectures: tuple[str, ...]  # class names, or timm's architecture
    num_labels: int  # outputs; where nothing says, 2 for transformers and 1,000 for timm, as the libraries do
    labels: tuple[str | None, ...] | None  # by index, None where there is none; None when the config gives none at all
    label_quality: LabelQuality  # how far they are names
    problem_type: str | None  # transformers' ``problem_type``
    image_size: int | None  # longest edge of the input in pixels
    custom_code: bool  # whether it names code of its own repository for the model
    quantised: bool  # whether it has a ``quantization_config``
    raw: Mapping[str, Any] = field(repr=False)  # the whole object, for `workspace.model_options`
    # of timm only: its ``pretrained_cfg`` as timm completes it, as data: what preprocessing takes (``input_size``
    # [channels, height, width], ``interpolation``, ``crop_pct``, ``crop_mode``, ``mean``, ``std``) and for fitting
    # weights; no file, address or loader
    pretrained: Mapping[str, Any] = field(default_factory=dict)
    stated: frozenset[str] = frozenset()  # settings in ``pretrained`` that the config states; others are defaults
    model_args: Mapping[str, Any] = field(default_factory=dict)  # of timm only: its constructor's arguments, unfiltered


def read_config(path: Path, max_labels: int) -> ModelConfig:
    """Read the ``config.json`` at ``path``. Raises `ModelError`: ``no_config`` or ``malformed_config``."""
    return _config(read_object(path, Status.NO_CONFIG, Status.MALFORMED_CONFIG), max_labels)


def parse_config(raw: bytes, max_labels: int, datasets: Iterable[str] = ()) -> ModelConfig:
    """Read a ``config.json``; at most ``max_labels + 1`` labels are kept. Raises `ModelError` (malformed_config).

    ``datasets`` names what the repository says it was trained on; a timm model without labels may take theirs.
    """
    return _config(parse_object(raw, "config.json", Status.MALFORMED_CONFIG), max_labels, datasets)


def read_object(path: Path, missing: Status, malformed: Status) -> dict[str, Any]:
    """Return the JSON object in ``path``; `ModelError` with one of the two statuses otherwise."""
    if not path.is_file():
        raise ModelError(missing, f"has no {path.name}")
    with path.open("rb") as file:
        return parse_object(file.read(MAX_CONFIG + 1), path.name, malformed)


def parse_object(raw: bytes, name: str, malformed: Status) -> dict[str, Any]:
    """Return a stranger's JSON object; `ModelError` with ``malformed`` when it is none, too large or too deep.

    Of equal keys the last one counts, as in the libraries.
    """
    if len(raw) > MAX_CONFIG:
        raise ModelError(malformed, f"{name} has more than {MAX_CONFIG:,} bytes")
    try:
        value = bounded_json.loads(raw.decode("utf-8-sig"))
    except bounded_json.TooManyValuesError as error:
        raise ModelError(malformed, f"{name} holds {error}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(malformed, f"{name} is not JSON: {type(error).__name__}") from error
    if not isinstance(value, dict):
        raise ModelError(malformed, f"{name} is a {type(value).__name__}, not an object")
    if _deeper(value, MAX_DEPTH):
        raise ModelError(malformed, f"{name} has more than {MAX_DEPTH} levels")
    return value


def _deeper(value: Any, levels: int) -> bool:
    inner: list[Any] = [value]
    for _ in range(levels):
        inner = [
            v
            for outer in inner
            for v in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(v, (dict, list))
        ]
        if not inner:
            return False
    return True


def _config(raw: dict[str, Any], max_labels: int, datasets: Iterable[str] = ()) -> ModelConfig:
    return _timm(raw, max_labels + 1, datasets) if is_timm(raw) else _transformers(raw, max_labels + 1)


def is_timm(raw: Mapping[str, Any]) -> bool:
    """Return whether timm is what can load this: its keys count more than a ``model_type`` beside them."""
    if raw.get("model_type") == "timm_wrapper":
        return True
    if not isinstance(raw.get("architecture"), str):
        return False
    if isinstance(raw.get("pretrained_cfg"), Mapping) or raw.get("model_type") is None:
        return True
    return "num_classes" in raw and not raw.get("architectures")


# ── transformers ────────────────────────────────────────────────────────────────────────────────────────────────────
def _transformers(raw: Mapping[str, Any], most: int) -> ModelConfig:
    model_type = plain(raw.get("model_type"), 100)
    names = raw.get("architectures")
    names = names if isinstance(names, list) else [names]
    labels = from_id2label(raw.get("id2label"), most)
    count = count_of(raw.get("num_labels"))
    if count is None:  # `num_labels` goes first in transformers 5 where both are there and differ
        count = labels.count
    if count is None:
        count = count_of(raw.get("_num_labels"))
    labels = labels.fitted(2 if count is None else count, most)
    nested = raw.get("vision_config")
    inner = nested.get("image_size") if isinstance(nested, Mapping) else None
    return ModelConfig(
        kind="transformers" if model_type else "",
        model_type=model_type,
        architectures=tuple(name for value in names[:20] if (name := plain(value, 200))),
        num_labels=2 if count is None else count,
        labels=labels.names,
        label_quality=labels.quality,
        problem_type=plain(raw.get("problem_type"), 100),
        image_size=longest(raw.get("image_size", inner)),
        custom_code=_custom_code(raw.get("auto_map")),
        quantised=bool(raw.get("quantization_config")),
        raw=raw,
    )


def _custom_code(auto_map: Any) -> bool:
    """Return whether code is named for config or model; what is named for a processor or a tokenizer does not count."""
    if not isinstance(auto_map, Mapping):
        return False
    return any(value and name.startswith(("AutoConfig", "AutoModel")) for name, value in auto_map.items())


# ── timm ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _timm(raw: Mapping[str, Any], most: int, datasets: Iterable[str]) -> ModelConfig:
    architecture = plain(raw.get("architecture", "resnet50"), 200)  # TimmWrapper's default
    if architecture is None:
        raise ModelError(Status.MALFORMED_CONFIG, "its architecture is no text")
    given = raw.get("pretrained_cfg")
    # The older form has no pretrained_cfg: its settings lie at the root.
    flat = not isinstance(given, Mapping)
    settings = dict(raw if flat else given or {})
    for key in ("num_classes", "label_names", "label_descriptions"):
        if key in raw:
            settings[key] = raw[key]
    arguments = raw.get("model_args")
    model_args = dict(arguments) if isinstance(arguments, Mapping) else {}
    pretrained = _checked(settings)
    stated = frozenset(pretrained)
    pretrained = _repaired({**TIMM_DEFAULTS, **pretrained}, model_args)
    count = count_of(settings.get("num_classes"))
    id2label = from_id2label(raw.get("id2label"), most)
    if count is None and raw.get("model_type") == "timm_wrapper":
        count = count_of(raw.get("num_labels")) if "num_labels" in raw else id2label.count
    if count is None:
        count = count_of(model_args.get("num_classes"))
    if count is None:
        count = int(TIMM_DEFAULTS["num_classes"])
    pretrained["num_classes"] = count
    named = settings.get("label_names") or (settings.get("labels") if flat else None)
    labels = from_names(named, settings.get("label_descriptions"), most) if named else id2label
    labels = labels.fitted(count, most)
    if labels.quality is LabelQuality.MISSING and count in IMAGENET_SIZES:
        known = imagenet_names(count, pretrained.get("tag") or architecture.partition(".")[2], datasets)
        quality = LabelQuality.GUESSED_BY_COUNT if known is None else LabelQuality.INFERRED
        labels = Labels(known and tuple(name[:MAX_LABEL] for name in known[:most]), quality=quality)
    return ModelConfig(
        kind="timm",
        model_type="timm",
        architectures=(architecture,),
        num_labels=count,
        labels=labels.names,
        label_quality=labels.quality,
        problem_type=plain(raw.get("problem_type"), 100),
        image_size=longest(list(pretrained["input_size"])[1:]),
        custom_code=_custom_code(raw.get("auto_map")),
        quantised=bool(raw.get("quantization_config")),
        raw=raw,
        pretrained=pretrained,
        stated=stated,
        model_args=model_args,
    )


_Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
_Text = Annotated[StrictStr, Field(max_length=200)]
_Size = TypeAdapter(Annotated[list[Annotated[int, Strict(), Field(gt=0)]], Field(min_length=3, max_length=3)])
_Crop = TypeAdapter(_Number)
_Mean = TypeAdapter(_Number | Annotated[list[_Number], Field(min_length=1, max_length=100)])
_Word = TypeAdapter(_Text)
_Pair = TypeAdapter(Annotated[list[Annotated[int, Strict()]], Field(max_length=3)])
_Modules = TypeAdapter(_Text | Annotated[list[_Text], Field(max_length=20)])
_Flag = TypeAdapter(StrictBool)
_Count = TypeAdapter(Annotated[int, Strict(), Field(ge=0, lt=2**31)])


def _fits(kind: TypeAdapter[Any], value: Any) -> bool:
    try:
        kind.validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


_SETTINGS: dict[str, tuple[TypeAdapter[Any], str]] = {
    "input_size": (_Size, "[channels, height, width]"),
    "test_input_size": (_Size, "[channels, height, width]"),
    "min_input_size": (_Size, "[channels, height, width]"),
    "fixed_input_size": (_Flag, "true or false"),
    "interpolation": (_Word, "a text"),
    "crop_pct": (_Crop, "a number"),
    "test_crop_pct": (_Crop, "a number"),
    "crop_mode": (_Word, "a text"),
    "mean": (_Mean, "numbers"),
    "std": (_Mean, "numbers"),
    "num_classes": (_Count, "a number of classes"),
    "label_offset": (_Count, "a number of labels"),
    "pool_size": (_Pair, "[height, width]"),
    "test_pool_size": (_Pair, "[height, width]"),
    "first_conv": (_Modules, "names of layers"),
    "classifier": (_Modules, "names of layers"),
    "tag": (_Word, "a text"),
}
"""The settings of a stranger's ``pretrained_cfg`` that are read, and what each must be: none names a file, an address
or a loader. Null means that it is not stated, as for timm."""


def _checked(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that are read. Raises `ModelError` (malformed_config) for one that is not what it must be."""
    kept = {}
    for name, (kind, what) in _SETTINGS.items():
        value = settings.get(name)
        if value is None or (name == "tag" and not _fits(kind, value)):  # a tag only hints at the labels
            continue
        if not _fits(kind, value):
            raise ModelError(Status.MALFORMED_CONFIG, f"its {name} is not {what}")
        kept[name] = value
    return kept


def _repaired(pretrained: dict[str, Any], model_args: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``pretrained`` as the arguments of the saved model have it: old exports kept what the source had."""
    if model_args.get("dynamic_img_size") or model_args.get("strict_img_size") is False or model_args.get("use_naflex"):
        pretrained["fixed_input_size"] = False
    channels = model_args.get("in_chans")
    if type(channels) is int and channels > 0:
        for key in ("input_size", "test_input_size", "min_input_size"):
            if key in pretrained:
                pretrained[key] = [channels, *pretrained[key][1:]]
    size = model_args.get("img_size")
    size = [size, size] if type(size) is int else size
    if pretrained["fixed_input_size"] and isinstance(size, list) and _fits(_Size, [1, *size]):
        pretrained["input_size"] = [pretrained["input_size"][0], *size]
    return pretrained


def count_of(value: Any) -> int | None:
    """Return ``value`` if it is a number of things: an integer from 0, below 2^31; else None."""
    return value if type(value) is int and 0 <= value < 2**31 else None


def longest(size: Any) -> int | None:
    """Return the longest edge of a size in pixels: a number, ``[height, width]`` or an object of edges."""
    if isinstance(size, Mapping):
        size = list(size.values())
    values = size if isinstance(size, list) else [size]
    edges = [min(v, 2**31 - 1) for v in values[:8] if type(v) in (int, float) and v > 0]
    return int(max(edges)) if edges else None
