"""Suggested names of logits, remembered; the concept bank they come from is read once, beside the first searches."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.page.kept import Kept
from search.naming import Name, Namer
from workspace import HubprobeError, QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from search import Encoder, Index

NAMES = 3
"""Names of a logit."""

_KEPT = 100_000  # logits
_AT_START = 20_000  # logits that are named before anybody asks
_NAMED_AT_ONCE = 64
_CHUNK = 16  # texts the encoder is held for at a time
_LOG = logging.getLogger(__name__)


class SharedEncoder:
    """An encoder that one thread uses at a time, a few texts at a time, so that a search need not wait for the bank."""

    def __init__(self, encoder: Encoder) -> None:
        self.name, self.commit = encoder.name, encoder.commit
        self.of_captions = getattr(encoder, "of_captions", False)
        self._encoder, self._lock = encoder, threading.Lock()

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the embeddings of texts; see `search.Encoder`."""
        parts = []
        for start in range(0, max(len(texts), 1), _CHUNK):
            with self._lock:
                parts.append(self._encoder.encode_texts(texts[start : start + _CHUNK]))
            if start + _CHUNK < len(texts):
                time.sleep(0.002)  # a lock that is taken again at once lets nobody else in
        return np.concatenate(parts)

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return the embeddings of images; see `search.Encoder`."""
        with self._lock:
            return self._encoder.encode_images(images)


class Names:
    """Names logits of one opened index; says nothing until the bank is read, which `prepare` does.

    Attributes:
        state: ``preparing``, ``ready``, or why there are none.
    """

    def __init__(self, index: Index) -> None:
        self._index = index
        self._known: Kept[int, list[Name]] = Kept(_KEPT)
        self._namer: Namer | None = None
        self.state = "preparing"

    def prepare(self) -> None:
        """Read the bank: at once when a search or `hubprobe describe` kept it, else as long as 3,692 texts take."""
        try:
            namer = Namer(self._index, progress=False)
            namer.names(np.zeros(1, np.int64))
            self._namer, self.state = namer, "ready"
            rows = range(min(len(self._index), _AT_START))
            for start in rows[::_NAMED_AT_ONCE]:  # ten cost half as much as these: all labels are compared each time
                self.of(rows[start : start + _NAMED_AT_ONCE])
        except (HubprobeError, OSError) as error:  # a folder that cannot be written, an index without an encoder
            inside = "the concept bank cannot be read; the server's log says why"
            self.state = f"no names: {error if isinstance(error, QueryError) else inside}"
            _LOG.warning("outputs are shown without suggested names: %s", error)

    def of(self, rows: Sequence[int]) -> dict[int, list[Name]]:
        """Return the names of the logits at ``rows`` of the gallery; an empty dict before there are any."""
        namer = self._namer
        if namer is None:
            return {}
        found = {row: self._known.get(row) for row in rows}
        known = {row: names for row, names in found.items() if names is not None}
        new = [row for row in found if row not in known]
        if new:
            named = namer.names(np.array(new, np.int64), NAMES)
            known |= {row: self._known.put(row, names) for row, names in zip(new, named, strict=True)}
        return known


def facets(index: Index, column: str, most: int = 100) -> list[tuple[str, int]]:
    """Return the values of a column of the models with their counts, most frequent first."""
    counts: dict[str, int] = {}
    for value in index.gallery.models.column(column).to_pylist():
        if value:
            counts[value] = counts.get(value, 0) + 1
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:most]


def examples(index: Index, most: int = 12) -> list[tuple[str, int]]:
    """Return words worth trying, each with a logit that carries it: labels of different models that can be trusted."""
    from search.text import bank

    bridge, gallery = index.gallery.bridge, index.gallery
    if bridge is None or not bridge.rows.size:
        return []
    order = np.argsort(-bridge.weights, kind="stable").tolist()
    labels: list[Any] = gallery.logits.column("label").to_pylist() if len(gallery) <= 200_000 else []
    found: dict[str, int] = {}
    models: dict[int, int] = {}
    for i in order if labels else []:
        row = int(bridge.rows[i])
        model, label = int(gallery.model_of[row]), " ".join(str(labels[row] or "").lower().split())
        taken = {word for other in found for word in other.split()}
        if (
            taken & set(label.split())
            or models.get(model, 0) >= 2
            or not bank.related(label)
            or len(label) > 20
            or not label.replace(" ", "").isalpha()
        ):
            continue
        found[label], models[model] = row, models.get(model, 0) + 1
        if len(found) == most:
            break
    return list(found.items())
