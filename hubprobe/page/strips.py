"""Evidence: the probes that a logit answers most strongly, and their thumbnails."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from hubprobe.page.kept import Kept
from search.text.embeddings import decode
from workspace import WorkspaceError
from workspace.files import open_table, read_file

if TYPE_CHECKING:
    from PIL.Image import Image

    from search import Index

PER_LOGIT = 8
"""Probes of a strip."""

EDGE = 224
"""Longer edge of a thumbnail in pixels: twice what the page shows, for screens of double density."""

_KEPT_THUMBNAILS = 8_192  # about 6 KB each
_KEPT_STRIPS = 50_000
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """One probe that a logit answers strongly.

    Attributes:
        probe: its ``probe_id``.
        caption: what it shows; a stranger's text, empty when the source does not say.
        strength: the logit's answer in standard deviations.
    """

    probe: int
    caption: str
    strength: float


class Strips:
    """Reads the probes of one opened index, from any number of threads; images are decoded when first asked for."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.probe_set = str(index.gallery.manifest["probe_set"])
        self._path = index.workspace.probes_dir(self.probe_set) / "probes.parquet"
        self._strips: Kept[int, tuple[Answer, ...]] = Kept(_KEPT_STRIPS)
        self._thumbnails: Kept[int, bytes | None] = Kept(_KEPT_THUMBNAILS)

    @cached_property
    def captions(self) -> list[str]:
        """Caption of every probe, in order of ``probe_id``."""
        try:
            column = read_file(self._path, columns=["caption"]).column("caption")
        except WorkspaceError:
            _LOG.warning("%s cannot be read: the page shows no evidence", self._path)
            return [""] * self._index.gallery.n_probes
        return [caption or "" for caption in column.to_pylist()]

    def strongest(self, row: int) -> tuple[Answer, ...]:
        """Return the probes that the logit at ``row`` of the gallery answers most strongly, strongest first."""
        found = self._strips.get(row)
        if found is None:
            vector = self._index.gallery.vector(row)
            order = np.argsort(-vector, kind="stable")[:PER_LOGIT].tolist()
            answers = (Answer(probe, self.captions[probe], float(vector[probe])) for probe in order)
            found = self._strips.put(row, tuple(answers))
        return found

    def kept(self, probe: int) -> bytes | None:
        """Return a thumbnail that is at hand, else None."""
        return self._thumbnails.get(probe)

    def thumbnail(self, probe: int) -> bytes | None:
        """Return a probe as WebP, or None when there is no such probe, or no image of it in this workspace."""
        if probe in self._thumbnails:
            return self._thumbnails.get(probe)
        return self._keep(probe, self._image(probe))

    def _keep(self, probe: int, data: bytes | None) -> bytes | None:
        try:
            made = None if data is None else small(decode(data))
        except (OSError, ValueError) as error:
            _LOG.warning("probe %d cannot be drawn: %s", probe, error)
            made = None
        return self._thumbnails.put(probe, made)

    def warm(self) -> None:
        """Draw every thumbnail that is kept, a row group at a time: one by one, each would read its whole group."""
        try:
            with open_table(self._path) as file:
                start = 0
                for group in range(file.metadata.num_row_groups):
                    column = file.read_row_group(group, columns=["image"]).column("image")
                    for i in range(min(len(column), _KEPT_THUMBNAILS - start)):
                        self._keep(start + i, dict(column[i].as_py() or {}).get("bytes"))
                    start += len(column)
        except WorkspaceError as error:
            _LOG.warning("%s cannot be read: %s", self._path, error)

    def _image(self, probe: int) -> bytes | None:
        if not 0 <= probe < self._index.gallery.n_probes:
            return None
        try:
            with open_table(self._path) as file:  # a file of its own: readers are not made for several threads
                start = 0
                for group in range(file.metadata.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    if probe < start + rows:
                        column = file.read_row_group(group, columns=["image"]).column("image")
                        return dict(column[probe - start].as_py()).get("bytes")
                    start += rows
        except WorkspaceError as error:
            _LOG.warning("%s cannot be read: %s", self._path, error)
        return None


def small(image: Image, edge: int = EDGE) -> bytes:
    """Return an image as WebP, shrunk to at most ``edge`` pixels in place; images that are smaller keep their size."""
    image.thumbnail((edge, edge))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=82, method=3)
    return out.getvalue()
