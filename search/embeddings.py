"""The probes under an encoder: computed once per encoder commit and probe set, kept in the index."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from search.encoders import TEMPLATES, Encoder
from search.images import over_white
from workspace import Workspace, WorkspaceError
from workspace.files import replacing, short_hash

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_BATCH = 64


def embed_probes(
    workspace: Workspace, encoder: Encoder, *, templates: Sequence[str] = TEMPLATES, progress: bool = True
) -> dict[str, Any]:
    """Embed every probe with ``encoder`` unless that was done before; return the manifest's entry.

    The entry holds ``name``, ``commit``, ``dim``, ``templates`` and ``file`` in ``index/encoders/``.
    """
    from safetensors.numpy import save_file

    key = short_hash(f"{encoder.name}\n{encoder.commit}\n{workspace.probe_set}")
    path = workspace.index_dir / "encoders" / f"{key}.safetensors"
    if not path.exists():
        rows = []
        count = workspace.probes(["probe_id"]).num_rows
        with tqdm(total=count, desc="embed probes", unit="probe", disable=not progress) as bar:
            for images in _image_batches(workspace):
                rows.append(encoder.encode_images(images))
                bar.update(len(images))
        with replacing(path) as temporary:
            save_file({"probes": np.concatenate(rows)}, temporary, metadata={"encoder": encoder.name})
    dim = int(read_embeddings(path).shape[1])
    about = {"name": encoder.name, "commit": encoder.commit, "dim": dim}
    return {**about, "templates": list(templates), "file": path.name}


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Return the probes' embeddings, float32 ``[n_probes, dim]``, rows of unit length."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        rows: NDArray[np.float32] = load_file(path)["probes"]
    except (SafetensorError, OSError, KeyError) as error:
        raise WorkspaceError(f"cannot read {path}: {error}; delete it and run 'hubprobe index' again") from error
    return rows


def decode(data: bytes) -> Image:
    """Return a probe's encoded bytes as an RGB image; transparency goes over white."""
    from PIL import Image

    return over_white(Image.open(io.BytesIO(data)))


def _image_batches(workspace: Workspace) -> Iterator[list[Image]]:
    column = workspace.probes(["image"]).column("image")
    for start in range(0, len(column), _BATCH):
        yield [decode(row["bytes"]) for row in column.slice(start, _BATCH).to_pylist()]
