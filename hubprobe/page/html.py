"""HTML that is escaped unless it was made here: labels, names and captions are strangers' text."""

from __future__ import annotations

from html import escape
from urllib.parse import urlencode

from workspace.text import printable

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta"})


class Html(str):
    """Text that `el` or `join` made: already escaped, and the only kind that is not escaped again."""

    __slots__ = ()


def el(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element. Children that are not `Html` are made printable and escaped; None and False are left out.

    Attributes: ``cls`` is ``class``, a trailing underscore goes (``for_``), other underscores are dashes; None and
    False leave one out, True writes its name alone. Every value is escaped.
    """
    parts = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        shown = "class" if key == "cls" else key.rstrip("_").replace("_", "-")
        parts.append(f" {shown}" if value is True else f' {shown}="{escape(str(value), quote=True)}"')
    parts.append(">")
    if name not in _VOID:
        parts.append(join(*children))
        parts.append(f"</{name}>")
    return Html("".join(parts))


def join(*children: object) -> Html:
    """Return children one after the other, each escaped unless it is `Html`."""
    return Html("".join(_child(child) for child in children if child is not None and child is not False))


def _child(child: object) -> str:
    if isinstance(child, Html):
        return child
    if isinstance(child, (list, tuple)):
        return join(*child)
    return escape(str(child), quote=True)


def text(value: object, limit: int = 200) -> str:
    """Return a stranger's text on one line, without what could reorder or hide it; `el` escapes it."""
    return printable(value, limit)


def address(path: str, /, **values: object) -> str:
    """Return a relative address with the values that are not empty, so that the page works under any prefix."""
    kept = {key: value for key, value in values.items() if value not in (None, "", False)}
    return f"{path}?{urlencode(kept)}" if kept else path


def number(value: float | None) -> str:
    """Return a count for people: 1,674."""
    return "–" if value is None else f"{value:,.0f}"


def short(value: float) -> str:
    """Return a large count in three digits: 188 k, 4.7 M, 1.2 B."""
    for size, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f} {sign}" if value < 10 * size else f"{value / size:.0f} {sign}"
    return f"{value:.0f}"
