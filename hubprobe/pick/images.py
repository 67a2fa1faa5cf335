"""The user's own images as a probe set: a small workspace inside ``picks/``, and what is known of each image."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hubprobe.pick.scores import UNKNOWN
from workspace import QueryError, Workspace, WorkspaceError
from workspace.files import read_json, replacing, short_hash, write_json
from workspace.images import read_image
from workspace.text import printable

FOREIGN = -2
"""The label of an image that shows none of the concepts."""

LABELS = "labels.json"
MAX_LABELS_BYTES = 64 * 1024**2  # of a CSV


@dataclass(frozen=True, eq=False)
class Task:
    """What is to be picked for."""

    root: Path  # the pick's folder, ``picks/<name>/`` of the workspace
    inner: Workspace  # the workspace whose probes are the images
    concepts: tuple[str, ...]  # what is to be told apart
    sources: tuple[str, ...]  # of each image, its path within the folder, or where it came from
    labels: NDArray[np.int64]  # int64 [images], `UNKNOWN`, `FOREIGN` or a concept; what is learnt is written into it
    notes: tuple[str, ...]  # what a user should know of the images

    def learn(self, image: int, label: int) -> None:
        """Note the label of an image, on the disk too: what was answered is never asked again."""
        self.labels[image] = label
        path = self.root / LABELS
        known = read_json(path, {"labels": dict})["labels"] if path.exists() else {}
        write_json(path, {"labels": known | {self.sources[image]: label}})


def prepare(
    workspace: Workspace,
    images: str | Path,
    concepts: Sequence[str],
    *,
    labels: Path | None,
    limit: int,
    seed: int,
    name: str | None,
    folder: Path | None = None,
    progress: bool,
) -> Task:
    """Read the images into ``picks/<name>/``, once, and find what is known of them.

    Labels come from a CSV (columns ``path`` and ``label``), else from the names of the folders that images lie in, and
    from what was answered in an earlier run. Arguments are as `hubprobe.pick.pick` has them, ``limit`` its max_images.

    Raises `QueryError` for concepts or labels that make no task, `WorkspaceError` for images that cannot be read.
    """
    from probing import probes

    given = _csv_labels(labels) if labels is not None else {}
    place = str(Path(images).resolve()) if Path(images).exists() else str(images)
    root = workspace.root / "picks" / (name or short_hash("\n".join([place, str(limit), str(seed), *concepts])))
    if folder is not None:
        root = folder
    elif root.parent != workspace.root / "picks" or root.name in ("", ".", ".."):
        raise QueryError(f"a pick's name is one folder name, not {name!r}")
    inner = Workspace.create(root / "work", workspace.config)
    notes: tuple[str, ...] = ()
    if not (inner.root / "probes" / "current.json").exists():
        built = probes.build(inner, images, n=limit, seed=seed, progress=progress)
        notes = built.notes[built.n < limit :]  # the first says that fewer were there than may be
        if built.n == limit:
            notes = (*notes, f"at most {limit} images are used, a sample where there are more: --max-images takes more")
    rows = inner.probes(["source", "caption"]).to_pylist()
    if len(rows) < 2:
        raise QueryError(f"one image of {images} can be used, two are needed at least: give more images")
    sources = tuple(str(row["source"]) for row in rows)
    said = [given.get(source) if given else row["caption"] for source, row in zip(sources, rows, strict=True)]
    chosen = tuple(dict.fromkeys(c.strip() for c in concepts)) or tuple(sorted({s for s in said if s}))
    if len(chosen) < 2:
        raise QueryError(
            "name at least two concepts that are to be told apart, such as: hubprobe pick dog cat --images FOLDER; or "
            "give labels, by --labels or by a folder for each class"
        )
    if given and not any(said):
        raise QueryError(
            f"none of the paths in {labels} is the path of an image: write them as they are below {images}"
        )
    place_of = {_plain(c): i for i, c in enumerate(chosen)}
    known = np.array([place_of.get(_plain(s), FOREIGN) if s else UNKNOWN for s in said], np.int64)
    if not given and not np.isin(known, range(len(chosen))).any():
        known[:] = UNKNOWN  # captions, or folders whose names are no concepts, say nothing
    if (root / LABELS).exists():
        answered = read_json(root / LABELS, {"labels": dict})["labels"]
        for i, source in enumerate(sources):
            value = answered.get(source)
            if type(value) is int and FOREIGN <= value < len(chosen):
                known[i] = value
    foreign = int((known == FOREIGN).sum())
    if foreign == len(sources):
        raise QueryError(
            f"none of the {foreign} images shows any of the concepts, by their labels: give other images, or concepts"
        )
    if foreign:
        notes = (
            *notes,
            f"{foreign} of {len(sources)} images are labelled as none of the concepts, and count for nothing",
        )
    return Task(root, inner, chosen, sources, known, notes)


def _plain(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def _csv_labels(path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > MAX_LABELS_BYTES:
            raise WorkspaceError(f"{path} has more than {MAX_LABELS_BYTES // 1024**2} MB: it is no list of labels")
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WorkspaceError(f"{path} cannot be read as CSV: {error}") from error
    if not rows or not {"path", "label"} <= set(rows[0]):
        raise WorkspaceError(f"{path} needs a first line with the columns path and label, and a line for each image")
    return {Path(r["path"]).as_posix(): r["label"] for r in rows if r["path"] and r["label"]}


MOST = 24
"""Images on a sheet."""

_CELL, _THUMB, _LINE, _COLUMNS = 250, 160, 18, 4  # pixels, and images in a row


def disagreements(task: Task, names: Sequence[str], votes: NDArray[np.int64], target: Path) -> int:
    """Draw the images on which the leading models ``names`` disagree, most divided first; return how many there are.

    ``votes`` are their answers, int64 [models, images]. ``target`` is a PNG; an old one goes when there is nothing to
    draw.
    """
    counts = np.array([len(set(v[v >= 0].tolist())) for v in votes.T])
    divided = np.flatnonzero(counts > 1)
    chosen = divided[np.argsort(-counts[divided], kind="stable")][:MOST]
    if not len(chosen):
        target.unlink(missing_ok=True)
        return 0
    high = _THUMB + _LINE * (len(names) + 2) + 20
    rows = -(-len(chosen) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _CELL + 20, rows * high + 50), "#f6f7f9")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    draw.text((20, 14), f"{len(divided)} images on which the {len(names)} best models disagree", "#1b1f24", font)
    encoded = task.inner.probes(["image"])["image"]
    for place, image in enumerate(chosen.tolist()):
        x, y = 20 + place % _COLUMNS * _CELL, 46 + place // _COLUMNS * high
        thumb = read_image(encoded[image].as_py()["bytes"])
        thumb.thumbnail((_CELL - 30, _THUMB))
        sheet.paste(thumb, (x, y))
        label = task.labels[image]
        draw.text((x, y + _THUMB + 4), printable(task.sources[image], 32), "#667080", font)
        draw.text((x, y + _THUMB + 4 + _LINE), f"label: {task.concepts[label] if label >= 0 else '?'}", "#1b1f24", font)
        for i, name in enumerate(names):
            said = task.concepts[votes[i, image]] if votes[i, image] >= 0 else "-"
            text = printable(f"{i + 1} {said}: {name}", 36)
            draw.text((x, y + _THUMB + 4 + (i + 2) * _LINE), text, "#2f6fdd" if i == 0 else "#667080", font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    with replacing(target) as temporary:
        temporary.write_bytes(buffer.getvalue())
    return len(divided)
