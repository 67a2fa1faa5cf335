"""Which models are run, decided from their config: one table of rules, asked by the crawler and again by the prober.

A rule is a small function of what a model announces. It returns a `Verdict` to refuse the model, or None to let it
pass. The first refusal counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from workspace.architectures import Architectures
from workspace.errors import ModelError
from workspace.model_config import ModelConfig, longest
from workspace.model_options import timm_options
from workspace.status import Status
from workspace.text import printable

MAX_LAYERS = 1_000
"""Most layers that a config may ask for, at all its levels together: building each takes a millisecond, even without
memory. The deepest models known have 300."""

MAX_SETTINGS = 400_000
"""Settings that are looked through, at all levels together: an author's own names for labels are 21,843 twice."""

MAX_STEPS = 1_000  # numbers in one list of widths, depths or sizes

_WIDTHS = frozenset({"hidden_size", "hidden_sizes", "embed_dim", "embed_dims", "d_model", "dim", "dims", "width"})
_DEPTHS = frozenset({"num_hidden_layers", "num_layers", "depth", "depths", "n_layer", "layers", "num_encoder_blocks"})
_LAYERS = re.compile(r"(?:^|_)(?:layers?|depths?|blocks?|stages?|attends|attentions)(?:_|$)")
_SIZES = re.compile(r"^(?:\w+_)?(?:image|img|input)_size$")
_LABELS = frozenset({"num_labels", "num_classes", "_num_labels"})


@dataclass(frozen=True)
class Verdict:
    """Why a repository is not probed: its status, and a sentence about this very repository."""

    status: Status
    reason: str


class _Limits(Protocol):
    """The caps of a workspace that concern a config, as `CrawlConfig` has them: outputs, parameters, pixels."""

    @property
    def max_parameters(self) -> int: ...
    @property
    def max_labels(self) -> int: ...
    @property
    def max_image_size(self) -> int: ...


@dataclass(frozen=True)
class Announced:
    """What a model's config announces, what the workspace allows, and what the libraries can build."""

    config: ModelConfig
    limits: _Limits
    known: Architectures


ConfigRule = Callable[[Announced], Verdict | None]


def custom_code(model: Announced) -> Verdict | None:
    """``auto_map`` names Python files of the repository."""
    return Verdict(Status.CUSTOM_CODE, Status.CUSTOM_CODE.meaning) if model.config.custom_code else None


def quantised(model: Announced) -> Verdict | None:
    """A ``quantization_config``."""
    return Verdict(Status.QUANTISED, Status.QUANTISED.meaning) if model.config.quantised else None


def architecture(model: Announced) -> Verdict | None:
    """Its architecture is none of transformers' image classifiers and no model of timm's."""
    named = printable(", ".join(model.config.architectures) or model.config.model_type or "nothing")
    if model.config.kind == "timm":
        if model.known.knows_timm(model.config.architectures[0]):
            return None
        return Verdict(Status.UNKNOWN_ARCHITECTURE, f"timm does not know '{named}'")
    model_type = model.config.model_type
    if model_type is None:
        return Verdict(Status.UNKNOWN_ARCHITECTURE, "its config.json names no architecture")
    classifiers = model.known.classifiers.get(model_type, frozenset())
    if classifiers & set(model.config.architectures):
        return None
    zero_shot = model.known.zero_shot.get(model_type, frozenset())
    if zero_shot & set(model.config.architectures) or (zero_shot and not model.config.architectures):
        return Verdict(Status.ZERO_SHOT, f"{Status.ZERO_SHOT.meaning} ({named})")
    if classifiers and not model.config.architectures:
        return None  # nothing speaks against it: its weights will show whether there is a head
    if model_type in model.known.model_types:
        return Verdict(Status.NOT_A_CLASSIFIER, f"it is a {named} ({printable(model_type)}), not an image classifier")
    return Verdict(Status.UNKNOWN_ARCHITECTURE, f"transformers does not know model_type '{printable(model_type)}'")


def settings(model: Announced) -> Verdict | None:
    """More settings than are looked through: a million cost every rule seconds."""
    found = sum(len(level) or 1 for level in _levels(model.config))
    if found <= MAX_SETTINGS:
        return None
    return Verdict(Status.MALFORMED_CONFIG, f"its config has {found:,} settings, {MAX_SETTINGS:,} are looked through")


def regression(model: Announced) -> Verdict | None:
    """A regression: ``problem_type`` says so, or there is one output and it does not say multi-label.

    Multi-label heads stay: each output is a concept of its own.
    """
    if model.config.problem_type == "regression":
        return Verdict(Status.REGRESSION, Status.REGRESSION.meaning)
    if model.config.num_labels != 1 or model.config.problem_type == "multi_label_classification":
        return None
    if model.config.problem_type == "single_label_classification":
        text = "one label and problem_type single_label_classification: the softmax of one output says nothing"
        return Verdict(Status.MALFORMED_CONFIG, text)
    return Verdict(Status.REGRESSION, "one output, and nothing says that it is a class: that is trained as a quantity")


def no_outputs(model: Announced) -> Verdict | None:
    """A config that announces no outputs: a feature extractor."""
    if model.config.num_labels == 0:
        return Verdict(Status.NOT_A_CLASSIFIER, "its config announces no outputs: it is a feature extractor")
    return None


def labels_count(model: Announced) -> Verdict | None:
    """More labels than allowed, at any level."""
    counts = [v for name, value in _settings(model.config) if name in _LABELS for v in _numbers(value)]
    most = max(model.config.num_labels, *counts, 0)
    if most > model.limits.max_labels:
        return Verdict(
            Status.TOO_MANY_LABELS, f"its config announces {most:,} labels, {model.limits.max_labels:,} are allowed"
        )
    return None


def image_size(model: Announced) -> Verdict | None:
    """A larger input than allowed, at any level."""
    edges = [longest(value) or 0 for name, value in _settings(model.config) if _SIZES.match(name)]
    edge = max(model.config.image_size or 0, *edges, 0)
    if edge > model.limits.max_image_size:
        allowed = model.limits.max_image_size
        return Verdict(Status.IMAGE_TOO_LARGE, f"it wants images of {edge:,} pixels, {allowed:,} are allowed")
    return None


def layers(model: Announced) -> Verdict | None:
    """More layers than can be built, at all levels together, or a list of sizes too long to be one."""
    total = 0.0
    for name, value in _settings(model.config):
        if isinstance(value, list) and len(value) > MAX_STEPS and (name in _WIDTHS or _LAYERS.search(name)):
            return Verdict(Status.TOO_MANY_PARAMETERS, f"its {printable(name)} has {len(value):,} entries")
        if _LAYERS.search(name):
            total += sum(_numbers(value))
    if total > MAX_LAYERS:
        text = f"its config asks for {min(total, 1e18):,.0f} layers, {MAX_LAYERS:,} are allowed"
        return Verdict(Status.TOO_MANY_PARAMETERS, text)
    return None


def parameters_announced(model: Announced) -> Verdict | None:
    """Widths and depths that ask for more parameters than allowed."""
    return too_many(at_least(model.config), model.limits, "its config asks for at least")


def options(model: Announced) -> Verdict | None:
    """Arguments for timm's constructor that are no architecture options."""
    try:
        timm_options(model.config)
    except ModelError as error:
        return Verdict(error.status, error.reason)
    return None


CONFIG_RULES: tuple[ConfigRule, ...] = (
    custom_code, quantised, settings, architecture, regression, no_outputs, labels_count, image_size, layers,
    parameters_announced, options,
)  # fmt: skip


def refusal(config: ModelConfig, limits: _Limits, known: Architectures) -> Verdict | None:
    """Return the first verdict against a model, None when every rule lets its config pass."""
    model = Announced(config, limits, known)
    return next((verdict for rule in CONFIG_RULES if (verdict := rule(model)) is not None), None)


def too_many(parameters: int, limits: _Limits, verb: str) -> Verdict | None:
    """Return the verdict against a model of ``parameters``, None when they are allowed."""
    if parameters <= limits.max_parameters:
        return None
    allowed = limits.max_parameters
    return Verdict(Status.TOO_MANY_PARAMETERS, f"{verb} {parameters:,} parameters, {allowed:,} are allowed")


def at_least(config: ModelConfig) -> int:
    """Return a floor of the parameter count from widths and depths, to refuse a config that asks for the absurd.

    A layer of width d has about d^2 parameters in a bottleneck block and 12 d^2 in a transformer block; depthwise
    blocks have fewer, so the figure only means something when it is far over the cap.
    """
    floor = 0
    for level in _levels(config):
        widths = [_numbers(value) for name, value in level.items() if name in _WIDTHS]
        depths = [_numbers(value) for name, value in level.items() if name in _DEPTHS]
        width = max((max(values) for values in widths if values), default=0)
        deep = max((sum(values) for values in depths), default=0) or 1
        # Stages have different widths: where there are several, a quarter of the layers counts as the widest.
        share = 4 if any(len(values) > 1 for values in (*widths, *depths)) else 1
        floor = max(floor, width * config.num_labels, deep * width**2 // share)
    return min(floor, 10**18)


def _levels(config: ModelConfig) -> Iterator[Mapping[str, Any]]:
    """Yield the objects of settings that decide what is built: the config's or timm's arguments, with all in them."""
    left = [config.model_args if config.kind == "timm" else config.raw]
    while left:
        level = left.pop()
        yield level
        for name, value in level.items():
            if name not in ("id2label", "label2id"):
                inner = value if isinstance(value, list) else [value]
                left += [v for v in inner if isinstance(v, Mapping)]


def _settings(config: ModelConfig) -> Iterator[tuple[str, Any]]:
    for level in _levels(config):
        yield from level.items()


def _numbers(value: Any) -> list[int]:
    """Return the positive numbers of a setting; those too large to be any size as 10^18."""
    values = value if isinstance(value, list) else [value]
    return [int(min(v, 10**18)) for v in values[:MAX_STEPS] if type(v) in (int, float) and v > 0]
