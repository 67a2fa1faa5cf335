"""What a visitor asked, as it stands in the address: so that every result can be bookmarked, shared and asked again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args

from hubprobe.page.html import address, text
from search import filters
from workspace import QueryError

Unit = Literal["logit", "model", "family"]
UNITS = cast("tuple[Unit, ...]", get_args(Unit))
MOST = 100
"""Hits of one answer."""

_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_LONGEST = 10_000  # characters of one value


@dataclass(frozen=True)
class Asked:
    """One question: a text, an uploaded image (its key), or a logit (``like`` and ``logit``); and what it may find."""

    q: str = ""
    image: str = ""
    like: str = ""
    logit: int | None = None
    by: Unit = "logit"
    library: str = ""
    license: str = ""
    quality: str = ""
    min_downloads: int | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    where: str = ""
    n: int = 10

    @property
    def kind(self) -> str:
        """``text``, ``like``, ``image`` or ``nothing``: the first that is there."""
        if self.q:
            return "text"
        return "like" if self.like and self.logit is not None else "image" if self.image else "nothing"

    @property
    def filtered(self) -> bool:
        """Whether anything restricts the hits."""
        return bool(self.conditions())

    def conditions(self) -> list[str]:
        """Return the filters as SQL conditions, the visitor's own one last."""
        equal = {"library_name": self.library, "license": self.license, "label_quality": self.quality}
        found = [f"{column} = {literal(value)}" for column, value in equal.items() if value]
        found += [f"downloads >= {self.min_downloads}"] if self.min_downloads is not None else []
        found += [f"parameters >= {self.min_parameters}"] if self.min_parameters is not None else []
        found += [f"parameters <= {self.max_parameters}"] if self.max_parameters is not None else []
        return found + ([self.where] if self.where else [])

    def condition(self) -> str:
        """Return all filters as one SQL condition, or an empty text.

        Raises `QueryError` when the visitor's own condition is none by itself: only then may it stand in parentheses.
        """
        found = self.conditions()
        if self.where and len(found) > 1:
            filters.parse(self.where)
            end = "\n" if "--" in self.where else ""  # a comment must not swallow the parenthesis
            found[-1] = f"({self.where}{end})"
        return " AND ".join(found)

    def unfiltered(self) -> str:
        """Return the address of this question without its filters."""
        return Asked(q=self.q, image=self.image, like=self.like, logit=self.logit).url()

    def url(self, **changes: Any) -> str:
        """Return the address of this question with some values changed."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        defaults = {"by": "logit", "n": 10}
        return address("./", **{k: v for k, v in values.items() if v != defaults.get(k)})


def literal(value: str) -> str:
    """Return ``value`` as an SQL string."""
    return "'" + value.replace("\x00", "").replace("'", "''") + "'"


def read(values: Mapping[str, str]) -> Asked:
    """Read a question from an address's values; raises `QueryError` for a value that cannot be meant."""
    known = {field.name for field in fields(Asked)}
    given: dict[str, Any] = {k: v.strip() for k, v in values.items() if k in known and v.strip()}
    too_long = next((k for k, v in given.items() if len(v) > _LONGEST), None)
    if too_long:
        raise QueryError(f"'{too_long}' has more than {_LONGEST} characters")
    counts: dict[str, Any] = {
        k: count(k, given.pop(k)) for k in ("min_downloads", "min_parameters", "max_parameters") if k in given
    }
    whole: dict[str, Any] = {k: count(k, given.pop(k)) for k in ("logit", "n") if k in given}
    by = given.pop("by", "logit")
    if by not in UNITS:
        raise QueryError(f"hits are by 'logit', 'model' or 'family', not by '{text(by)}'")
    if not 1 <= whole.get("n", 10) <= MOST:
        raise QueryError(f"a page shows between 1 and {MOST} hits")
    return Asked(**given, **counts, **whole, by=by)


def count(name: str, value: str) -> int:
    """Read a number such as 1000, 1,000, 25k or 1.5M; raises `QueryError`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmb]?)", value.replace(",", "").strip().lower())
    if match is None:
        raise QueryError(f"'{text(value, 40)}' is no number for {name.replace('_', ' ')}: write 1000, 25k or 1.5M")
    return int(float(match[1]) * _SUFFIX[match[2]])
