"""What is drawn of a hit: its card, its evidence strip, its names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from hubprobe.page.asked import Asked
from hubprobe.page.html import Html, address, el, join, short, text

if TYPE_CHECKING:
    from hubprobe.page.strips import Answer
    from search.naming import Name

_FOUND_BY = {
    "zero-shot": "what the encoder sees in the probes",
    "labels": "labels of other models whose outputs answer alike",
    "map": "what was learned from labels and the outputs that carry them",
}
_JUDGES = {"labels": "other models’ labels", "zero-shot": "the encoder"}


def card(hit: Mapping[str, Any], asked: Asked, probe_set: str) -> Html:
    """Return the card of a hit of `hubprobe.page.answers`."""
    repo, logit = hit["repo_id"], hit["logit"]
    here = f"hit-{hit['rank']}"
    more = Asked(like=repo, logit=logit, by=asked.by)
    head = el(
        "div",
        el("span", hit["rank"], cls="rank", aria_hidden="true"),
        el(
            "div",
            el("h3", label(hit["label"]), id=here),
            el("p", el("a", text(repo, 120), href=model_address(repo, hit["sha"])), cls="repo"),
            el("p", [el("span", fact) for fact in (f"logit {logit}", *_facts(hit))], cls="facts"),
            _named(hit["names"]),
            el(
                "p",
                el("b", f"{hit['score']:.3f}"),
                " score",
                _sides(hit.get("found_by")),
                _more(more, here),
                cls="score",
            ),
            _copies(hit.get("copies")),
            cls="about",
        ),
        cls="head",
    )
    return el(
        "li",
        el(
            "article", head, strip(hit["evidence"], probe_set, eager=hit["rank"] <= 4), aria_labelledby=here, cls="card"
        ),
    )


@lru_cache(maxsize=8_192)  # about 3 KB each; a logit is found by many questions
def strip(answers: tuple[Answer, ...], probe_set: str, *, eager: bool = False) -> Html:
    """Return the evidence: thumbnails of the probes a logit answers most strongly, with captions and strengths."""
    figures = [
        el(
            "li",
            el(
                "span",
                el(
                    "img",
                    src=f"probe/{probe_set}/{one.probe}.webp",
                    alt=text(one.caption, 120) or f"probe {one.probe}",
                    loading=None if eager else "lazy",
                    decoding="async",
                    width=112,
                    height=112,
                ),
                el("span", f"{one.strength:+.1f}", cls="strength", title="standard deviations above its mean answer"),
                cls="thumb",
            ),
            el("span", text(one.caption, 90), cls="caption", title=text(one.caption, 300), aria_hidden="true"),
        )
        for one in answers
    ]
    return el("ul", figures, cls="strip", aria_label="Probes it answers most strongly")


def label(value: str | None, limit: int = 80) -> Html:
    """Return what an output calls itself, or that it says nothing."""
    shown = text(value, limit) if value else ""
    return el("span", shown, cls="label") if shown else el("span", "no label", cls="label none")


def names(found: Iterable[Name]) -> Html:
    """Return suggested names, the first with its confidence and who says so."""
    best, *others = list(found)
    rest = ", ".join(text(other.name, 40) for other in others)
    return join(
        el("b", text(best.name, 60)),
        el("span", f" {best.confidence:.2f}", cls="confidence"),
        el("span", f" by {_JUDGES[best.source]}", cls="soft"),
        el("span", f"; or {rest}", cls="soft") if rest else None,
    )


def model_address(repo_id: str, sha: str | None = None) -> str:
    """Return the address of a model's page."""
    return address("model", repo=repo_id, sha=sha)


def hub_address(endpoint: str, repo_id: str, sha: str | None = None) -> str | None:
    """Return where a repository lies on the Hub; None when that is not a web address one could follow."""
    if not endpoint.startswith("https://"):
        return None
    tree = f"/tree/{quote(sha, safe='')}" if sha else ""
    return f"{endpoint.rstrip('/')}/{quote(repo_id, safe='/')}{tree}"


def _named(found: Sequence[Name]) -> Html | None:
    return el("p", el("span", "answers like ", cls="soft"), names(found), cls="name") if found else None


def _more(asked: Asked, here: str) -> Html:
    return el("a", "More like this", href=asked.url(), aria_describedby=here, cls="more")


def _facts(hit: Mapping[str, Any]) -> list[str]:
    facts = []
    if hit["parameters"] is not None:
        facts.append(f"{short(hit['parameters'])} parameters")
    if hit["downloads"] is not None:
        facts.append(f"{short(hit['downloads'])} downloads")
    if hit["license"]:
        facts.append(text(hit["license"], 30))
    return facts


def _sides(found_by: Sequence[str] | None) -> Html | None:
    if not found_by:
        return None
    sides = [el("span", f"{side}", cls="side", title=f"found by {_FOUND_BY.get(side, side)}") for side in found_by]
    return join(el("span", " found by ", cls="soft"), sides)


def _copies(copies: Sequence[str] | None) -> Html | None:
    if not copies:
        return None
    shown = ", ".join(text(copy, 80) for copy in copies[:3])
    more = f" and {len(copies) - 3} more" if len(copies) > 3 else ""
    return el("p", f"near-copies: {shown}{more}", cls="facts")
