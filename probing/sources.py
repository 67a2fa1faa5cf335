"""Where probes come from: a folder of images, Parquet files, or any ``datasets`` dataset, in a seeded order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workspace import WorkspaceError
from workspace.endpoint import token_for

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture", "photo", "pixel_values", "webp")
"""Names under which data sets keep images, tried after the column whose type says it is one."""

CAPTION_COLUMNS = (
    "caption", "captions", "text", "sentences", "sentence", "description", "title", "prompt", "alt_text", "txt",
    "answer",
    "fine_label", "label", "labels", "class", "class_name", "category",
)  # fmt: skip
"""Names under which data sets keep what an image shows, best first."""

SHUFFLE_BUFFER = 10_000
"""Examples held while a stream is shuffled: encoded bytes, about 1 GB at 100 KB an image."""

MAX_CAPTION = 1000  # characters kept of a caption


@dataclass(frozen=True)
class Item:
    """One candidate: its encoded bytes or its file, None when the source has nothing there; and what is known of it."""

    image: bytes | Path | None
    caption: str | None
    source: str
    license: str | None = None


@dataclass(frozen=True)
class Source:
    """A stream of candidates in seeded random order; ``total`` is how many there are, None for a stream."""

    name: str
    items: Iterator[Item]
    total: int | None
    image_column: str | None = None
    caption_column: str | None = None


def open_source(
    source: str | Path, *, seed: int, split: str, image_column: str | None, caption_column: str | None, cache: Path
) -> Source:
    """Open ``source``: a folder of images, a Parquet file or folder of them, or the name of a Hub data set.

    A local source is sampled by a seeded permutation of all of it. A Hub data set is streamed: its shards are
    shuffled by the seed, and its examples within a window of `SHUFFLE_BUFFER`.

    Raises `WorkspaceError` when there is nothing to read.
    """
    path = Path(source)
    if path.is_dir():
        if any((path / name).exists() for name in _METADATA):
            return _dataset("imagefolder", path, seed, split, image_column, caption_column, cache)
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if files:
            return Source(str(source), _from_files(path, files, seed), len(files))
        if any(path.rglob("*.parquet")):
            return _dataset("parquet", path, seed, split, image_column, caption_column, cache)
        raise WorkspaceError(f"{path} holds no images and no Parquet files: name another folder")
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise WorkspaceError(f"{path} is no Parquet file: name a folder of images, a Parquet file or a data set")
        return _dataset("parquet", path, seed, split, image_column, caption_column, cache)
    if path.is_absolute() or str(source).startswith((".", "~")):
        raise WorkspaceError(f"there is nothing at {source}: name a folder, a Parquet file or a data set of the Hub")
    return _dataset(str(source), None, seed, split, image_column, caption_column, cache)


def _from_files(root: Path, files: list[Path], seed: int) -> Iterator[Item]:
    in_folders = len({p.parent for p in files}) > 1  # class folders: their names say what they hold
    for i in np.random.default_rng(seed).permutation(len(files)):
        path = files[i]
        caption = path.parent.name.replace("_", " ") if in_folders and path.parent != root else None
        yield Item(path, caption, path.relative_to(root).as_posix())


def _dataset(
    name: str,
    path: Path | None,
    seed: int,
    split: str,
    image_column: str | None,
    caption_column: str | None,
    cache: Path,
) -> Source:
    import datasets

    options: dict[str, Any] = {"split": split, "streaming": path is None}
    if path is not None:
        options["cache_dir"] = str(cache)
        if path.is_dir() and name == "imagefolder":
            options["data_dir"] = str(path)
        else:
            options["data_files"] = str(path / "**" / "*.parquet") if path.is_dir() else str(path)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        if path is None:  # None would make the library look for a token by itself
            options["token"] = token_for(datasets.config.HF_ENDPOINT) or False
        data = datasets.load_dataset(name, **options)
    except (ValueError, OSError, datasets.exceptions.DatasetsError) as error:
        raise WorkspaceError(f"cannot open the data set '{path or name}', split '{split}': {error}") from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    image = image_column or _image_column(data, datasets.Image)
    columns = _columns(data)
    for column in (image, caption_column):
        if column is not None and column not in columns:
            raise WorkspaceError(f"the data set has no column '{column}'; it has {', '.join(columns)}")
    caption = caption_column or next((c for c in CAPTION_COLUMNS if c in columns and c != image), None)
    names = _class_names(data, caption)
    data = data.cast_column(image, datasets.Image(decode=False))
    label = str(path) if path is not None else name
    total = None if path is None else len(data)
    root = path if name == "imagefolder" else None
    return Source(label, _from_rows(data, label, seed, image, caption, names, root), total, image, caption)


def _columns(data: Any) -> list[str]:
    return list(data.features) if data.features else list(next(iter(data)))


def _image_column(data: Any, image_type: type) -> str:
    for name, feature in (data.features or {}).items():
        if isinstance(feature, image_type):
            return str(name)
    columns = _columns(data)
    for name in IMAGE_COLUMNS:
        if name in columns:
            return name
    raise WorkspaceError(f"no column of this data set looks like images: name it; it has {', '.join(columns)}")


def _class_names(data: Any, column: str | None) -> list[str] | None:
    feature = (data.features or {}).get(column) if column else None
    return list(feature.names) if feature is not None and hasattr(feature, "names") else None


def _from_rows(
    data: Any, label: str, seed: int, image: str, caption: str | None, names: list[str] | None, root: Path | None
) -> Iterator[Item]:
    name = os.path.basename(label) or label  # noqa: PTH119 - a data set's name is no path
    if hasattr(data, "__len__"):
        order = np.random.default_rng(seed).permutation(len(data))
        rows: Iterator[tuple[int, Any]] = ((int(i), data[int(i)]) for i in order)
    else:
        rows = enumerate(data.shuffle(seed=seed, buffer_size=SHUFFLE_BUFFER))
    for i, row in rows:
        text = _caption(row.get(caption), names) if caption else None
        licence = row.get("license")
        source = row.get("source")
        yield Item(
            _image(row[image], root),
            text,
            source if isinstance(source, str) and source else f"{name}#{i}",
            str(licence)[:MAX_CAPTION] if isinstance(licence, str) else None,
        )


def _image(value: Any, root: Path | None) -> bytes | Path | None:
    """Return what a row holds of its image: bytes, or a file below ``root``. Other paths are a stranger's wish."""
    if isinstance(value, dict):
        if value.get("bytes"):
            return bytes(value["bytes"])
        path = value.get("path")
        if root is None or not isinstance(path, str) or not Path(path).resolve().is_relative_to(root.resolve()):
            return None
        return Path(path)
    return bytes(value) if isinstance(value, (bytes, bytearray)) else None


def _caption(value: Any, names: list[str] | None) -> str | None:
    """Return a caption from what data sets hold: text, a class index, a list of either, or COCO's {'raw': ...}."""
    if isinstance(value, (list, tuple)):
        value = value[0] if value else None
    if isinstance(value, dict):
        value = next((value[k] for k in ("raw", "caption", "text") if isinstance(value.get(k), str)), None)
    if names is not None and isinstance(value, (int, np.integer)):
        return names[value] if 0 <= value < len(names) else None
    if not isinstance(value, str):
        return None
    flat = " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
    return flat[:MAX_CAPTION] or None
