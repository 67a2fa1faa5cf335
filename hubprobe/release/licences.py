"""Which repositories a release may speak of: one table of licences, one of rules.

A release holds measurements of a model and what the Hub's API says of it; no weights, and of its texts only labels and,
where a licence is stated, the first sentences of its card. Measurements are facts, so a licence rarely forbids them.
The default is careful all the same: whoever restricted what may be made from a model, or wrote terms of their own that
nobody here has read, is left out and counted. This is no legal advice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from workspace import ConfigError

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

KEPT = ("permissive", "copyleft", "responsible", "none")
"""The classes released unless told otherwise."""

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


def checked(licences: Collection[str]) -> frozenset[str]:
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

RULES: tuple[tuple[str, str, Callable[[Row], bool]], ...] = (
    ("private", "private", lambda row: bool(row["private"])),
    ("disabled", "disabled by the Hub", lambda row: bool(row["disabled"]) or "disabled" in row["ends"]),
    ("gone", "deleted or made private after it was listed", lambda row: "gone" in row["ends"]),
    ("gated", "gated: its author wants to be asked", lambda row: row["gated"] not in ("false", None, "")),
    ("gated", "gated: its author wants to be asked", lambda row: "gated" in row["ends"]),
    (
        "malformed_row",
        "the Hub's row cannot be read, so its terms are unknown",
        lambda row: "malformed_row" in row["ends"],
    ),
    ("opted_out", "its author asked to be left out", lambda row: "opted_out" in row["ends"]),
    ("licence_excluded", "its licence is on the crawl's list", lambda row: "licence_excluded" in row["ends"]),
)
"""Reason, what it says, and whether it holds for a catalog row with ``ends``: its eligibility and last status."""

REASONS = {name: sentence for name, sentence, _ in RULES} | {
    "not_listed": "attempted, but no longer in the catalog",
    **{f"licence_{name}": f"licence: {sentence}" for name, sentence in CLASSES.items()},
}
"""Every reason for leaving a repository out, and what it says."""


def why_left_out(row: Row, licences: Collection[str], opt_out: Collection[str]) -> str:
    """Return the reason why a repository is left out, or an empty string when it is kept.

    Args:
        row: of the catalog, with ``ends`` added: its eligibility and the status of its last attempt.
        licences: classes and tags to keep, as `checked` returns them.
        opt_out: lower-case owners and ``owner/name``.
    """
    for name in (str(row["id"]).lower(), str(row["renamed_to"] or "").lower()):
        if name in opt_out or name.split("/", maxsplit=1)[0] in opt_out:
            return "opted_out"
    for reason, _, holds in RULES:
        if holds(row):
            return reason
    kind = class_of(row["license"])
    tag = str(row["license"] or "").lower()
    return "" if kind in licences or tag in licences else f"licence_{kind}"
