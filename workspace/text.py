"""Untrusted text made safe to show: labels, names and messages come from strangers' repositories."""

from __future__ import annotations

import re
import unicodedata

MAX_LABEL = 1_000
"""Characters of a label that are kept, wherever it comes from."""

_KEPT = {"Cc": False, "Cf": False, "Cs": False, "Co": False, "Cn": False, "Zl": False, "Zp": False}


def printable(text: object, limit: int = 80) -> str:
    """Return ``text`` on one line without control, format, surrogate or unassigned characters, cut to ``limit``.

    Terminal escapes, bidirectional overrides and line breaks go; a cut is shown by an ellipsis. Joiners inside emoji
    are format characters too and go with them: what is shown is never used as a key.
    """
    flat = " ".join(str(text).split()) if not isinstance(text, str) else " ".join(text[: limit * 8].split())
    clean = "".join(c for c in flat if _KEPT.get(unicodedata.category(c), True))
    return clean if len(clean) <= limit else clean[: max(limit - 1, 0)] + "…"


def plain(value: object, limit: int) -> str | None:
    """Return ``value`` if it is text: cut to ``limit`` characters, lone surrogates replaced so that UTF-8 holds it."""
    if not isinstance(value, str):
        return None
    return value[:limit].encode("utf-8", "replace").decode("utf-8")


_PATH = re.compile(r"(?<![\w./:~-])(?:~|[A-Za-z]:)?(?:[/\\][\w.@+~-]+){2,}[/\\]?")


def without_paths(message: str, written: str = "") -> str:
    """Return an error's message without absolute paths, but those that ``written``, what the user asked, has itself."""
    return _PATH.sub(lambda found: found[0] if found[0] in written else "…", message)


def require_type(value: object, kinds: type | tuple[type, ...], says: str) -> None:
    """Raise a `TypeError` in words unless ``value`` is of ``kinds``; ``says`` is what belongs there. No bool is an int.

    >>> require_type(3, str, "SQL is a text")
    Traceback (most recent call last):
    TypeError: SQL is a text, not int
    """
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise TypeError(f"{says}, not {type(value).__name__}")
