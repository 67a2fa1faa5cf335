"""ImageNet's class names for timm models that name none, where their tag or their data set says that it is ImageNet.

timm takes these names for any model with as many classes; a number alone is a guess, so we ask for a second sign. The
names are read from timm's own lists, without importing timm: that takes seconds and 700 MB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_LISTS = {
    1000: ("imagenet_synsets.txt", {"1k"}),
    11221: ("imagenet21k_miil_synsets.txt", {"21k"}),
    11821: ("imagenet12k_synsets.txt", {"12k"}),
    21841: ("imagenet22k_synsets.txt", {"21k", "22k"}),
    21842: ("imagenet22k_ms_synsets.txt", {"21k", "22k"}),
    21843: ("imagenet21k_goog_synsets.txt", {"21k", "22k"}),
}
"""By number of classes: timm's list of them, and the names under which tags and data sets speak of it."""

SIZES = frozenset(_LISTS)
"""Numbers of classes for which timm takes ImageNet's names when a model states none (timm 1.0, ``ImageNetInfo``)."""

_TAG = re.compile(r"(?:^|_)in(\d+k)(?=_|$)")
_DATASET = re.compile(r"(?:^|/)imagenet[-_]?(\d+k)(?:[-_]|$)", re.IGNORECASE)


def class_names(outputs: int, tag: str, datasets: Iterable[str] = ()) -> tuple[str, ...] | None:
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
