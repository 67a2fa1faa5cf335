"""Eligibility as a table of rules, asked in order of what their answer costs: the listing, the config, the header.

A rule is a small function of what is known so far. It returns a `Verdict` to refuse a repository, or None to let it
pass. The first refusal is the repository's status; rules of a later stage are only asked when all before it passed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from crawler.architectures import Architectures
from crawler.configs import ModelConfig
from crawler.head import Head, find_head
from crawler.header import Header
from crawler.rows import Listed
from workspace import CrawlConfig, Status
from workspace.text import printable

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = re.compile(r"(?i)\.(?:bin|pt|pth|ckpt|pkl|pickle|joblib)$")
_FOREIGN = re.compile(r"(?i)\.(?:h5|keras|msgpack|tflite|pb|mlmodel|mlpackage|gguf|engine|npz|ot|caffemodel|pdparams)$")
_NOT_WEIGHTS = re.compile(r"(?:^|/)(?:training_args|optimizer|scheduler|rng_state\w*|scaler|trainer_state)\.\w+$")
MAX_NAME = 255  # bytes of one part of a path, on the usual file systems
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Verdict:
    """Why a repository is not probed: its status, and a sentence about this very repository."""

    status: Status
    reason: str


@dataclass(frozen=True)
class Facts:
    """What is known of a repository; later stages fill in more."""

    listed: Listed
    limits: CrawlConfig
    architectures: Architectures | None = None
    config: ModelConfig | None = None
    header: Header | None = None


Rule = Callable[[Facts], Verdict | None]


# ── from the listing ────────────────────────────────────────────────────────────────────────────────────────────────
def opted_out(facts: Facts) -> Verdict | None:
    """The workspace's opt-out list names the author or the repository."""
    listed = facts.listed
    owner = listed.id.partition("/")[0] if "/" in listed.id else (listed.author or "")
    names = {name.casefold() for name in facts.limits.opt_out}
    if {listed.id.casefold(), owner.casefold()} & names:
        return Verdict(Status.OPTED_OUT, Status.OPTED_OUT.meaning)
    return None


def disabled(facts: Facts) -> Verdict | None:
    """The Hub disabled it."""
    return Verdict(Status.DISABLED, Status.DISABLED.meaning) if facts.listed.disabled else None


def gated(facts: Facts) -> Verdict | None:
    """Its author wants to be asked first; a crawler that asks nobody leaves it alone, token or not."""
    if facts.listed.gated == "false":
        return None
    return Verdict(Status.GATED, f"{Status.GATED.meaning} (approval: {printable(facts.listed.gated, 20)})")


def unsafe_path(facts: Facts) -> Verdict | None:
    """A file name that would leave the repository's folder."""
    for file in facts.listed.files or ():
        if not is_safe_path(file.path):
            return Verdict(Status.UNSAFE_PATH, f"a file is named '{printable(file.path)}', which leaves its folder")
    return None


def licence(facts: Facts) -> Verdict | None:
    """Its licence is excluded by the workspace's configuration."""
    if facts.listed.license in facts.limits.excluded_licenses:
        return Verdict(Status.LICENCE_EXCLUDED, f"its licence is {printable(facts.listed.license)}")
    return None


def adapter(facts: Facts) -> Verdict | None:
    """A PEFT adapter: a difference to a model that lies elsewhere."""
    paths = facts.listed.paths
    if "adapter_config.json" in paths and not {WEIGHTS, INDEX} & paths:
        return Verdict(Status.ADAPTER, Status.ADAPTER.meaning)
    return None


def weights_format(facts: Facts) -> Verdict | None:
    """No safetensors under a name that transformers and timm load."""
    if facts.listed.files is None or {WEIGHTS, INDEX} & facts.listed.paths:
        return None
    paths = [p for p in sorted(facts.listed.paths) if not _NOT_WEIGHTS.search(p)]
    other = [p for p in paths if p.endswith(".safetensors")]
    if other:
        return Verdict(Status.FOREIGN_FORMAT, f"its safetensors '{printable(other[0])}' is not named {WEIGHTS}")
    if pickles := [p for p in paths if _PICKLES.search(p)]:
        return Verdict(Status.PICKLE_ONLY, f"{Status.PICKLE_ONLY.meaning}: '{printable(pickles[0])}'")
    if any(p.lower().endswith(".onnx") for p in paths):
        return Verdict(Status.ONNX_ONLY, Status.ONNX_ONLY.meaning)
    if foreign := [p for p in paths if _FOREIGN.search(p)]:
        return Verdict(Status.FOREIGN_FORMAT, f"{Status.FOREIGN_FORMAT.meaning}: '{printable(foreign[0])}'")
    return Verdict(Status.NO_WEIGHTS, Status.NO_WEIGHTS.meaning)


def no_config(facts: Facts) -> Verdict | None:
    """No ``config.json`` at the root."""
    if facts.listed.files is not None and CONFIG not in facts.listed.paths:
        return Verdict(Status.NO_CONFIG, Status.NO_CONFIG.meaning)
    return None


def custom_code_tag(facts: Facts) -> Verdict | None:
    """The Hub's own tag for ``auto_map``."""
    if "custom_code" in facts.listed.tags:
        return Verdict(Status.CUSTOM_CODE, Status.CUSTOM_CODE.meaning)
    return None


def parameters_listed(facts: Facts) -> Verdict | None:
    """More parameters than allowed, as the Hub counts them."""
    return _too_many(facts.listed.total or 0, facts, "it has")


# ── from config.json ────────────────────────────────────────────────────────────────────────────────────────────────
def custom_code(facts: Facts) -> Verdict | None:
    """``auto_map`` names Python files of the repository."""
    assert facts.config is not None
    return Verdict(Status.CUSTOM_CODE, Status.CUSTOM_CODE.meaning) if facts.config.custom_code else None


def quantised(facts: Facts) -> Verdict | None:
    """A ``quantization_config``."""
    assert facts.config is not None
    return Verdict(Status.QUANTISED, Status.QUANTISED.meaning) if facts.config.quantised else None


def architecture(facts: Facts) -> Verdict | None:
    """Its architecture is none of transformers' image classifiers and no model of timm's."""
    config, known = facts.config, facts.architectures
    assert config is not None
    assert known is not None
    named = printable(", ".join(config.architectures) or config.model_type or "nothing")
    if config.kind == "timm":
        if known.knows_timm(config.architectures[0]):
            return None
        return Verdict(Status.UNKNOWN_ARCHITECTURE, f"timm does not know '{named}'")
    model_type = config.model_type
    if model_type is None:
        return Verdict(Status.UNKNOWN_ARCHITECTURE, "its config.json names no architecture")
    classifiers = known.classifiers.get(model_type, frozenset())
    if classifiers & set(config.architectures):
        return None
    zero_shot = known.zero_shot.get(model_type, frozenset())
    if zero_shot & set(config.architectures) or (zero_shot and not config.architectures):
        return Verdict(Status.ZERO_SHOT, f"{Status.ZERO_SHOT.meaning} ({named})")
    if classifiers and not config.architectures:
        return None  # nothing speaks against it: its weights will show whether there is a head
    if model_type in known.model_types:
        return Verdict(Status.NOT_A_CLASSIFIER, f"it is a {named} ({printable(model_type)}), not an image classifier")
    return Verdict(Status.UNKNOWN_ARCHITECTURE, f"transformers does not know model_type '{printable(model_type)}'")


def regression(facts: Facts) -> Verdict | None:
    """``problem_type`` regression. Multi-label heads stay: each output is a concept of its own."""
    assert facts.config is not None
    if facts.config.problem_type == "regression":
        return Verdict(Status.REGRESSION, Status.REGRESSION.meaning)
    return None


def no_outputs(facts: Facts) -> Verdict | None:
    """A config that announces no outputs: a feature extractor."""
    assert facts.config is not None
    if facts.config.num_labels == 0:
        return Verdict(Status.NOT_A_CLASSIFIER, "its config announces no outputs: it is a feature extractor")
    return None


def labels_count(facts: Facts) -> Verdict | None:
    """More labels than allowed."""
    assert facts.config is not None
    if facts.config.num_labels > facts.limits.max_labels:
        return Verdict(
            Status.TOO_MANY_LABELS,
            f"its config announces {facts.config.num_labels:,} labels, {facts.limits.max_labels:,} are allowed",
        )
    return None


def image_size(facts: Facts) -> Verdict | None:
    """A larger input than allowed."""
    assert facts.config is not None
    edge = facts.config.image_size or 0
    if edge > facts.limits.max_image_size:
        allowed = facts.limits.max_image_size
        return Verdict(Status.IMAGE_TOO_LARGE, f"it wants images of {edge:,} pixels, {allowed:,} are allowed")
    return None


def parameters_announced(facts: Facts) -> Verdict | None:
    """Widths and depths that ask for more parameters than allowed."""
    assert facts.config is not None
    return _too_many(facts.config.parameters, facts, "its config asks for at least")


# ── from the safetensors header ─────────────────────────────────────────────────────────────────────────────────────
def parameters_stored(facts: Facts) -> Verdict | None:
    """More parameters than allowed, as the header's shapes say."""
    assert facts.header is not None
    return _too_many(facts.header.parameters, facts, "its weights have")


def weights_bytes(facts: Facts) -> Verdict | None:
    """More bytes than allowed."""
    assert facts.header is not None
    if facts.header.size > facts.limits.max_weights_bytes:
        allowed = facts.limits.max_weights_bytes
        return Verdict(Status.TOO_MANY_BYTES, f"its weights are {facts.header.size:,} bytes, {allowed:,} are allowed")
    return None


def packed(facts: Facts) -> Verdict | None:
    """Most elements are in a dtype that needs unpacking."""
    assert facts.header is not None
    if facts.header.packed > facts.header.parameters:
        return Verdict(Status.QUANTISED, "most of its weights are stored as integers or 8-bit floats")
    return None


def head(facts: Facts) -> Verdict | None:
    """No output layer with as many rows as labels."""
    assert facts.header is not None
    assert facts.config is not None
    found, sentence = find_head(facts.header, facts.config.num_labels)
    if found is Head.FOUND:
        return None
    return Verdict(Status.HEAD_MISSING if found is Head.MISSING else Status.HEAD_MISMATCH, sentence)


LIST_RULES: tuple[Rule, ...] = (
    opted_out, disabled, gated, unsafe_path, licence, adapter, weights_format, no_config, custom_code_tag,
    parameters_listed,
)  # fmt: skip
CONFIG_RULES: tuple[Rule, ...] = (
    custom_code, quantised, architecture, regression, no_outputs, labels_count, image_size, parameters_announced,
)  # fmt: skip
WEIGHTS_RULES: tuple[Rule, ...] = (parameters_stored, weights_bytes, packed, head)
STAGES: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("list", LIST_RULES), ("config", CONFIG_RULES), ("weights", WEIGHTS_RULES),
)  # fmt: skip


def first_refusal(rules: tuple[Rule, ...], facts: Facts) -> Verdict | None:
    """Return the first verdict against the repository, None when every rule lets it pass."""
    return next((verdict for rule in rules if (verdict := rule(facts)) is not None), None)


def is_safe_path(path: str) -> bool:
    """Return whether a file of this name stays inside its repository's folder, on every operating system."""
    if not path or path.startswith(("/", "~")) or "\\" in path or re.match(r"[A-Za-z]:", path) or _CONTROL.search(path):
        return False
    try:
        parts = path.encode("utf-8").split(b"/")
    except UnicodeEncodeError:  # a lone surrogate: no file can be named so
        return False
    return all(part not in (b"", b".", b"..") and len(part) <= MAX_NAME for part in parts)


def _too_many(parameters: int, facts: Facts, verb: str) -> Verdict | None:
    if parameters <= facts.limits.max_parameters:
        return None
    allowed = facts.limits.max_parameters
    return Verdict(Status.TOO_MANY_PARAMETERS, f"{verb} {parameters:,} parameters, {allowed:,} are allowed")
