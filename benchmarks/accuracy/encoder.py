"""The studies' text encoder: all-MiniLM over captions, each text embedded once and kept below the asset folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.clip_targets import encoder_folder
from search.text.encoder_files import folder_hash
from search.text.encoders import CaptionEncoder, Encoder
from workspace.files import replacing

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


class Kept:
    """A caption encoder that remembers every text it was ever asked for."""

    of_captions = True

    def __init__(self) -> None:
        folder = encoder_folder()
        self.name, self.commit = "captions:all-MiniLM-L6-v2", folder_hash(folder)
        self._encoder = CaptionEncoder(folder, self.name, self.commit)
        self._path = sources.assets() / "accuracy" / f"texts-{self.commit[:8]}.npz"
        self._known: dict[str, NDArray[np.float32]] = {}
        if self._path.exists():
            with np.load(self._path) as kept:
                self._known = dict(zip(json.loads(str(kept["texts"])), kept["rows"], strict=True))

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[texts, 384]``."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known.update(zip(new, self._encoder.encode_texts(new), strict=True))
            rows = np.stack(list(self._known.values()))
            with replacing(self._path) as partial, partial.open("wb") as out:
                np.savez(out, texts=json.dumps(list(self._known)), rows=rows)
        return np.stack([self._known[text] for text in texts])

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Raise `QueryError`: captions cannot see."""
        return self._encoder.encode_images(images)


@lru_cache(maxsize=1)
def captions() -> Encoder:
    """Return the one encoder of this process."""
    return Kept()
