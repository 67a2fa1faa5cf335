"""What of a workspace goes into a release: decided here, before anything is written.

A release holds measurements of a model and what the Hub's API says of it; no weights, and of its texts only labels and,
where a licence is stated, the first sentences of its card. Measurements are facts, so a licence rarely forbids them.
The default is careful all the same: whoever restricted what may be made from a model, or wrote terms of their own that
nobody here has read, is left out and counted. This is no legal advice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from workspace import ConfigError, Workspace, WorkspaceError, records
from workspace.files import require_file, using

CLASSES = {
    "permissive": "use, change and pass on, with attribution at most",
    "copyleft": "the same, on the same terms",
    "responsible": "open, with a list of forbidden uses (OpenRAIL)",
    "none": "no licence is stated, hence nothing that forbids to measure",
    "noncommercial": "commercial use is forbidden, which a public table cannot see to",
    "noderivatives": "what is made from it may not be passed on",
    "vendor": "a company's own terms, which go with whatever is made from it",
    "other": "'other', or a tag that this table does not know: terms that nobody here has read",
}
"""The classes of licences, and why each is kept or left out."""

_TAGS = {
    "permissive": """
        afl-3.0 apache-2.0 artistic-2.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 cc-by-2.0 cc-by-2.5
        cc-by-3.0 cc-by-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0 ecl-2.0 etalab-2.0 isc mit ms-pl ncsa odc-by
        ofl-1.1 openmdw pddl postgresql public-domain unlicense wtfpl zlib
    """,
    "copyleft": """
        agpl-3.0 cc-by-sa-2.0 cc-by-sa-2.5 cc-by-sa-3.0 cc-by-sa-4.0 cdla-sharing-1.0 epl-1.0 epl-2.0 eupl-1.1 eupl-1.2
        gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 lgpl-lr lppl-1.3c mpl-2.0 odbl osl-3.0
    """,
    "responsible": """
        bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m creativeml-openrail-m openrail openrail++
    """,
    "noncommercial": """
        apple-amlr c-uda cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
        deepfloyd-if-license fair-noncommercial-research-license h-research intel-research
    """,
    "noderivatives": "cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nd-3.0 cc-by-nd-4.0",
    "vendor": "apple-ascl gemma grok2-community llama2 llama3 llama3.1 llama3.2 llama3.3 llama4",
}
_CLASS = {tag: name for name, tags in _TAGS.items() for tag in tags.split()}


def class_of(tag: str | None) -> str:
    """Return the class of a licence tag, however it is written: ``CC0-1.0``, ``public domain``, None."""
    clean = "-".join((tag or "").lower().split())
    return _CLASS.get(clean, "other") if clean else "none"


def checked_licences(licences: Collection[str]) -> frozenset[str]:
    """Return classes and tags to keep, ``all`` spelt out; raises `ConfigError` for what is neither."""
    wanted = {name.strip().lower() for name in licences if name.strip()}
    if "all" in wanted:
        return frozenset(CLASSES)
    unknown = sorted(wanted - set(CLASSES) - set(_CLASS))
    if unknown:
        raise ConfigError(
            f"unknown licence '{unknown[0]}': name classes ({', '.join(CLASSES)}, or all) or the Hub's tags, "
            "such as cc-by-nc-4.0"
        )
    return frozenset(wanted)


def redistributable(tag: str | None) -> bool:
    """Return whether a probe image under this licence may be passed on in a public dataset."""
    return class_of(tag) in ("permissive", "copyleft")


Row = Mapping[str, Any]

_WHY = {
    "private": "private",
    "disabled": "disabled by the Hub",
    "gone": "deleted or made private after it was listed",
    "gated": "gated: its author wants to be asked",
    "malformed_row": "the Hub's row cannot be read, so its terms are unknown",
    "opted_out": "its author asked to be left out",
    "licence_excluded": "its licence is on the crawl's list",
}
"""Reasons that a row states, or its eligibility and last status (``ends``); the first counts."""

REASONS = _WHY | {
    "not_listed": "attempted, but no longer in the catalog",
    **{f"licence_{name}": f"licence: {sentence}" for name, sentence in CLASSES.items()},
}
"""Every reason for leaving a repository out, and what it says."""


def why_left_out(row: Row, licences: Collection[str], opt_out: Collection[str]) -> str:
    """Return the reason why a repository is left out, or an empty string when it is kept.

    ``row`` is of the catalog, with ``ends`` added: its eligibility and the status of its last attempt. ``licences`` are
    those to keep, as `checked_licences` returns them, ``opt_out`` lower-case owners and ``owner/name``.
    """
    for name in (str(row["id"]).lower(), str(row["renamed_to"] or "").lower()):
        if name in opt_out or name.split("/", maxsplit=1)[0] in opt_out:
            return "opted_out"
    stated = {"private": row["private"], "disabled": row["disabled"], "gated": row["gated"] not in ("false", None, "")}
    for reason in _WHY:
        if stated.get(reason) or reason in row["ends"]:
            return reason
    for tag in _licences(row):  # each of several holds
        kind = class_of(tag)
        if kind not in licences and str(tag or "").lower() not in licences:
            return f"licence_{kind}"
    return ""


def _licences(row: Row) -> list[str | None]:
    """Return every licence of a repository, one None when it states none; catalogs of old name the first one alone."""
    return row["licenses"] or [row["license"]]


OPT_OUT = "release-optout.txt"
"""In the workspace: owners or owner/name, one a line; what follows a # is a remark."""

MAX_OPT_OUT = 16 * 1024**2
"""Bytes of it: 400,000 repositories."""

_PLACES = "home|Users|root|tmp|var|mnt|opt|usr|srv|data|work|scratch"
_FOREIGN = re.compile(rf"(?<![\w/:.])(?:/(?:{_PLACES})/|[A-Za-z]:\\)[^\s'\",;)]*")


@dataclass(frozen=True)
class Plan:
    """What is released."""

    models: pa.Table  # newest catalog rows of the repositories kept, `records.CATALOG`, by id
    attempts: pa.Table  # last attempts at them, `records.ATTEMPTS`, by repository and commit
    left_out: dict[str, int]  # repositories left out, by reason, most frequent first
    probe_images: bool  # whether the probes' images and captions may be passed on
    licences: tuple[str, ...]  # classes and tags of models kept, sorted

    @property
    def kept(self) -> frozenset[str]:
        """Repositories in the release."""
        return frozenset(self.models["id"].to_pylist())


def plan(
    workspace: Workspace,
    *,
    keep: tuple[str, ...] | None = None,
    probes_license: str | None = None,
    probe_images: bool = True,
) -> Plan:
    """Decide, by licences, gating and opt-outs, what of ``workspace`` may be published.

    It has a catalog, attempts and a probe set; the options are those of `hubprobe.release.release`. Raises
    `ConfigError` for an unknown licence, `MissingStepError` when nothing was crawled.
    """
    settings = workspace.config.release
    kept_licences = checked_licences(settings.licenses if keep is None else keep)
    opt_out = _opt_out(workspace)
    catalog, attempts = workspace.catalog(), workspace.attempts()
    last = {r["repo_id"]: r["status"] for r in attempts.select(["repo_id", "status"]).to_pylist()}
    columns = ["id", "private", "disabled", "gated", "license", "licenses", "renamed_to", "eligibility"]
    reasons = []
    for row in catalog.select(columns).to_pylist():
        row["ends"] = (row["eligibility"], last.get(row["id"]))
        reasons.append(why_left_out(row, kept_licences, opt_out))
    models = catalog.filter(pa.array([not reason for reason in reasons], pa.bool_()))
    kept = pa.array(models["id"].to_pylist(), pa.string())
    unlisted = set(last) - set(catalog["id"].to_pylist())
    counts = Counter(reason for reason in reasons if reason)
    counts["not_listed"] = len(unlisted)
    attempts = attempts.filter(pc.is_in(attempts["repo_id"], value_set=kept))
    return Plan(
        _published(models).sort_by("id").cast(records.CATALOG),
        _scrubbed(attempts).sort_by([("repo_id", "ascending"), ("sha", "ascending")]),
        {name: count for name, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count},
        probe_images and _may_pass_on(workspace, probes_license or settings.probes_license),
        tuple(sorted(kept_licences)),
    )


def _opt_out(workspace: Workspace) -> frozenset[str]:
    config = workspace.config
    names = [*config.crawl.opt_out, *config.release.opt_out]
    path = workspace.root / OPT_OUT
    if path.exists() or path.is_symlink():
        require_file(path)
        if path.stat().st_size > MAX_OPT_OUT:
            raise WorkspaceError(f"{path} has more than {MAX_OPT_OUT:,} bytes: it is to hold names, one a line")
        try:
            with using(path, "read"):
                names += [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
        except UnicodeDecodeError as error:
            raise WorkspaceError(f"{path} is not UTF-8 text: write it again, names, one a line") from error
    return frozenset(name.strip().lower() for name in names if name.strip())


def _may_pass_on(workspace: Workspace, stated: str) -> bool:
    """Return whether every probe's own licence, or the one stated for those without, lets its image be passed on.

    All or none: evidence with holes would look like a broken index.
    """
    own = workspace.probes(["license"])["license"].to_pylist()
    return bool(own) and all(redistributable(tag or stated) for tag in own)


def _published(models: pa.Table) -> pa.Table:
    """Return catalog rows without machines' paths; a card's words only where its repository states a licence."""
    models = _scrubbed(models)
    if "card_summary" not in models.column_names:
        return models
    licences = map(_licences, models.select(["license", "licenses"]).to_pylist())
    stated = [not {class_of(tag) for tag in tags} & {"none", "other"} for tags in licences]
    words = pc.if_else(pa.array(stated, pa.bool_()), models["card_summary"], pa.scalar(None, pa.string()))
    return models.set_column(models.column_names.index("card_summary"), models.schema.field("card_summary"), words)


def _scrubbed(table: pa.Table) -> pa.Table:
    """Return ``table`` with this machine's folders cut out of ``reason``: an exception may name them."""
    column = [scrub(text) for text in table["reason"].to_pylist()]
    field = table.schema.field("reason")
    return table.set_column(table.column_names.index("reason"), field, pa.array(column, pa.string()))


def scrub(text: str | None) -> Any:
    """Return ``text`` with absolute paths of a machine reduced to their last part."""
    if not text:
        return text
    return _FOREIGN.sub(lambda path: "…/" + re.split(r"[/\\]", path[0].rstrip("/\\"))[-1], text)
