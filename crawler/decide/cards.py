"""What a model card says: its first sentences, as plain text for full-text search, and the accuracy that it reports.

Untrusted, like all of a card.
"""

from __future__ import annotations

import html
import re
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from workspace.text import MAX_LABEL, plain

CARD = "README.md"
READ = 16_384
"""Bytes of a card that are read: its summary is at the top, and some cards hold megabytes of tables."""

ACCURACY = ("accuracy", "acc", "top-1", "top1", "top_1")
"""How the metric that is wanted is called, in lower case, at its beginning."""

MOST_RESULTS = 20
"""Results, and metrics of a result, that are looked at."""

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


class Reported(NamedTuple):
    """What an author says of a model: its share of right answers, 0 to 1, and the data set, where that is named."""

    accuracy: float
    dataset: str | None


def reported(card: bytes) -> Reported | None:
    """Return the accuracy that a card's ``model-index`` reports, the first of several; None where it reports none.

    A number above 1 is taken for percent. Whatever is not of the Hub's shape counts as not reported.
    """
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
    for entry in _dicts(data.get("model-index") if isinstance(data, dict) else None):
        for result in _dicts(entry.get("results")):
            task = result.get("task")
            if isinstance(task, dict) and task.get("type", "image-classification") != "image-classification":
                continue
            for metric in _dicts(result.get("metrics")):
                value = metric.get("value")
                if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
                    continue
                if str(metric.get("type", metric.get("name"))).lower().startswith(ACCURACY):
                    where = result.get("dataset")
                    name = where.get("name") or where.get("type") if isinstance(where, dict) else None
                    share = float(value) / (100.0 if value > 1 else 1.0)
                    return Reported(share, plain(name, MAX_LABEL) if isinstance(name, str) else None)
    return None


def _dicts(value: Any) -> list[dict[Any, Any]]:
    return [entry for entry in value[:MOST_RESULTS] if isinstance(entry, dict)] if isinstance(value, list) else []


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
