"""How a model found is called: the shortest right code, pinned, with what its output means."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from workspace import Workspace
from workspace.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa
    from jinja2 import Template

    from search import Index

SHOWN = 60
"""Characters of a label or a name in a comment or a sentence."""


@dataclass(frozen=True)
class Usage:
    """How one model, or one of its outputs, is called."""

    repo_id: str
    sha: str  # every file is asked for at this commit
    logit: int | None  # the output; None for the whole model
    library: str  # ``transformers`` or ``timm``
    install: str  # command that installs what the code imports
    code: str  # Python that reads ``image.jpg`` and prints scores; strangers' names stand in it as text only
    meaning: tuple[str, ...]  # what is printed, in sentences
    quirks: tuple[str, ...]  # what the repository does not say or says oddly, and what the code does about it
    license: str  # as the repository's tags name it, "" when they name none
    gated: bool  # whether its files have to be asked for on the Hub first
    label: str | None  # the output's own label, untrusted; None without one, or for a whole model
    names: tuple[tuple[str, float], ...]  # what its answers say it is, and how surely, 0 to 1; best first


def use(
    index: Index | Workspace, repo_id: str, logit: int | None = None, *, sha: str | None = None, name: bool = True
) -> Usage:
    """Return how a model of the index is called.

    The code makes of an image what the prober made of a probe: the same classes, commits, weights and settings.

    Args:
        index: an open index, or a workspace that has one.
        repo_id: the model.
        logit: one of its outputs; the whole model when None.
        sha: its commit; the last indexed when None.
        name: say what the output recognises by its behaviour, too; not without an encoder.

    Raises `QueryError` for what is not in the index.
    """
    if isinstance(index, Workspace):
        import search

        index = search.open(index)
    gallery = index.gallery
    commit = gallery.commit(repo_id, sha)
    label: str | None = None
    names: tuple[tuple[str, float], ...] = ()
    if logit is not None:
        row = gallery.row(repo_id, logit, commit)
        label = gallery.logits.column("label")[row].as_py()
        names = _names(index, row) if name else ()
    return usage(facts(tables(index.workspace), repo_id, commit, logit, label), names)


def tables(workspace: Workspace) -> tuple[pa.Table, pa.Table]:
    """Return the rows of the catalog, old ones too, and of the attempts that `facts` looks into."""
    return workspace.catalog([*_LISTED, "crawled_at"], history=True), workspace.attempts([*_TRIED, "attempt"])


def facts(
    known: tuple[pa.Table, pa.Table], repo_id: str, sha: str, logit: int | None = None, label: str | None = None
) -> Facts:
    """Return what `tables` know of a model at its own commit: the newest row may be of a later one."""
    listed = _row(known[0], "id", repo_id, sha, "crawled_at")
    return Facts(repo_id, sha, logit, label, listed, _row(known[1], "repo_id", repo_id, sha, "attempt"))


def usage(facts: Facts, names: tuple[tuple[str, float], ...] = ()) -> Usage:
    """Return how a model is called of which ``facts`` are known; ``names`` are those of its output."""
    return Usage(
        repo_id=facts.repo_id,
        sha=facts.sha,
        logit=facts.logit,
        library="timm" if facts.timm else "transformers",
        install=f"pip install {'timm' if facts.timm else 'transformers torchvision'}",
        code=_code(facts),
        meaning=tuple(_meaning(facts, names)),
        quirks=tuple(_quirks(facts)),
        license=printable(facts.listed.get("license") or "", SHOWN),
        gated=facts.listed.get("gated") not in (None, "false"),
        label=facts.label,
        names=names,
    )


_LISTED = (
    "id", "sha", "model_type", "library_name", "problem_type", "safetensors", "weights_sha", "weights_ref", "license",
    "gated", "num_labels",
)  # fmt: skip
_TRIED = (
    "repo_id", "sha", "processor", "processor_source", "processor_assumed", "processor_settings", "architecture",
    "num_logits", "num_excluded", "problem_type", "label_quality", "probes_refused", "refused_reason",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What is known of a model; ``listed`` and ``tried`` are its rows in the catalog and the attempts, or empty."""

    repo_id: str
    sha: str
    logit: int | None
    label: str | None
    listed: dict[str, Any]
    tried: dict[str, Any]

    @property
    def timm(self) -> bool:
        """Whether timm loads it; what transformers' TimmWrapper saved, transformers does."""
        return self.listed.get("model_type") == "timm" and self.listed.get("library_name") != "transformers"

    @property
    def settings(self) -> dict[str, Any]:
        """The image processor's, as it was run; empty of old attempts."""
        known = json.loads(self.tried.get("processor_settings") or "{}")
        return known if isinstance(known, dict) else {}

    @property
    def mode(self) -> str:
        """What images are converted to."""
        return "L" if self.settings.get("mode") == "L" else "RGB"

    @property
    def activation(self) -> str:
        """What makes scores of the outputs, as source."""
        return {"multi_label_classification": ".sigmoid()", "regression": ""}.get(
            str(self.tried.get("problem_type") or self.listed.get("problem_type")), ".softmax(-1)"
        )

    @property
    def half(self) -> bool:
        """Whether its files may hold anything but 32-bit floats, in which transformers would compute."""
        stored = dict((self.listed.get("safetensors") or {}).get("parameters") or [])
        return set(stored) != {"F32"}


def _row(table: pa.Table, key: str, repo_id: str, sha: str, last: str) -> dict[str, Any]:
    found = table.filter(pc.and_(pc.equal(table.column(key), repo_id), pc.equal(table.column("sha"), sha)))
    return max(found.to_pylist(), key=lambda row: row[last], default={})


def _names(index: Index, row: int) -> tuple[tuple[str, float], ...]:
    from search.naming import Namer

    if index.gallery.calibration is None:
        return ()
    (named,) = Namer(index.gallery, index.texts, progress=False).names(np.array([row]), 3)
    return tuple((n.name, round(n.confidence, 3)) for n in named)


_CLASS = re.compile("[A-Z][A-Za-z0-9_]{0,60}ImageProcessor(Fast|Pil)?")


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("hubprobe"), undefined=StrictUndefined, autoescape=False, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    # ascii() of a stranger's text is a literal, whatever it holds. Comments stand behind code alone: one of its own in
    # the first two lines could declare an encoding.
    made.filters.update(literal=ascii, shown=lambda text: printable(text, SHOWN))
    return made.get_template("use.txt")


def _code(facts: Facts) -> str:
    tried, weights, kind = facts.tried, facts.listed.get("weights_sha"), str(facts.tried.get("processor"))
    kind = kind if _CLASS.fullmatch(kind) else "AutoImageProcessor"
    names = sorted({"AutoModelForImageClassification", kind} | ({"AutoConfig"} if weights else set()))
    made = {name: facts.settings[name] for name in ("size", "crop_size") if facts.settings.get(name)}
    sizes = ", ".join(f"{name}={_numbers(value)}" for name, value in made.items())
    count = int(tried.get("num_logits") or facts.listed.get("num_labels") or 1)
    output = "last_hidden_state" if tried.get("architecture") == "PPLCNetForImageClassification" else "logits"
    return _template().render(
        facts=facts, weights=weights, ref=facts.listed.get("weights_ref"), kind=kind, names=names, output=output,
        sizes=sizes if tried.get("processor_source") == "default" else None, top=min(5, max(count, 1)),
    )  # fmt: skip


def _numbers(value: Any) -> str:
    """Return the source of a size: numbers, or an object of them."""
    return ascii({str(k): v for k, v in value.items() if v is not None} if isinstance(value, dict) else value)


# ── words ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _meaning(facts: Facts, names: Sequence[tuple[str, float]]) -> list[str]:
    count = facts.tried.get("num_logits")
    of = f"{count} outputs" if count else "its outputs"
    kind = {
        ".softmax(-1)": f"a probability: the {of} add up to 1, so that one of them wins on any image, also on one "
        "that shows nothing the model knows",
        ".sigmoid()": f"a probability of its own for each of the {of}: several may be near 1, or none",
        "": "a number, as the model gives it: it was trained for regression",
    }[facts.activation]
    said = [f"scores: {kind}"]
    if facts.logit is not None:
        label = printable(facts.label or "", SHOWN)
        called = f'the model calls it "{label}"' if label else "the model has no name for it"
        said.append(f"output {facts.logit}: {called}")
        if names:
            alike = ", ".join(f"{printable(name, SHOWN)} ({confidence:.2f})" for name, confidence in names)
            said.append(f"by what it answers: {alike}; the numbers are confidences, 0 to 1")
    return said


_QUALITY = {
    "LABEL_i": "its labels are LABEL_0, LABEL_1 and so on: 'hubprobe describe' names what they answer",
    "numeric": "its labels are numbers: 'hubprobe describe' names what they answer",
    "missing": "it has no labels: 'hubprobe describe' names what its outputs answer",
    "inferred": "its labels are not its own: they are those of the data set that it seems to be trained on",
    "guessed_by_count": "it has no labels; its number of outputs is that of ImageNet",
}  # fmt: skip


def _quirks(facts: Facts) -> list[str]:
    tried, listed, said = facts.tried, facts.listed, []
    if not tried:
        return ["it came with a release, or its attempt is gone: the code is what its library is usually called with"]
    if listed.get("weights_sha"):
        said.append(
            f"its weights are those of {printable(listed.get('weights_ref'), SHOWN)}, a conversion to safetensors that "
            "is not merged"
        )
    if tried.get("processor_source") == "default" and not facts.timm:
        said.append("it has no image processor: the code makes the one that belongs to its architecture")
        if not facts.settings:
            said.append("at which size was not kept: run 'hubprobe probe' on it again to know, or compare its card")
    if assumed := tried.get("processor_assumed"):
        said.append(f"not said by the repository, and assumed of its processor: {printable(assumed, 300)}")
    if refused := tried.get("probes_refused"):
        reason = printable(tried.get("refused_reason") or "", 200)
        said.append(f"its processor failed on {len(refused)} of the probe images: {reason}")
    if facts.mode == "L":
        said.append("it reads images of one channel: colours are lost before it sees them")
    if excluded := tried.get("num_excluded"):
        said.append(f"{excluded} of its outputs are constant or not finite: they answer nothing")
    if facts.half and not facts.timm and (listed.get("safetensors") or {}).get("parameters"):
        said.append("its weights are stored in half precision; the code computes in float32, as the prober did")
    if (quality := tried.get("label_quality")) in _QUALITY:
        said.append(_QUALITY[quality])
    return said
