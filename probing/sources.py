"""Where probes come from: a folder of images, Parquet files, or any ``datasets`` dataset, in a seeded order."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from probing.images.pictures import read as read_probe
from workspace import WorkspaceError
from workspace.endpoint import patiently, token_for
from workspace.images import Refusal, RefusedImageError
from workspace.text import printable

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

GLANCED = 20
"""Images looked at before a source is said to hold none."""

_REFUSED = (ValueError, OSError, KeyError, TypeError, ImportError, RuntimeError)
"""What `datasets`, and what it stands on, raise for a source that cannot be read."""

MAX_CAPTION = 1000  # characters kept of a caption

LICENCE_COLUMNS = ("license", "licence", "license_url", "License", "licenses")
"""Names under which data sets keep what an image may be used for."""

COCO_LICENCES = (
    "cc-by-nc-sa-2.0", "cc-by-nc-2.0", "cc-by-nc-nd-2.0", "cc-by-2.0", "cc-by-sa-2.0", "cc-by-nd-2.0",
    "no-known-copyright", "us-government-work",
)  # fmt: skip
"""What the numbers from 1 mean in COCO's ``license``."""

_CC = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)|publicdomain/(zero|mark))/?(\d\.\d)?")


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


@dataclass(frozen=True)
class Place:
    """Where images come from, and how they are read."""

    source: str | Path  # a folder of images, a Parquet file or folder of them, or the name of a data set of the Hub
    split: str  # of a data set
    image_column: str | None  # found by its type or name when None
    caption_column: str | None  # found by its name when None
    cache: Path  # folder in which `datasets` keeps a local source
    endpoint: str  # the Hub that is asked for a data set
    token: str | bool | None = None  # for that Hub, as `workspace.endpoint.token_for` takes it

    @property
    def is_local(self) -> bool:
        """Whether it is on this disk, or meant to be."""
        path = Path(self.source)
        return path.exists() or path.is_absolute() or str(self.source).startswith((".", "~"))


@dataclass(frozen=True)
class Glance:
    """What a look at the beginning of a source shows."""

    columns: tuple[str, ...]  # names of the columns; empty for a folder of plain images
    image_column: str | None  # the ones that would be read
    caption_column: str | None
    width: int  # of the first image, pixels
    height: int
    total: int | None  # images, None for a stream


def open_source(place: Place, *, seed: int) -> Source:
    """Open a source in an order that ``seed`` decides.

    A local source is sampled by a seeded permutation of all of it. A Hub data set is streamed: its shards are
    shuffled by the seed, and its examples within a window of `SHUFFLE_BUFFER`.

    Raises `WorkspaceError` when there is nothing to read.
    """
    what, files = _kind(place)
    path = Path(place.source)
    if what == "files":
        return Source(str(place.source), _from_files(path, files, seed), len(files))
    with _asking(place.endpoint) if what == "hub" else nullcontext():
        read = _dataset(place, what, streaming=what == "hub")
    items = _from_rows(read.data, read.label, seed, read.image, read.caption, read.names, read.root)
    if what == "hub":
        return Source(read.label, _streamed(place.endpoint, items), None, read.image, read.caption)
    return Source(read.label, items, len(read.data), read.image, read.caption)


def glance(place: Place) -> Glance:
    """Look at the first images of a source: of a data set of the Hub some of its first file is read, no more.

    Raises `WorkspaceError` when there is nothing to read, or none of the first `GLANCED` has an image.
    """
    what, files = _kind(place)
    with (
        TemporaryDirectory(prefix="hubprobe-") as nothing_stays,
        _asking(place.endpoint) if what == "hub" else nullcontext(),
    ):
        return _glance(replace(place, cache=Path(nothing_stays)), what, files)


def _glance(place: Place, what: str, files: list[Path]) -> Glance:
    if what == "files":
        rows: Iterator[bytes | Path | None] = iter(files)
        found = Glance((), None, None, 0, 0, len(files))
    else:
        read = _dataset(place, what, streaming=True)
        rows = (_image(row[read.image], read.root) for row in read.data)
        found = Glance(tuple(read.columns), read.image, read.caption, 0, 0, None)
    why = "it is empty"
    try:
        for one in islice(rows, GLANCED):
            try:
                if one is None:
                    raise RefusedImageError(Refusal.BROKEN, "there is no image in it")
                probe = read_probe(one, "the first image")
            except RefusedImageError as error:
                why = str(error)
                continue
            return replace(found, width=probe.width, height=probe.height)
    except _REFUSED as error:
        raise WorkspaceError(f"cannot read '{place.source}', split '{place.split}': {printable(error, 300)}") from error
    raise WorkspaceError(f"none of the first {GLANCED} images of '{place.source}' can be used: {why}")


def _kind(place: Place) -> tuple[str, list[Path]]:
    """Return what a source is: ``files`` and which, ``imagefolder``, ``parquet``, or ``hub``."""
    path = Path(place.source)
    if path.is_dir():
        if any((path / name).exists() for name in _METADATA):
            return "imagefolder", []
        files = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
        if files:
            return "files", files
        if any(path.rglob("*.parquet")):
            return "parquet", []
        raise WorkspaceError(f"{path} holds no images and no Parquet files: name another folder")
    if path.is_file():
        if path.suffix.lower() != ".parquet":
            raise WorkspaceError(f"{path} is no Parquet file: name a folder of images, a Parquet file or a data set")
        return "parquet", []
    if place.is_local or "/" not in str(place.source):  # a data set of the Hub has an owner
        raise WorkspaceError(
            f"there is nothing at {place.source}: name a folder, a Parquet file or a data set of the Hub (OWNER/NAME)"
        )
    return "hub", []


def _from_files(root: Path, files: list[Path], seed: int) -> Iterator[Item]:
    in_folders = len({p.parent for p in files}) > 1  # class folders: their names say what they hold
    for i in np.random.default_rng(seed).permutation(len(files)):
        path = files[i]
        caption = path.parent.name.replace("_", " ") if in_folders and path.parent != root else None
        yield Item(path, caption, path.relative_to(root).as_posix())


@dataclass(frozen=True)
class _Read:
    """A data set and how it is read; ``data`` is one of `datasets`, its images left encoded."""

    data: Any
    label: str
    columns: list[str]
    image: str
    caption: str | None
    names: list[str] | None
    root: Path | None


def _dataset(place: Place, kind: str, *, streaming: bool) -> _Read:
    import datasets

    path = None if kind == "hub" else Path(place.source)
    options: dict[str, Any] = {"split": place.split, "streaming": streaming, "cache_dir": str(place.cache)}
    if path is None:
        # None would make the library look for a token by itself
        options["token"] = token_for(place.endpoint, place.token) or False
    elif kind == "imagefolder":
        options["data_dir"] = str(path)
    else:
        options["data_files"] = str(path / "**" / "*.parquet") if path.is_dir() else str(path)
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        data = patiently(lambda: datasets.load_dataset(str(place.source) if path is None else kind, **options))
        columns = _columns(data)
    except (*_REFUSED, datasets.exceptions.DatasetsError) as error:
        raise WorkspaceError(
            f"cannot open the data set '{place.source}', split '{place.split}': {printable(error, 300).rstrip('.')}"
        ) from error
    finally:
        if bars:
            datasets.enable_progress_bars()
    image = place.image_column or _image_column(data, datasets.Image)
    for column in (image, place.caption_column):
        if column is not None and column not in columns:
            raise WorkspaceError(f"the data set has no column '{column}'; it has {', '.join(columns)}")
    caption = place.caption_column or next((c for c in CAPTION_COLUMNS if c in columns and c != image), None)
    feature = (data.features or {}).get(caption) if caption else None
    names = list(feature.names) if feature is not None and hasattr(feature, "names") else None
    data = data.cast_column(image, datasets.Image(decode=False))
    label = str(path) if path is not None else str(place.source)
    return _Read(data, label, columns, image, caption, names, path if kind == "imagefolder" else None)


@contextmanager
def _asking(endpoint: str) -> Iterator[None]:
    """Make `datasets` ask this Hub: it and its client read an address when they are imported, and take none later."""
    import datasets
    from huggingface_hub import constants

    wanted = [
        (datasets.config, "HF_ENDPOINT", endpoint),
        (datasets.config, "HUB_DATASETS_URL", f"{endpoint}/datasets/{{repo_id}}/resolve/{{revision}}/{{path}}"),
        (constants, "ENDPOINT", endpoint),
        (constants, "HUGGINGFACE_CO_URL_TEMPLATE", f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in wanted]
    for module, name, value in wanted:
        setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _streamed(endpoint: str, items: Iterator[Item]) -> Iterator[Item]:
    with _asking(endpoint):  # a stream asks as it is read
        yield from items


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
        source = row.get("source")
        yield Item(
            _image(row[image], root),
            text,
            source if isinstance(source, str) and source else f"{name}#{i}",
            licence_of(row),
        )


def licence_of(row: Mapping[str, Any]) -> str | None:
    """Return the licence of a row, or None: as it is written, of a Creative Commons address as the Hub tags it.

    >>> licence_of({"license": "https://creativecommons.org/licenses/by/2.0/"})
    'cc-by-2.0'
    """
    value = next((row[name] for name in LICENCE_COLUMNS if row.get(name) is not None), None)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        coco = "coco_url" in row and 1 <= value <= len(COCO_LICENCES)
        return COCO_LICENCES[int(value) - 1] if coco else None
    if not isinstance(value, str) or not value.strip():
        return None
    if address := _CC.search(value.lower()):
        kind, public, version = address.groups()
        name = f"cc-{kind}" if kind else {"zero": "cc0", "mark": "pdm"}[public]
        return f"{name}-{version}" if version else name
    return " ".join(value.split())[:MAX_CAPTION]


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
