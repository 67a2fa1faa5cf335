"""A picture of the images on which the leading models disagree."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from hubprobe.pick.images import Task
from workspace.files import replacing
from workspace.images import read_image
from workspace.text import printable

MOST = 24
"""Images on a sheet."""

_CELL, _THUMB, _LINE, _COLUMNS = 250, 160, 18, 4  # pixels, and images in a row


def disagreements(task: Task, names: Sequence[str], votes: NDArray[np.int64], target: Path) -> int:
    """Draw the images on which ``names`` disagree, most divided first; return how many there are.

    Args:
        task: the images.
        names: the leading models, best first.
        votes: int64 [models, images], their answers.
        target: PNG to write; none is written, and an old one goes, when there is nothing to draw.
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
