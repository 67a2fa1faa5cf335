"""The page of a model: what it is, how its probing went, where it comes from, and a name for each of its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.page import cards
from hubprobe.page.asked import Asked
from hubprobe.page.html import Html, address, el, join, number, text
from workspace import HubprobeError

if TYPE_CHECKING:
    from hubprobe.page.opened import Opened

PER_PAGE = 100
"""Outputs listed at once."""

_ATTEMPT = (
    "outcome", "status", "reason", "attempt", "started_at", "seconds_fetch", "seconds_load", "seconds_preprocess",
    "seconds_forward", "seconds_write", "bytes_fetched", "device", "dtype", "batch_size", "processor",
    "processor_source", "probes_run", "num_logits", "num_excluded", "peak_memory_bytes", "run_id",
)  # fmt: skip
_MODEL = (
    "sha", "library_name", "license", "downloads", "likes", "pipeline_tag", "architecture", "model_type", "parameters",
    "weights_bytes", "image_size", "num_labels", "num_logits", "label_quality", "problem_type", "createdAt",
    "lastModified", "crawled_at",
)  # fmt: skip
_NAMES = {
    "sha": "commit", "createdAt": "created", "lastModified": "last modified", "license": "licence",
    "library_name": "library", "num_labels": "outputs announced", "num_logits": "outputs searchable",
    "num_excluded": "outputs excluded", "label_quality": "labels are", "bytes_fetched": "fetched", "run_id": "run",
    "started_at": "started", "pipeline_tag": "task", "crawled_at": "crawled",
}  # fmt: skip
_NO_ROW = el("p", "no row in this workspace", cls="soft")


def attempt(opened: Opened, repo_id: str, sha: str) -> dict[str, Any] | None:
    """Return the last attempt at a model, or None when the workspace has no such row, as after an import."""
    import pyarrow.compute as pc

    try:
        table = opened.index.workspace.attempts([*_ATTEMPT, "repo_id", "sha"])
    except HubprobeError:
        return None
    rows = table.filter(pc.and_(pc.equal(table["repo_id"], repo_id), pc.equal(table["sha"], sha)))
    return dict(rows.slice(0, 1).to_pylist()[0]) if rows.num_rows else None


def model(opened: Opened, repo_id: str, sha: str | None, *, find: str = "", start: int = 0) -> Html:
    """Return the body of a model's page; raises `QueryError` when the model is not in the index.

    Args:
        opened: where the model is.
        repo_id: which.
        sha: which commit; the last indexed when None.
        find: words that an output's label or first name contains; all outputs when empty.
        start: first output listed, of those found.
    """
    gallery = opened.index.gallery
    sha = gallery.commit(repo_id, sha or None)
    rows = np.flatnonzero(gallery.is_model(repo_id, sha))
    facts = gallery.models.slice(int(gallery.model_of[rows[0]]), 1).to_pylist()[0]
    link = cards.hub_address(opened.index.workspace.config.endpoint, repo_id, sha)
    head = el(
        "div",
        el("h1", text(repo_id, 200)),
        el("p", el("a", "on the Hub", href=link, rel="noopener noreferrer")) if link else None,
        cls="title",
    )
    summary = el("p", text(facts["card_summary"], 600), cls="summary") if facts["card_summary"] else None
    tried = attempt(opened, repo_id, sha)
    return join(
        head,
        summary,
        el(
            "div",
            _section("The model", _table(facts, _MODEL)),
            _section("Its attempt", _table(tried, _ATTEMPT) if tried else _NO_ROW),
            _section("Its lineage", _lineage(opened, facts)),
            cls="columns",
        ),
        _outputs(opened, repo_id, sha, rows, find, start),
    )


def _section(heading: str, *inner: object) -> Html:
    return el("section", el("h2", heading), inner)


def _table(row: Mapping[str, Any], names: Sequence[str]) -> Html:
    shown = [(name, value(name, row.get(name))) for name in names]
    cells = [el("tr", el("th", _words(name), scope="row"), el("td", said)) for name, said in shown if said]
    return el("table", el("tbody", cells), cls="facts")


def _words(name: str) -> str:
    return _NAMES.get(name, name.removeprefix("seconds_").removesuffix("_bytes").replace("_", " "))


def value(name: str, found: Any) -> str:
    """Return a fact for people, in its unit; empty when it is not known."""
    if found is None or found == "":
        return ""
    if isinstance(found, datetime):
        return found.strftime("%Y-%m-%d %H:%M UTC")
    if name == "sha":
        return text(found, 12).removesuffix("…")
    if name.startswith("seconds"):
        return f"{found:.2f} s"
    if "bytes" in name:
        return f"{found / 1e6:.1f} MB" if found < 1e9 else f"{found / 1e9:.2f} GB"
    if isinstance(found, (int, float)):
        return number(found)
    return text(found, 300)


def _lineage(opened: Opened, facts: Mapping[str, Any]) -> Html:
    known = set(opened.index.gallery.models.column("repo_id").to_pylist())
    bases = [_linked(base, known) for base in facts["base_models"] or []]
    copies = [c for c in opened.index.gallery.family_members.get(facts["family"], []) if c != facts["repo_id"]]
    near = opened.lookalikes(facts["repo_id"], facts["sha"])
    alike = [
        el(
            "li",
            _linked(row["repo_id"], known),
            el("span", f" {row['score']:.2f}, {100 * row['shared']:.0f} %", cls="soft"),
        )
        for row in near
    ]
    return join(
        el("h3", "Says it was made from"),
        el("ul", [el("li", base) for base in bases]) if bases else el("p", "nothing said", cls="soft"),
        el("h3", "Near-copies"),
        el("ul", [el("li", _linked(copy, known)) for copy in copies[:20]]) if copies else el("p", "none", cls="soft"),
        el("h3", "Recognises the same: likeness, share of its outputs"),
        el("ul", alike) if alike else el("p", "none", cls="soft"),
    )


def _linked(repo_id: str, known: set[str]) -> Html:
    shown = text(repo_id, 120)
    return el("a", shown, href=cards.model_address(repo_id)) if repo_id in known else el("span", shown)


def _outputs(opened: Opened, repo_id: str, sha: str, rows: Any, find: str, start: int) -> Html:
    gallery, words = opened.index.gallery, find.lower().split()
    logits = gallery.logits.select(["logit", "label"]).take(rows).to_pylist()
    order = sorted(range(len(rows)), key=lambda i: logits[i]["logit"])
    listed = [(int(rows[i]), logits[i]) for i in order]
    if words:
        named = opened.names.of([row for row, _ in listed])
        listed = [(row, one) for row, one in listed if _matches(words, one["label"], named.get(row))]
    start = min(max(start, 0), max(len(listed) - 1, 0)) // PER_PAGE * PER_PAGE
    some = listed[start : start + PER_PAGE]
    named = opened.names.of([row for row, _ in some])
    lines = [_output(opened, repo_id, row, one, named.get(row)) for row, one in some]
    search = el(
        "form",
        el("input", type="hidden", name="repo", value=repo_id),
        el("input", type="hidden", name="sha", value=sha),
        el("label", "Find an output", for_="find"),
        el("input", type="search", id="find", name="find", value=find, maxlength=100, autocomplete="off"),
        el("button", "Find", type="submit"),
        action="model",
        method="get",
        cls="find",
    )
    shown = f"{number(len(listed))} of {number(len(rows))} outputs" if words else f"{number(len(rows))} outputs"
    return el(
        "section",
        el("div", el("h2", shown), search if len(rows) > 20 or words else None, cls="title"),
        el("p", "Suggested names are being prepared.", cls="soft") if opened.names.state == "preparing" else None,
        el("ol", lines, cls="outputs") if lines else el("p", "No output is called that.", cls="notice"),
        _pager(repo_id, sha, find, start, len(listed)),
    )


def _output(opened: Opened, repo_id: str, row: int, one: Mapping[str, Any], named: Sequence[Any] | None) -> Html:
    here = f"logit-{one['logit']}"
    return el(
        "li",
        el("span", one["logit"], cls="rank"),
        el(
            "div",
            el("p", cards.label(one["label"])),
            el("p", el("span", "answers like ", cls="soft"), cards.names(named), cls="name") if named else None,
            el(
                "p",
                el("a", "More like this", href=Asked(like=repo_id, logit=one["logit"]).url(), aria_describedby=here),
                cls="more",
            ),
            id=here,
        ),
        cards.strip(opened.strips.strongest(row)[:6], opened.strips.probe_set),
    )


def _matches(words: Sequence[str], label: str | None, named: Sequence[Any] | None) -> bool:
    text_ = f"{label or ''} {named[0].name if named else ''}".lower()
    return all(word in text_ for word in words)


def _pager(repo_id: str, sha: str, find: str, start: int, many: int) -> Html | None:
    if many <= PER_PAGE:
        return None
    links = []
    for first in range(0, many, PER_PAGE):
        shown = f"{first + 1}–{min(first + PER_PAGE, many)}"
        here = address("model", repo=repo_id, sha=sha, find=find, start=first)
        links.append(el("span", shown, aria_current="page") if first == start else el("a", shown, href=here))
    return el("nav", links[:200], cls="pager", aria_label="Outputs")
