"""What the index knows of its encoder's view: the bank's mean answer on every probe, and every logit's hubness."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

from search import bank
from search.contrast import HUB_CONCEPTS, hubness, strengths, zero_shot
from search.embeddings import cached_texts
from workspace.files import damaged, read_tensors, write_tensors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search.encoders import Encoder
    from search.gallery import Gallery

T = TypeVar("T")

FILE = "calibration.safetensors"
BANK = 1_024
"""Everyday concepts of the bank that a text is contrasted with: a third of them, for each costs the encoder's time."""

_ROWS = 4_096


@dataclass(frozen=True, eq=False)
class Calibration:
    """Columns that the scorings `contrastive` and `bridged` need.

    Attributes:
        centre: float32 ``[n]``, cosine of each probe with the bank's texts, averaged over the bank.
        texts: float32 ``[dim]``, the bank's mean text embedding.
        hubness: float32 ``[logits]``, see `search.contrast.hubness`.
        peaks: float32 ``[2]``, mean and standard deviation over the bank of a text's best contrast with any probe.
    """

    centre: NDArray[np.float32]
    texts: NDArray[np.float32]
    hubness: NDArray[np.float32]
    peaks: NDArray[np.float32]

    def contrast(self, similarity: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return texts' best contrast ``[texts]``, in the bank's standard deviations, from ``[texts, n]`` cosines."""
        best = (similarity - self.centre).max(axis=1).astype(np.float64)
        scaled: NDArray[np.float64] = (best - float(self.peaks[0])) / max(float(self.peaks[1]), 1e-9)
        return scaled

    def save(self, folder: Path) -> None:
        """Write it into a version's folder."""
        tensors = {"centre": self.centre, "texts": self.texts, "hubness": self.hubness, "peaks": self.peaks}
        write_tensors(folder / FILE, tensors)

    @classmethod
    def load(cls, folder: Path) -> Calibration | None:
        """Read what `save` wrote, or None when the version has none; raises `WorkspaceError` when it is damaged."""
        if not (folder / FILE).exists():
            return None
        try:
            return cls(**read_tensors(folder / FILE)[0])
        except TypeError as error:
            raise damaged(folder / FILE, error) from error


def calibrate(
    gallery: Gallery,
    encoder: Encoder,
    probes: NDArray[np.float32],
    cache: Path,
    *,
    previous: Calibration | None = None,
    progress: bool = True,
) -> Calibration:
    """Return the calibration of a version.

    Args:
        gallery: its logits.
        encoder: embeds the bank's names, once per encoder and bank.
        probes: float32 ``[n, dim]``, the probes under the encoder.
        cache: folder of kept embeddings.
        previous: of the version before, when that is a prefix of this one: only new logits are measured.
        progress: draw a progress bar on stderr.
    """
    texts = cached_texts(encoder, _spread(bank.names(), BANK), cache, "bank", progress=progress)
    centre = (probes @ texts.mean(axis=0)).astype(np.float32)
    done = np.empty(0, np.float32)
    if previous is not None and np.array_equal(previous.centre, centre):
        done = previous.hubness[: len(gallery)]
    asked = zero_shot(np.stack(_spread(list(texts), HUB_CONCEPTS)) @ probes.T, centre)
    parts = [done]
    with tqdm(total=len(gallery) - done.size, desc="hubness", unit="logit", disable=not progress, leave=False) as bar:
        for start in range(done.size, len(gallery), _ROWS):
            rows = np.arange(start, min(start + _ROWS, len(gallery)))
            parts.append(hubness(strengths(gallery.vectors(rows)), asked))
            bar.update(rows.size)
    best = (texts @ probes.T - centre).max(axis=1)
    peaks = np.array([best.mean(), best.std()], np.float32)
    return Calibration(centre, texts.mean(axis=0), np.concatenate(parts), peaks)


def _spread(all_of: list[T], count: int) -> list[T]:
    """Return ``count`` of the elements, evenly spread over their order."""
    return [all_of[i] for i in np.linspace(0, len(all_of) - 1, min(count, len(all_of))).astype(int).tolist()]
