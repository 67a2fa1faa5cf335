"""The probes under an encoder: computed once per encoder commit and probe set, kept in the index."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from search.text import bank
from search.text.encoders import TEMPLATES, Encoder
from search.text.known import KnownTexts
from workspace import Workspace, WorkspaceError
from workspace.errors import DamagedFileError
from workspace.files import damaged, read_tensors, sha256_of, short_hash, write_tensors
from workspace.seams import Sight

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_BATCH = 64
_LOG = logging.getLogger(__name__)


def embed_probes(
    workspace: Workspace, encoder: Encoder, *, templates: Sequence[str] = TEMPLATES, progress: bool = True
) -> dict[str, Any]:
    """Embed every probe with ``encoder`` unless that was done before; return the manifest's entry.

    The entry holds ``name``, ``commit``, ``dim``, ``templates`` and ``file`` in ``index/encoders/``.
    """
    key = short_hash(f"{encoder.name}\n{encoder.commit}\n{workspace.probe_set}")
    path = cache(workspace) / f"{key}.safetensors"
    captions = getattr(encoder, "of_captions", False)
    if captions:
        templates = ("{}",)  # a caption has no prompt around it either
    try:
        rows = read_embeddings(path) if path.exists() else None
    except DamagedFileError as error:
        _LOG.warning("%s is made again: it is damaged (%s)", path, error.why)
        rows = None
    if rows is None:
        rows = _caption_rows(workspace, encoder) if captions else _image_rows(workspace, encoder, progress)
        write_tensors(path, {"probes": rows}, {"encoder": encoder.name})
    about = {"name": encoder.name, "commit": encoder.commit, "dim": int(rows.shape[1])}
    return {**about, "templates": list(templates), "file": path.name, "sha256": sha256_of(path)}


def sight(workspace: Workspace, encoder: Encoder, *, progress: bool = True) -> Sight:
    """Return how ``encoder`` sees images beside the concept bank, whose embeddings are kept in the index."""
    captions = getattr(encoder, "of_captions", False)
    about = {"name": encoder.name, "commit": encoder.commit, "templates": ["{}"] if captions else list(TEMPLATES)}
    cache(workspace).mkdir(parents=True, exist_ok=True)
    concepts = tuple(bank.names(everyday_only=False))
    texts = KnownTexts(cache(workspace), about).embedded(concepts, lambda: encoder, "bank", progress=progress)

    def embed(pictures: Sequence[bytes], told: Sequence[str | None]) -> NDArray[np.float32]:
        if not captions:
            return encoder.encode_images([decode(picture) for picture in pictures])
        return _of_captions(encoder, told, texts.shape[1])

    return Sight(encoder.name, encoder.commit, concepts, texts, embed)


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Return the probes' embeddings, float32 ``[n_probes, dim]``, rows of unit length."""
    rows = read_tensors(path)[0].get("probes")
    if rows is None or rows.ndim != 2 or rows.dtype != np.float32:
        raise damaged(path, "it holds no embeddings of probes")
    return rows


def decode(data: bytes) -> Image:
    """Return a probe's encoded bytes as an RGB image."""
    from workspace.images import read_image

    return read_image(data, "a probe", max_aspect=math.inf)


def cache(workspace: Workspace) -> Path:
    """Return the folder of kept embeddings."""
    return workspace.index_dir / "encoders"


def _caption_rows(workspace: Workspace, encoder: Encoder) -> NDArray[np.float32]:
    rows = _of_captions(encoder, workspace.probes(["caption"]).column("caption").to_pylist(), 0)
    if not rows.size:
        raise WorkspaceError(
            f"the probes have no captions, which {encoder.name} needs: choose a clip: encoder, "
            "or build the probes with --caption-column"
        )
    return rows


def _of_captions(encoder: Encoder, captions: Sequence[str | None], width: int) -> NDArray[np.float32]:
    """Return a row per caption, ``width`` wide if there is none; a missing one is zero: it is like no text."""
    told = {i: caption for i, caption in enumerate(captions) if caption and caption.strip()}
    found = encoder.encode_texts(list(told.values())) if told else np.empty((0, width), np.float32)
    rows = np.zeros((len(captions), found.shape[1]), np.float32)
    rows[list(told)] = found
    return rows


def _image_rows(workspace: Workspace, encoder: Encoder, progress: bool) -> NDArray[np.float32]:
    from tqdm import tqdm

    rows, column = [], workspace.probes(["image"]).column("image")
    with tqdm(total=len(column), desc="embed probes", unit="probe", disable=not progress) as bar:
        for start in range(0, len(column), _BATCH):
            images = [decode(row["bytes"]) for row in column.slice(start, _BATCH).to_pylist()]
            rows.append(encoder.encode_images(images))
            bar.update(len(images))
    return np.concatenate(rows)
