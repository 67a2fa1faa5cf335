"""Eligibility as a table of rules, asked in order of what their answer costs: the listing, the config, the header.

A rule is a small function of what is known so far. It returns a `Verdict` to refuse a repository, or None to let it
pass. The first refusal is the repository's status; rules of a later stage are only asked when all before it passed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import wraps

from crawler.listing.rows import Listed
from workspace import CrawlConfig, Status, conversions, model_rules
from workspace.architectures import Architectures
from workspace.model_config import ModelConfig
from workspace.model_rules import Verdict, too_many
from workspace.safetensors_header import INDEX, WEIGHTS, Header, Tensor
from workspace.text import printable

CONFIG = "config.json"
_PICKLES = re.compile(r"(?i)\.(?:bin|pt|pth|ckpt|pkl|pickle|joblib)$")
_FOREIGN = re.compile(r"(?i)\.(?:h5|keras|msgpack|tflite|pb|mlmodel|mlpackage|gguf|engine|npz|ot|caffemodel|pdparams)$")
_NOT_WEIGHTS = re.compile(r"(?:^|/)(?:training_args|optimizer|scheduler|rng_state\w*|scaler|trainer_state)\.\w+$")
MAX_NAME = 255  # bytes of one part of a path, on the usual file systems
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Facts:
    """What is known of a repository; later stages fill in more. ``offered``: weights of a pull request that count."""

    listed: Listed
    limits: CrawlConfig
    architectures: Architectures | None = None
    config: ModelConfig | None = None
    header: Header | None = None
    offered: frozenset[str] = frozenset()


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
    """Its licence, or one of several, is excluded by the workspace's configuration."""
    for name in facts.listed.licenses:
        if name in facts.limits.excluded_licenses:
            return Verdict(Status.LICENCE_EXCLUDED, f"its licence is {printable(name)}")
    return None


def adapter(facts: Facts) -> Verdict | None:
    """A PEFT adapter: a difference to a model that lies elsewhere."""
    paths = facts.listed.paths
    if "adapter_config.json" in paths and not {WEIGHTS, INDEX} & paths:
        return Verdict(Status.ADAPTER, Status.ADAPTER.meaning)
    return None


def weights_format(facts: Facts) -> Verdict | None:
    """No safetensors under a name that transformers and timm load, nor a conversion bot's pull request with them."""
    if facts.listed.files is None or {WEIGHTS, INDEX} & (facts.listed.paths | facts.offered):
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


def parameters_listed(facts: Facts) -> Verdict | None:
    """More parameters than allowed, as the Hub counts them."""
    return too_many(facts.listed.total or 0, facts.limits, "it has")


# ── from config.json: the rules that the prober asks, too ───────────────────────────────────────────────────────────
def _of_config(rule: model_rules.ConfigRule) -> Rule:
    @wraps(rule)
    def ask(facts: Facts) -> Verdict | None:
        assert facts.config is not None
        assert facts.architectures is not None
        return rule(model_rules.Announced(facts.config, facts.limits, facts.architectures))

    return ask


# ── from the safetensors header ─────────────────────────────────────────────────────────────────────────────────────
def parameters_stored(facts: Facts) -> Verdict | None:
    """More parameters than allowed, as the header's shapes say."""
    assert facts.header is not None
    return too_many(facts.header.parameters, facts.limits, "its weights have")


def weights_bytes(facts: Facts) -> Verdict | None:
    """More bytes than allowed."""
    assert facts.header is not None
    if facts.header.size > facts.limits.max_weights_bytes:
        allowed = facts.limits.max_weights_bytes
        return Verdict(Status.TOO_MANY_BYTES, f"its weights are {facts.header.size:,} bytes, {allowed:,} are allowed")
    return None


def packed(facts: Facts) -> Verdict | None:
    """Weights in a dtype that does not hold real numbers as they are."""
    assert facts.header is not None
    odd = facts.header.packed
    return None if odd is None else Verdict(Status.QUANTISED, odd)


def head(facts: Facts) -> Verdict | None:
    """No output layer with as many rows as labels."""
    assert facts.header is not None
    assert facts.config is not None
    found, sentence = find_head(facts.header, facts.config.num_labels)
    if found is Head.FOUND:
        return None
    return Verdict(Status.HEAD_MISSING if found is Head.MISSING else Status.HEAD_MISMATCH, sentence)


LIST_RULES: tuple[Rule, ...] = (
    opted_out, disabled, gated, unsafe_path, licence, adapter, weights_format, no_config, parameters_listed,
)  # fmt: skip
CONFIG_RULES: tuple[Rule, ...] = tuple(map(_of_config, model_rules.CONFIG_RULES))
WEIGHTS_RULES: tuple[Rule, ...] = (parameters_stored, weights_bytes, packed, head)
STAGES: tuple[tuple[str, tuple[Rule, ...]], ...] = (
    ("list", LIST_RULES), ("config", CONFIG_RULES), ("weights", WEIGHTS_RULES),
)  # fmt: skip


def first_refusal(rules: tuple[Rule, ...], facts: Facts) -> Verdict | None:
    """Return the first verdict against the repository, None when every rule lets it pass."""
    return next((verdict for rule in rules if (verdict := rule(facts)) is not None), None)


def may_be_converted(facts: Facts) -> bool:
    """Return whether nothing but pickled weights speaks against a repository, of a kind that a bot converts."""
    if not (facts.limits.converted and facts.limits.converters and conversions.pickles(facts.listed.paths)):
        return False
    verdict = weights_format(facts)
    if verdict is None or verdict.status is not Status.PICKLE_ONLY:
        return False
    return first_refusal(LIST_RULES, replace(facts, offered=frozenset({WEIGHTS}))) is None


def is_safe_path(path: str) -> bool:
    """Return whether a file of this name stays inside its repository's folder, on every operating system."""
    if not path or path.startswith(("/", "~")) or "\\" in path or re.match(r"[A-Za-z]:", path) or _CONTROL.search(path):
        return False
    try:
        parts = path.encode("utf-8").split(b"/")
    except UnicodeEncodeError:  # a lone surrogate: no file can be named so
        return False
    return all(part not in (b"", b".", b"..") and len(part) <= MAX_NAME for part in parts)


# ── the classification head: is it in the weights, by names and shapes in their header alone? ─────────────────────────
_HEAD = re.compile(
    r"(?:^|\.)(?:\w*classifier\w*|fc|fc\d?|heads?|head_\w+|\w+_head|head\d|last_linear|score|final_layer|classif|logits"
    r"|linear|output|cls_\w+|distillation)(?:\.|$)"
)
"""Names that libraries give to a head or to the module it is in, anywhere in a tensor's name."""

_CERTAIN = re.compile(r"^(?:[a-z_0-9]+\.)?(?:classifier(?:\.1)?|fc|head(?:\.fc)?)\.weight$")
"""A tensor of one of these names is the head's matrix in nearly every architecture: its rows decide."""

_INSIDE = re.compile(
    r"(?:^|\.)(?:layers?|blocks?|stages?|encoder|features|patch_embed\w*|embeddings?|stem|se|attn|mlp)(?:\.|$)"
    r"|norm|\bbn|pos_embed"
)
"""Parts of a body: a tensor there is no head, whatever its shape."""


class Head(Enum):
    """What the weights hold in place of a head with the announced number of outputs."""

    FOUND = "found"
    MISSING = "missing"
    MISMATCH = "mismatch"


def find_head(header: Header, num_labels: int) -> tuple[Head, str]:
    """Look for an output layer with ``num_labels`` rows and say in a sentence what was found.

    A healthy model is never refused for an unusual name: without a head's usual name, any matrix or vector outside the
    body with that many rows counts. The prober checks the missing keys once more when it loads the model.
    """
    certain = [t for t in header.tensors if _CERTAIN.match(t.name) and _outputs(t) is not None]
    usual = [
        t for t in header.tensors if _HEAD.search(t.name) and _outputs(t) is not None and not _INSIDE.search(t.name)
    ]
    for tensor in (*certain, *usual):
        if _outputs(tensor) == num_labels:
            return Head.FOUND, f"{tensor.name} {list(tensor.shape)} has a row for each of the {num_labels} labels"
    if not (certain and len({_outputs(t) for t in certain}) == 1):
        for tensor in header.tensors:
            if _outputs(tensor) == num_labels and not _INSIDE.search(tensor.name):
                return Head.FOUND, f"{tensor.name} {list(tensor.shape)} has {num_labels} rows"
    matrices = certain or [t for t in usual if len(t.shape) > 1]
    if matrices:
        tensor = matrices[-1]
        return Head.MISMATCH, f"{tensor.name} has {_outputs(tensor)} rows, the config announces {num_labels} labels"
    return Head.MISSING, f"no tensor among {len(header.tensors)} looks like an output layer of {num_labels} rows"


def _outputs(tensor: Tensor) -> int | None:
    """Return how many outputs a layer with this tensor would have: vectors, matrices and 1x1 convolutions only."""
    shape = tensor.shape
    if len(shape) in (1, 2) or (len(shape) == 4 and shape[2:] == (1, 1)):
        return shape[0]
    return None
