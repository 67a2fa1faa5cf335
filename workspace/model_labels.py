"""The label of each output, from configs as strangers write them, and how far those labels can be trusted as names.

ImageNet's names stand in where timm would take them too. It takes them for any model with as many classes; a number
alone is a guess, so we ask for a second sign. They are read from timm's own lists, without importing timm: that takes
seconds and 700 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workspace.status import LabelQuality
from workspace.text import MAX_LABEL, plain

_GENERATED = re.compile(r"(?i)(?:label|class)[ _-]?\d+")
_NUMBER = re.compile(r"[-+]?\d+(?:\.0+)?")


@dataclass(frozen=True)
class Labels:
    """Labels as a config states them."""

    names: tuple[str | None, ...] | None = None  # label by index, None for a gap; None when there are no labels
    count: int | None = None  # how many outputs they speak of, None when there are none
    # whether their numbering is 0, 1, ... without gaps, so that each label belongs to its output for certain
    fits: bool = True
    quality: LabelQuality = LabelQuality.MISSING  # how far they are names

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


_LISTS = {
    1000: ("imagenet_synsets.txt", {"1k"}),
    11221: ("imagenet21k_miil_synsets.txt", {"21k"}),
    11821: ("imagenet12k_synsets.txt", {"12k"}),
    21841: ("imagenet22k_synsets.txt", {"21k", "22k"}),
    21842: ("imagenet22k_ms_synsets.txt", {"21k", "22k"}),
    21843: ("imagenet21k_goog_synsets.txt", {"21k", "22k"}),
}
"""By number of classes: timm's list of them, and the names under which tags and data sets speak of it."""

IMAGENET_SIZES = frozenset(_LISTS)
"""Numbers of classes for which timm takes ImageNet's names when a model states none (timm 1.0, ``ImageNetInfo``)."""

_TAG = re.compile(r"(?:^|_)in(\d+k)(?=_|$)")
_DATASET = re.compile(r"(?:^|/)imagenet[-_]?(\d+k)(?:[-_]|$)", re.IGNORECASE)


def imagenet_names(outputs: int, tag: str, datasets: Iterable[str] = ()) -> tuple[str, ...] | None:
    """Return ImageNet's names of the classes, or None where nothing but their number speaks for it.

    Args:
        outputs: number of classes.
        tag: of timm's pretrained weights, such as ``augreg_in21k_ft_in1k``: the last data set in it counts.
        datasets: what the repository says it was trained on, such as ``imagenet-1k``.
    """
    if outputs not in _LISTS:
        return None
    file, spoken_of = _LISTS[outputs]
    last = _TAG.findall(tag)[-1:]
    said = set(last or [size for name in datasets for size in _DATASET.findall(name)])
    return _names(file) if said & spoken_of else None


@cache
def _names(file: str) -> tuple[str, ...] | None:
    spec = find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "data" / "_info"
    try:
        synsets = (folder / file).read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    words = dict(line.split("\t", 1) for line in lines if "\t" in line)
    return tuple(words.get(synset, synset) for synset in synsets)
