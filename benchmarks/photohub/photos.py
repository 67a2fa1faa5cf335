"""The photographs: where they lie, and the probe set that is made of them.

Four Parquet files, ``imagenet_sample``, ``tiny_imagenet_train``, ``tiny_imagenet_test`` and ``coco_100`` (columns in
the README), in the folder ``$HUBPROBE_PHOTOS`` or the one given to ``python -m benchmarks.photohub``. They are under
ImageNet's and COCO's terms: nothing made here holds a picture.
"""

import functools
import hashlib
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.demo_hub import sources

PER_CLASS = 75
"""Training photographs of a Tiny-ImageNet class that are used: its first ones."""
HELD_OUT = 15
"""The last of them, which no model is trained on."""
CHUNK = 1_000
"""Probes that are computed at a time, so that a stop costs seconds."""


def folder() -> Path:
    """Return the folder of the photographs; raises ``FileNotFoundError`` saying what to do when it is not there."""
    found = Path(os.environ.get("HUBPROBE_PHOTOS", "photos"))
    if not (found / "imagenet_sample.parquet").exists():
        message = f"{found} holds no imagenet_sample.parquet: give the folder with --photos"
        raise FileNotFoundError(message)
    return found


def root() -> Path:
    """Return the folder of everything that PhotoHub's scripts produce."""
    made = sources.assets() / "photohub"
    made.mkdir(exist_ok=True)
    return made


def table(name: str) -> pa.Table:
    """Return one of the four files."""
    return pq.read_table(folder() / f"{name}.parquet")


def picture(data: bytes) -> Image.Image:
    """Return a photograph in RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


@functools.cache
def classes() -> tuple[list[str], list[int]]:
    """Return the names of ImageNet's 1,000 classes, and which of them Tiny-ImageNet's 200 are."""
    names = table("imagenet_sample").column("name").to_pylist()
    rows = pq.read_table(folder() / "tiny_imagenet_train.parquet", columns=["label", "imagenet_label"]).slice(0, 400)
    where = dict(zip(rows.column("label").to_pylist(), rows.column("imagenet_label").to_pylist(), strict=True))
    return names, [where[label] for label in range(len(where))]


@functools.cache
def training() -> tuple[pa.ChunkedArray, NDArray[np.int64], NDArray[np.bool_]]:
    """Return the training photographs' bytes, their class of 200, and which are held out."""
    rows = table("tiny_imagenet_train")
    labels = rows.column("label").to_numpy()
    order = np.argsort(labels, kind="stable")
    place = np.empty(labels.size, np.int64)  # of a row within its class
    place[order] = np.arange(labels.size) - np.searchsorted(labels[order], labels[order])
    used = np.flatnonzero(place < PER_CLASS)
    data = rows.column("image").combine_chunks().field("bytes").take(pa.array(used))
    return data, labels[used].astype(np.int64), place[used] >= PER_CLASS - HELD_OUT


@functools.cache
def probes() -> pa.Table:
    """Return the probes, ``bytes, image_hash, width, height, source``: ImageNet's, COCO's, then Tiny-ImageNet's."""
    parts = []
    for name in ("imagenet_sample", "coco_100", "tiny_imagenet_test"):
        data = table(name).column("image").combine_chunks().field("bytes")
        sizes = [Image.open(io.BytesIO(one.as_py())).size for one in data]
        hashes = [hashlib.sha256(one.as_py()).hexdigest() for one in data]
        width, height = ([size[i] for size in sizes] for i in (0, 1))
        columns = {"bytes": data, "image_hash": hashes, "width": width, "height": height}
        parts.append(pa.table({**columns, "source": [name] * len(data)}))
    found = pa.concat_tables(parts)
    wide = pa.int32()
    return found.set_column(2, "width", found.column("width").cast(wide)).set_column(
        3, "height", found.column("height").cast(wide)
    )


def chunks() -> Iterator[tuple[int, int]]:
    """Yield the ranges of probes that are computed at a time."""
    count = probes().num_rows
    for start in range(0, count, CHUNK):
        yield start, min(start + CHUNK, count)
