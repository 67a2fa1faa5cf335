"""The label of each output, from configs as strangers write them, and how far those labels can be trusted as names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crawler.rows import text
from workspace import LabelQuality

MAX_LABEL = 1_000  # characters kept of one label
TIMM_GUESSES = frozenset({1000, 11221, 11821, 21841, 21842, 21843})
"""Numbers of classes for which timm takes ImageNet's names when a model states none (timm 1.0, ``ImageNetInfo``)."""

_GENERATED = re.compile(r"(?i)(?:label|class)[ _-]?\d+")
_NUMBER = re.compile(r"[-+]?\d+(?:\.0+)?")


def ordered(id2label: Any, most: int) -> list[str | None] | None:
    """Return the labels of ``id2label`` (object or list) by index, at most ``most``; None when there are none.

    Keys may be text or numbers; keys that are no index below the number of entries leave a gap (None).
    """
    if isinstance(id2label, Sequence) and not isinstance(id2label, (str, bytes)):
        return [_label(value) for value in id2label[:most]] or None
    if not isinstance(id2label, Mapping) or not id2label:
        return None
    labels: list[str | None] = [None] * min(len(id2label), most)
    for key, value in id2label.items():
        index = _index(key)
        if index is not None and index < len(labels):
            labels[index] = _label(value)
    return labels


def quality(labels: Sequence[str | None] | None, count: int | None, *, timm: bool) -> LabelQuality:
    """Return how far ``labels`` of a model with ``count`` outputs are names. One name among them makes it named."""
    said = [label.strip() for label in labels or () if label is not None and label.strip()]
    if not said:
        return LabelQuality.GUESSED_BY_COUNT if timm and count in TIMM_GUESSES else LabelQuality.MISSING
    if all(_NUMBER.fullmatch(label) for label in said):
        return LabelQuality.NUMERIC
    if all(_GENERATED.fullmatch(label) or _NUMBER.fullmatch(label) for label in said):
        return LabelQuality.LABEL_I
    return LabelQuality.NAMED


def _label(value: Any) -> str | None:
    if isinstance(value, (bool, int, float)):
        return str(value)[:MAX_LABEL]
    return text(value, MAX_LABEL)


def _index(key: Any) -> int | None:
    try:
        index = int(str(key)[:20])
    except ValueError:
        return None
    return index if index >= 0 else None
