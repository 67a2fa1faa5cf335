"""Words and pictures, as what is searched for: the encoder of an index, the probes under it, and the texts it knows."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from cachetools import LRUCache

from search.scan.gallery import Gallery
from search.scan.scoring import ZERO_SHOT, Descriptor
from search.text.contrast import zero_shot
from search.text.embeddings import Known, KnownTexts, cache, read_embeddings
from search.text.encoders import Encoder, TextReader, checked_text, load_encoder, load_tower, text_embeddings
from workspace import QueryError, Workspace

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_LOG = logging.getLogger(__name__)

_REMEMBERED = 1_024
_FEW, _CHECKED = 32, 8  # texts that a tower reads at once, and that it is compared with the encoder on

_BLIND = (
    "this index was built without an encoder, so it answers logit queries only ('hubprobe similar'); "
    "for texts and images run 'hubprobe index --encoder auto'"
)


class Texts:
    """Turns texts and images into descriptors, from any number of threads; see `search.Index` for how it is made."""

    def __init__(
        self, workspace: Workspace, gallery: Gallery, *, encoder: Encoder | None, token: str | None, keep: bool
    ) -> None:
        self._workspace, self._gallery, self._token = workspace, gallery, token
        about = gallery.manifest["encoder"]
        self._known = KnownTexts(cache(workspace), about) if about else None
        self._kind = "asked" if keep else None
        self._encoders: dict[str, Encoder] = {} if encoder is None else {"encoder": encoder}
        self._tower: TextReader | None = None
        self._probes: dict[str, NDArray[np.float32]] = {}
        self._described: LRUCache[str, Descriptor] = LRUCache(_REMEMBERED)
        self._lock = threading.RLock()

    @property
    def encoder(self) -> Encoder:
        """The encoder the index was built with, at its commit; raises `QueryError` when it was built with none."""
        return self._encoder("encoder")

    @property
    def probes(self) -> NDArray[np.float32]:
        """The probes under the encoder, float32 ``[n_probes, dim]``, rows of unit length."""
        return self._probes_of("encoder")

    def prepare(self, texts: Sequence[str]) -> None:
        """Embed many texts at once, so that asking them one by one afterwards is quick (the last 1,024 are kept)."""
        with self._lock:
            new = [t for t in dict.fromkeys(checked_text(text) for text in texts) if t not in self._described]
            if new and self._known:
                for text, known in self._look_up(new).items():
                    self._described[text] = self._describe(text, known)

    def embedded(self, texts: Sequence[str], kind: str, *, progress: bool = True) -> NDArray[np.float32]:
        """Return the embedding of each text, float32 ``[texts, dim]``, kept in the index as ``kind``."""
        if self._known is None:
            raise QueryError(_BLIND)
        with self._lock:
            return self._known.embedded(texts, lambda: self.encoder, kind, progress=progress)

    def of_text(self, text: str, lenders: NDArray[np.bool_] | None = None) -> Descriptor:
        """Return a text's descriptor, when only the ``lenders``, bool ``[logits]``, may lend their labels; all if None.

        Those of None are remembered. Raises `QueryError` for a text that is none, or without an encoder.
        """
        clean = checked_text(text)
        with self._lock:
            found = self._described.get(clean) if lenders is None else None
            if found is None:
                found = self._describe(clean, self._look_up([clean])[clean], lenders)
                if lenders is None:
                    self._described[clean] = found
        return found

    def of_image(self, image: Image | Path) -> Descriptor:
        """Return the descriptor of an image or of the file of one; raises `QueryError` for what is none."""
        from workspace.images import read_image

        picture = read_image(image)
        side = "image_encoder" if self._gallery.manifest.get("image_encoder") else "encoder"
        with self._lock:
            embedding = self._encoder(side).encode_images([picture])[0]
        probes = self._probes_of(side)
        similarity = (probes @ embedding).astype(np.float32)
        centre = (probes @ probes.mean(axis=0)).astype(np.float32)  # the probes themselves are the bank of images
        about = image.name if isinstance(image, Path) else "an image"
        sides = {ZERO_SHOT: zero_shot(similarity[None], centre)[0]}
        return replace(Descriptor.from_raw(similarity, about=about, kind="image"), sides=sides)

    def _describe(self, text: str, known: Known, lenders: NDArray[np.bool_] | None = None) -> Descriptor:
        embedding, read = known
        similarity = (self.probes @ embedding).astype(np.float32)
        plain = Descriptor.from_raw(similarity, about=text, kind="text")
        plain = plain if read == text else replace(plain, read=read)
        calibration, bridge = self._gallery.calibration, self._gallery.bridge
        if calibration is None:
            return plain
        sides, trust = {ZERO_SHOT: zero_shot(similarity[None], calibration.centre)[0]}, 0.0
        if bridge is not None:
            others, trust = bridge.sides(embedding, self._gallery.vectors, lenders)
            sides |= others
        return replace(plain, sides=sides, signs=(float(calibration.contrast(similarity[None])[0]), trust))

    def _look_up(self, texts: Sequence[str]) -> dict[str, Known]:
        """Return each text's embedding and what was read of it, as they are known or from the encoder."""
        if self._known is None:
            raise QueryError(_BLIND)
        if "encoder" in self._encoders:
            self._encoder("encoder")  # one that was given has to be the index's
        return self._known.look_up(texts, lambda: self._reader(self._known, len(texts)), self._kind, progress=False)

    def _reader(self, known: KnownTexts | None, count: int) -> TextReader:
        """Return what reads ``count`` texts: the encoder where there are many or it is loaded, else its text tower.

        A tower that does not agree with what the encoder itself made of some texts is not used.
        """
        about = self._gallery.manifest["encoder"]
        if known is None or count > _FEW or "encoder" in self._encoders:
            return self.encoder
        if self._tower is None:
            templates = tuple(about["templates"])
            tower = load_tower(self._workspace, about["name"], about["commit"], self._token)
            agrees = tower is not None and tower.commit == about["commit"] and tower.agrees(
                known.made(_CHECKED), lambda one, texts: text_embeddings(one, texts, templates)
            )  # fmt: skip
            _LOG.info("%s reads them, %s", about["name"], "its text side alone" if agrees else "all of it loaded")
            self._tower = tower if agrees and tower is not None else self.encoder
        return self._tower

    def _encoder(self, side: str) -> Encoder:
        with self._lock:
            about = self._gallery.manifest.get(side)
            if about is None:
                raise QueryError(_BLIND)
            if side not in self._encoders:
                self._encoders[side] = load_encoder(
                    self._workspace, about["name"], commit=about["commit"], token=self._token
                )
            found = self._encoders[side]
            if found.commit != about["commit"]:
                raise QueryError(
                    f"the index was built with {about['name']} at {about['commit']}, not at "
                    f"{found.commit}: run 'hubprobe index' again"
                )
            return found

    def _probes_of(self, side: str) -> NDArray[np.float32]:
        with self._lock:
            if side not in self._probes:
                about = self._gallery.manifest.get(side)
                if about is None:
                    raise QueryError(_BLIND)
                self._probes[side] = read_embeddings(cache(self._workspace) / about["file"])
            return self._probes[side]
