"""The label of each output, from configs as strangers write them, and how far those labels can be trusted as names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from workspace.status import LabelQuality
from workspace.text import MAX_LABEL, plain

_GENERATED = re.compile(r"(?i)(?:label|class)[ _-]?\d+")
_NUMBER = re.compile(r"[-+]?\d+(?:\.0+)?")


@dataclass(frozen=True)
class Labels:
    """Labels as a config states them.

    Attributes:
        names: label by index, None for a gap; None when there are no labels.
        count: how many outputs they speak of, None when there are none.
        fits: whether their numbering is 0, 1, ... without gaps, so that each label belongs to its output for certain.
        quality: how far they are names.
    """

    names: tuple[str | None, ...] | None = None
    count: int | None = None
    fits: bool = True
    quality: LabelQuality = LabelQuality.MISSING

    def fitted(self, outputs: int, most: int) -> Labels:
        """Return them for a model of ``outputs`` outputs, at most ``most`` of them, with their quality.

        Labels that are fewer or more than the outputs are kept at their places, but are not certain.
        """
        if self.names is None:
            return Labels()
        size = min(outputs, most)
        names = (*self.names[:size], *[None] * (size - len(self.names)))
        fits = self.fits and self.count == outputs
        return Labels(names, self.count, fits, quality(names, fits=fits))


def from_id2label(id2label: Any, most: int) -> Labels:
    """Return the labels of an ``id2label``: an object whose keys are indices, as text or numbers, or a list.

    Keys are read as transformers reads them, so that "1" and "01" are one. Keys from 1 to n are taken for 0 to n - 1,
    which does not fit; keys that are no index below the number of entries lose their labels.
    """
    if isinstance(id2label, list):
        return from_names(id2label, None, most)
    if not isinstance(id2label, Mapping):
        return Labels()
    if not id2label:
        return Labels(count=0)
    indexed: dict[int, Any] = {}
    textual = 0
    for key, value in id2label.items():
        index = _index(key)
        if index is None:
            textual += 1
        else:
            indexed[index] = value
    count = len(indexed) + textual
    low, high = min(indexed, default=0), max(indexed, default=0)
    first = 1 if not textual and (low, high) == (1, count) else 0
    fits = not textual and (low, high) == (0, count - 1)
    names: list[str | None] = [None] * min(count, most)
    for index, value in indexed.items():
        if 0 <= index - first < len(names):
            names[index - first] = _label(value)
    return Labels(tuple(names), count, fits)


def from_names(names: Any, descriptions: Any, most: int) -> Labels:
    """Return the labels of timm's ``label_names``, a list or an object like ``id2label``.

    Args:
        names: the labels; often WordNet ids, such as ``n01440764``.
        descriptions: words for them, by label or by index, where there are such.
        most: how many are kept.
    """
    if isinstance(names, Mapping):
        found = from_id2label(names, most)
        if found.names is None or not any(found.names):
            return found
    elif isinstance(names, list) and names:
        found = Labels(tuple(_label(value) for value in names[:most]), len(names))
    else:
        return Labels()
    assert found.names is not None
    if isinstance(descriptions, Mapping):
        described = tuple(name and (plain(descriptions.get(name), MAX_LABEL) or name) for name in found.names)
        return Labels(described, found.count, found.fits)
    if isinstance(descriptions, list) and len(descriptions) == found.count:
        described = tuple(plain(d, MAX_LABEL) or n for d, n in zip(descriptions, found.names, strict=False))
        return Labels(described, found.count, found.fits)
    return found


def quality(labels: Iterable[str | None], *, fits: bool = True) -> LabelQuality:
    """Return how far ``labels`` are names; one name among them makes them named, if they ``fit`` their outputs."""
    said = [label.strip() for label in labels if label is not None and label.strip()]
    if not said:
        return LabelQuality.MISSING
    if all(_NUMBER.fullmatch(label) for label in said):
        return LabelQuality.NUMERIC
    if all(_GENERATED.fullmatch(label) or _NUMBER.fullmatch(label) for label in said):
        return LabelQuality.LABEL_I
    return LabelQuality.NAMED if fits else LabelQuality.INFERRED


def _label(value: Any) -> str | None:
    if isinstance(value, (bool, int, float)):
        return str(value)[:MAX_LABEL]
    return plain(value, MAX_LABEL)


def _index(key: Any) -> int | None:
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        return None
    try:
        return int(key[:50] if isinstance(key, str) else key)
    except ValueError:
        return None
