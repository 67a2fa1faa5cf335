"""The pages: the start, the results of a question, what went wrong, and how to ask without a browser."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from hubprobe.page import cards
from hubprobe.page.asked import MOST, Asked
from hubprobe.page.html import Html, el, join, number, text
from hubprobe.page.snippets import snippets

if TYPE_CHECKING:
    from hubprobe.page.answers import Answer
    from hubprobe.page.opened import Example, Opened
    from search.text.calibration import Coverage

_ABOUT_SCORE = (
    "The score ranks; it is no probability. Above all look at the strip: these are the probe images that the output "
    "answers most strongly, in standard deviations above its mean answer."
)


def home(opened: Opened) -> Html:
    """Return the start page: words to try, each with the strip of an output that carries it."""
    gallery = opened.index.gallery
    numbers = (
        f"{number(gallery.models.num_rows)} models and {number(len(gallery))} of their outputs, each run on the same "
        f"{number(gallery.n_probes)} probe images."
    )
    tiles = [
        el(
            "li",
            el("a", text(word, 40), href=Asked(q=word).url()),
            cards.strip(opened.strips.strongest(row)[:4], opened.strips.probe_set, eager=True),
        )
        for word, row in opened.examples
    ]
    return join(
        el("p", numbers, " Labels need not say anything: outputs are found by what they answer.", cls="intro"),
        el("section", el("h2", "Try"), el("ul", tiles, cls="tiles"), cls="try") if tiles else None,
    )


def results(opened: Opened, asked: Asked, found: Answer, workspace: str, example: Example | None = None) -> Html:
    """Return the hits of a question, with how sure one can be and the same question as code."""
    image_name = example.name if example is not None else ""
    many = len(found.hits)
    what = {"logit": "outputs", "model": "models", "family": "families"}[asked.by]
    head = el(
        "div",
        el("h1", title(asked, image_name), id="results"),
        el("p", f"{many} {what} in {found.seconds * 1000:.0f} ms", role="status", cls="soft"),
        cls="title",
    )
    same = el(
        "details",
        el("summary", "The same question as Python, SQL and command line"),
        [
            el("div", el("h3", one.name), el("pre", el("code", one.code), tabindex="0"), cls="snippet")
            for one in snippets(asked, workspace, image_name or "example.png")
        ],
        cls="snippets",
    )
    listed = el("ol", [cards.card(hit, asked, opened.strips.probe_set) for hit in found.hits], cls="cards")
    pending = el("p", "Suggested names are being prepared; they appear in a minute.", cls="soft note")
    return join(
        head,
        _asked(opened, asked, example),
        _sure(asked, found.coverage),
        same,
        pending if opened.names.state == "preparing" and many else None,
        listed if many else _nothing(asked),
        el("p", el("a", "More", href=asked.url(n=min(MOST, asked.n * 2)), cls="button"), cls="next")
        if many == asked.n < MOST
        else None,
    )


def _asked(opened: Opened, asked: Asked, example: Example | None) -> Html | None:
    """Return what was asked with, where that is a picture or an output."""
    if example is not None:
        picture = f"data:image/webp;base64,{base64.b64encode(example.picture).decode()}"
        return el(
            "div",
            el("img", src=picture, alt="the example image"),
            el("div", "asked with ", text(example.name)),
            cls="asked",
        )
    if asked.kind != "like":
        return None
    gallery = opened.index.gallery
    row = gallery.row(asked.like, int(asked.logit or 0))
    link = el("a", text(asked.like, 120), href=cards.model_address(asked.like))
    about = el("div", el("p", "asked with ", cards.label(gallery.logits.column("label")[row].as_py())), el("p", link))
    return el("div", about, cards.strip(opened.strips.strongest(row), opened.strips.probe_set, eager=True), cls="asked")


def title(asked: Asked, image_name: str = "") -> str:
    """Return what was asked, for the heading and the tab."""
    if asked.kind == "text":
        return f"“{text(asked.q, 100)}”"
    if asked.kind == "like":
        return f"Like logit {asked.logit} of {text(asked.like, 100)}"
    return f"Like {text(image_name, 60) or 'the example image'}"


def failed(heading: str, message: str) -> Html:
    """Return what went wrong and what to do, without anything of the inside."""
    return el("div", el("h1", heading), el("p", text(message, 600)), cls="notice bad", role="alert")


def _nothing(asked: Asked) -> Html:
    loosen = el("a", "Ask without filters", href=asked.unfiltered())
    parts = [el("p", "No output passes the filters."), el("p", loosen) if asked.filtered else None]
    return el("div", parts, cls="notice")


def _sure(asked: Asked, coverage: Coverage | None) -> Html | None:
    if coverage is None:
        if asked.kind == "text":
            return None
        why = f"How sure: not measured for an {'example' if asked.kind == 'image' else 'output'}. "
        return el("p", why + _ABOUT_SCORE, cls="soft note")
    signs = [
        f"the probes show it: {coverage.contrast:+.1f} standard deviations better than usual for a word",
        f"trust in the nearest label being the same thing: {coverage.trust:.2f}",
        f"the nearest output stands {coverage.standing:.1f} standard deviations above the others",
    ]
    signs_list = el("ul", [el("li", sign) for sign in signs])
    more = el("details", el("summary", "why"), signs_list, el("p", _ABOUT_SCORE))
    share = f"{100 * coverage.probability:.0f} %"
    if coverage.covered:
        said = join(el("b", f"How sure: {share}"), " that one of the ten nearest is right.")
        return el("div", el("p", said), more, cls="sure")
    said = join(
        el("b", "Probably not covered. "),
        f"Only {share} that one of the ten nearest is right: ",
        "the probes show nothing like it" if coverage.contrast < 0 else "no output stands out",
        ". What follows is the nearest there is.",
    )
    return el("div", el("p", said), more, cls="sure not-covered", role="note")


def about(base: str, mcp: bool) -> Html:
    """Return how to ask without a browser; ``base`` is the address this page was asked at."""
    client = (
        "from gradio_client import Client\n\n"
        f"client = Client({base!r})\n"
        "for hit in client.predict('dog', where=\"downloads > 1000\", limit=5, api_name='/search'):\n"
        "    print(hit['repo_id'], hit['logit'], hit['label'], hit['name'], hit['score'])\n"
    )
    curl = (
        f"curl -s {base}gradio_api/run/search -H 'content-type: application/json' \\\n"
        '  -d \'{"data": ["dog", "downloads > 1000", "logit", 5]}\'\n'
    )
    rows = [
        ("/search", "text, where, by, limit", "outputs that recognise a text"),
        ("/search_image", "image (base64), where, by, limit", "outputs that recognise what an image shows"),
        ("/similar", "repo_id, logit, where, by, limit", "outputs that answer like a given one"),
        ("/describe", "repo_id", "a name for every output of a model"),
        ("/coverage", "text, where", "how probable it is that a text can be answered"),
    ]
    table = el(
        "table",
        el("thead", el("tr", [el("th", cell, scope="col") for cell in ("endpoint", "arguments", "answers with")])),
        el("tbody", [el("tr", el("td", el("code", a)), el("td", b), el("td", c)) for a, b, c in rows]),
    )
    tools = join(
        el("h2", "MCP"),
        el(
            "p",
            "The same five as tools of a Model Context Protocol server, streamable HTTP, at ",
            el("code", f"{base}gradio_api/mcp/"),
            ".",
        ),
    )
    return el(
        "article",
        el("h1", "Asking without a browser"),
        el(
            "p",
            "Every answer is a list of plain records. Schema: ",
            el("a", "gradio_api/info", href="gradio_api/info"),
            ".",
        ),
        el("div", table, cls="wide-table"),
        _code("Python", client),
        _code("Command line", curl),
        tools if mcp else None,
        cls="prose",
    )


def _code(name: str, code: str) -> Html:
    return el("div", el("h3", name), el("pre", el("code", code), tabindex="0"), cls="snippet")
