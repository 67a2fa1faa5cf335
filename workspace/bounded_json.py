"""Strangers' JSON, read with bounds on how many values it holds, and on the digits of a number.

A list of empty lists takes three bytes each as text and sixty as Python keeps them, and calls Python's collector of
garbage again and again: 32 MB of them took a gigabyte and 7 s. So values are counted before anything is made of them.
"""

from __future__ import annotations

import json
from typing import Any

MAX_VALUES = 2_000_000
"""Values of one text, each entry of a list and each key of an object: 200,000 labels by number and by name, with some
commas in them, are a million; so are the 100,000 tensors of a header."""

MAX_DIGITS = 20
"""Of an integer: one of a million digits takes minutes to read and fits nothing."""


class TooManyValuesError(ValueError):
    """A text holds more than `MAX_VALUES` values."""


def loads(text: str | bytes) -> Any:
    """Return the value that a JSON text holds; integers of more than `MAX_DIGITS` digits lie just outside of 64 bits.

    Raises `ValueError` for what is no JSON, `TooManyValuesError` for more than `MAX_VALUES` values, and
    `RecursionError` for what is nested too deeply. Marks inside texts count, too: it is a bound, not a number.
    """
    marks = (",", "[", "{")
    found = sum(text.count(m) if isinstance(text, str) else text.count(m.encode()) for m in marks)
    if found > MAX_VALUES:
        raise TooManyValuesError(f"more than {MAX_VALUES:,} values")
    return json.loads(text, parse_int=_integer)


def _integer(digits: str) -> int:
    if len(digits) <= MAX_DIGITS:
        return int(digits)
    return -(2**63) - 1 if digits.startswith("-") else 2**63
