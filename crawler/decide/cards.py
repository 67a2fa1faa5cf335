"""What a model card says: its first sentences, as plain text for full-text search, and the accuracy that it reports.

Untrusted, like all of a card.
"""

from __future__ import annotations

import html
import re

import yaml  # type: ignore[import-untyped]

from workspace.reported import Reported, of_model_index

CARD = "README.md"
READ = 16_384
"""Bytes of a card that are read: its summary is at the top, and some cards hold megabytes of tables."""

SUMMARY = 600
"""Characters of a summary."""

# each pattern looks ahead over a bounded distance or up to the next mark: the time is linear in the text
_FRONT = re.compile(r"\s*---[ \t]*(?=\n)")
_FENCED = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HIDDEN = re.compile(r"<(style|script)\b.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>")
_IMAGE = re.compile(r"!\[[^\[\]]{0,500}\]\([^()\s]{0,1000}(?:\s[^()]{0,200})?\)")
_LINK = re.compile(r"\[([^\[\]]{0,500})\]\([^()\s]{0,1000}(?:\s[^()]{0,200})?\)")
_MARKS = re.compile(
    r"\\([!-/:-@\[-`{-~])|(`{1,2})([^`\n]{1,200})\2"  # what stays: an escaped mark, code
    r"|[*`]{1,3}|~~|(?<![^\W_])_{1,3}(?=[^\W_])|(?<=[^\W_])_{1,3}(?![^\W_])"
    r"|^\s{0,3}(?:#{1,6}\s|>\s?|[-+]\s|\d{1,3}[.)]\s)",
    re.MULTILINE,
)
"""Markdown's marks. An underscore within a word is none: it is part of an identifier."""
_TABLE = re.compile(r"^\|.*$|^[-=:|+ ]{3,}$", re.MULTILINE)
_UNFILLED = re.compile(r"\[?\s?more information needed\s?\]?", re.IGNORECASE)


def reported(card: bytes) -> Reported | None:
    """Return the accuracy that a card's ``model-index`` reports, the first of several; None where it reports none."""
    text = card.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    front = _FRONT.match(text)
    if front is None:
        return None
    matter, found, _ = text[front.end() :].partition("\n---")
    if not found or "model-index" not in matter:
        return None
    try:
        data = yaml.safe_load(matter)
    except (yaml.YAMLError, ValueError, RecursionError):  # of a date that is none, or lists in lists
        return None
    return of_model_index(data.get("model-index")) if isinstance(data, dict) else None


def summary(card: bytes) -> str | None:
    """Return the first `SUMMARY` characters of a card's prose, or None when it has none.

    Front matter, code, tables, pictures, HTML, Markdown's marks and the template's "More Information Needed" go.
    """
    text = card.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\x00", " ")
    if front := _FRONT.match(text):
        _, found, text = text[front.end() :].partition("\n---")
        if not found:  # front matter longer than what was read, or never closed
            return None
    for pattern in (_COMMENT, _FENCED, _HIDDEN, _IMAGE):
        text = pattern.sub(" ", text)
    text = _lines(_LINK.sub(r"\1", text))
    for pattern in (_TABLE, _TAG, _UNFILLED):
        text = pattern.sub(" ", text)
    words = " ".join(html.unescape(_MARKS.sub(lambda mark: mark[1] or mark[3] or "", text)).split())
    if len(words) > SUMMARY:
        words = words[:SUMMARY].rsplit(" ", 1)[0] + "…"
    return words if any(c.isalpha() for c in words) else None


def _lines(text: str) -> str:
    """Return the lines of a text that are not empty, with single spaces: patterns need not look past runs of them."""
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.split("\n"))))
