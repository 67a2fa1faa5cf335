"""The frame of every page, and the search form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hubprobe.page.asked import UNITS, Asked
from hubprobe.page.html import Html, el, join, number, text

STYLE = "static/page.css"
SCRIPT = "static/page.js"
_HITS = {"logit": "outputs", "model": "models", "family": "families of near-copies"}
_QUALITY = {
    "named": "words",
    "LABEL_i": "LABEL_0, LABEL_1 …",
    "numeric": "numbers",
    "missing": "none",
    "guessed_by_count": "guessed from their number",
}

Facets = Mapping[str, Sequence[tuple[str, int]]]


def page(title: str, body: Html, *, version: str, counts: str = "", search: Html | None = None) -> str:
    """Return a whole document.

    Args:
        title: what a tab and a bookmark show; untrusted.
        body: content of ``main``.
        version: of style and script, so that a browser fetches them anew when they change.
        counts: what the index holds, for the footer.
        search: the search form; none on a page that only says something.
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="same-origin"),
        el("title", f"{text(title, 80)} · hubprobe" if title else "hubprobe"),
        el("link", rel="stylesheet", href=f"{STYLE}?v={version}"),
        el("link", rel="icon", href="favicon.ico", type="image/svg+xml"),
        el("script", src=f"{SCRIPT}?v={version}", defer=True),
    )
    top = el(
        "header",
        el("a", "hub", el("b", "probe"), href="./", cls="brand", aria_label="hubprobe, start page"),
        el("p", "image classifiers, found by what their outputs recognise", cls="claim"),
        el("nav", el("a", "API", href="about"), aria_label="Site"),
    )
    foot = el("footer", el("p", counts) if counts else None)
    skip = el("a", "Skip to the results", href="#content", cls="skip")
    main = el("main", body, id="content", tabindex="-1")
    whole = el("html", head, el("body", skip, el("div", top, search, main, foot, cls="page")), lang="en")
    return f"<!doctype html>\n{whole}"


def search_form(asked: Asked, facets: Facets, *, focus: bool = False, image_name: str = "") -> Html:
    """Return the search box, the example image, and the filters; ``image_name`` is of the image that was asked with."""
    box = el(
        "div",
        el("label", "What should an output recognise?", for_="q"),
        el(
            "div",
            el(
                "input", id="q", name="q", type="search", value=asked.q, maxlength=500, autocomplete="off",
                placeholder="dog, a red car, erdbeere …", autofocus=focus, enterkeyhint="search", spellcheck="false",
            ),
            el("button", "Search", type="submit", cls="main"),
            cls="box",
        ),
        cls="ask",
    )  # fmt: skip
    if asked.kind == "like":
        state = join(_hidden("like", asked.like), _hidden("logit", asked.logit))
    else:
        state = _hidden("image", asked.image) if asked.kind == "image" else Html("")
    form = el("form", box, state, _filters(asked, facets), action="./", method="get", role="search", id="search")
    return el("section", form, _upload(asked, image_name), cls="search", aria_label="Search")


def _upload(asked: Asked, image_name: str) -> Html:
    what = f"asked with {text(image_name, 40)}; choose another" if image_name else "or search by an example image"
    keep = [_hidden(k, v) for k, v in _kept(asked).items()]
    choose = el(
        "input", type="file", id="file", name="file", accept="image/png,image/jpeg,image/webp,image/gif,image/bmp",
        required=True,
    )  # fmt: skip
    return el(
        "form",
        el("label", what, for_="file"),
        choose,
        el("button", "Search by image", type="submit"),
        keep,
        action="image",
        method="post",
        enctype="multipart/form-data",
        cls="upload",
        id="upload",
    )


def _kept(asked: Asked) -> dict[str, object]:
    """Return the filters of a question, which an uploaded image is asked with too."""
    names = (
        "by", "library", "license", "quality", "min_downloads", "min_parameters", "max_parameters", "where"
    )  # fmt: skip
    values = {name: getattr(asked, name) for name in names}
    return {k: v for k, v in values.items() if v not in ("", None)}


def _filters(asked: Asked, facets: Facets) -> Html:
    set_ = len(asked.conditions()) + (asked.by != "logit")
    fields = [
        _select("library", "Library", asked.library, [("", "any"), *_counted(facets, "library")]),
        _select("license", "Licence", asked.license, [("", "any"), *_counted(facets, "license")]),
        _select("quality", "Its labels are", asked.quality, [("", "anything"), *_counted(facets, "quality")]),
        _field("min_downloads", "Downloads, at least", asked.min_downloads, "1000"),
        _field("min_parameters", "Parameters, at least", asked.min_parameters, "100k"),
        _field("max_parameters", "Parameters, at most", asked.max_parameters, "25M"),
        _select("by", "Find", asked.by, [(unit, _HITS[unit]) for unit in UNITS]),
        _field("where", "SQL condition", asked.where, "likes > 3 AND num_labels < 100", wide=True),
    ]
    buttons = el("div", el("button", "Apply", type="submit"), _clear(asked), cls="buttons")
    summary = el("summary", "Filters", el("span", f" {set_} set", cls="badge") if set_ else None)
    return el("details", summary, el("div", fields, buttons, cls="fields"), open=bool(set_), cls="filters")


def _clear(asked: Asked) -> Html | None:
    if not asked.filtered and asked.by == "logit":
        return None
    return el("a", "Clear", href=asked.unfiltered())


def _counted(facets: Facets, name: str) -> list[tuple[str, str]]:
    shown = _QUALITY if name == "quality" else {}
    return [(value, f"{shown.get(value, text(value, 40))} ({number(many)})") for value, many in facets.get(name, ())]


def _select(name: str, shown: str, value: str, options: Sequence[tuple[str, str]]) -> Html:
    if value and value not in [option for option, _ in options]:
        options = [*options, (value, text(value, 40))]
    inner = [el("option", title, value=option, selected=option == value) for option, title in options]
    return el("div", el("label", shown, for_=name), el("select", inner, id=name, name=name), cls="field")


def _field(name: str, shown: str, value: object, example: str, *, wide: bool = False) -> Html:
    box = el(
        "input", id=name, name=name, value="" if value is None else value, placeholder=example, autocomplete="off",
        spellcheck="false", inputmode=None if wide else "text",
    )  # fmt: skip
    return el("div", el("label", shown, for_=name), box, cls="field wide" if wide else "field")


def _hidden(name: str, value: object) -> Html:
    return el("input", type="hidden", name=name, value=value)
