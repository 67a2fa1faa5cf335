"""Evidence one can look at: for every hit, the probes that its logit answers most strongly."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont, ImageOps

from search.scan.gallery import Gallery
from search.text.embeddings import decode
from workspace import QueryError, Workspace, WorkspaceError
from workspace.files import replacing
from workspace.text import printable

_THUMB, _GAP, _TEXT, _CAPTION, _MARGIN = 112, 10, 330, 34, 24  # pixels
_TITLE = 64  # pixels
_INK, _SOFT, _LINE, _PAPER, _CARD = "#1b1f24", "#667080", "#e3e7ec", "#f6f7f9", "#ffffff"
_BAR = "#2f6fdd"


@dataclass(frozen=True)
class _Answer:
    """One probe that a logit answers strongly."""

    image: Image.Image
    caption: str
    strength: float  # standard deviations


def contact_sheet(
    gallery: Gallery, workspace: Workspace, hits: Sequence[Mapping[str, Any]], path: Path, *, count: int, title: str
) -> None:
    """Write a PNG with one row per hit, ``count`` probes in each; see `search.Index.contact_sheet`."""
    if not 1 <= count <= 20:
        raise QueryError(f"probes_per_hit is between 1 and 20, not {count}")
    if not hits:
        raise QueryError("there is no hit to draw: loosen the filter")
    sheet = _draw(hits, _strongest(gallery, workspace, hits, count), title, count)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())


_SHOWN = 10
"""Hits that a notebook shows with their evidence; the others are counted."""


def as_html(gallery: Gallery, workspace: Workspace, table: pa.Table, title: str) -> str:
    """Return the first hits of a result as an HTML table, each with the probes it answers most strongly.

    Texts of strangers are escaped; pictures are inside, so that a saved notebook shows them. Without probe images
    (a release may have none) there are no pictures.
    """
    hits = table.slice(0, _SHOWN).to_pylist()
    answers: list[list[_Answer]] = [[] for _ in hits]
    if hits:
        with suppress(WorkspaceError):
            answers = _strongest(gallery, workspace, hits, 6)
    lines = "".join(_html_row(hit, some) for hit, some in zip(hits, answers, strict=True))
    more = f"<p>and {len(table) - len(hits)} more</p>" if len(table) > len(hits) else ""
    nothing = "<p>no hit: loosen the filter</p>" if not hits else ""
    title = html.escape(printable(title or "search", 80))
    heads = "".join(f"<th>{name}</th>" for name in ("", "score", "model", "logit", "label", "answers most strongly"))
    return f"<b>{title}</b>{nothing}<table><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>{more}"


def _html_row(hit: Mapping[str, Any], answers: Sequence[_Answer]) -> str:
    pictures = []
    for answer in answers:
        buffer = io.BytesIO()
        answer.image.save(buffer, "JPEG", quality=80)
        source = f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
        about = html.escape(f"{answer.caption} ({answer.strength:+.1f} standard deviations)", quote=True)
        pictures.append(f'<img src="{source}" title="{about}" alt="{about}" style="height:56px;display:inline">')
    texts = [str(hit["rank"]), f"{hit['score']:.3f}", hit["repo_id"], str(hit["logit"]), hit["label"] or ""]
    cells = "".join(f"<td>{html.escape(printable(text, 60))}</td>" for text in texts)
    return f"<tr>{cells}<td>{' '.join(pictures)}</td></tr>"


def _strongest(
    gallery: Gallery, workspace: Workspace, rows: Sequence[Mapping[str, Any]], count: int
) -> list[list[_Answer]]:
    chosen = []
    for row in rows:
        vector = gallery.vector(gallery.row(row["repo_id"], row["logit"], row["sha"]))
        chosen.append({int(probe): float(vector[probe]) for probe in np.argsort(-vector, kind="stable")[:count]})
    wanted = sorted({probe for strongest in chosen for probe in strongest})
    drawn = {}
    table = workspace.probes(["image", "caption"]).take(pa.array(wanted, pa.int64()))
    for probe, row in zip(wanted, table.to_pylist(), strict=True):
        thumb = ImageOps.contain(decode(row["image"]["bytes"]), (_THUMB, _THUMB), Image.Resampling.LANCZOS)
        drawn[probe] = thumb, printable(row["caption"] or "", 60)
    return [[_Answer(*drawn[probe], strength) for probe, strength in strongest.items()] for strongest in chosen]


def _draw(rows: Sequence[Mapping[str, Any]], answers: list[list[_Answer]], heading: str, count: int) -> Image.Image:
    height = _THUMB + _CAPTION + 2 * _GAP
    width = 2 * _MARGIN + _TEXT + count * (_THUMB + _GAP) + _GAP
    top = _MARGIN + _TITLE
    sheet = Image.new("RGB", (width, top + len(rows) * (height + _GAP) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _say(draw, _MARGIN, _MARGIN - 4, printable(heading or "search", 80), 26, _INK, width - 2 * _MARGIN)
    about = "each row: a logit, and the probe images it answers most strongly (in standard deviations)"
    _say(draw, _MARGIN, _MARGIN + 30, about, 14, _SOFT)
    for i, (row, strongest) in enumerate(zip(rows, answers, strict=True)):
        y = top + i * (height + _GAP)
        draw.rounded_rectangle((_MARGIN, y, width - _MARGIN, y + height), 10, fill=_CARD, outline=_LINE)
        _describe(draw, row, _MARGIN + 14, y + 14)
        for j, answer in enumerate(strongest):
            _place(sheet, draw, answer, _MARGIN + _TEXT + j * (_THUMB + _GAP), y + _GAP)
    return sheet


def _describe(draw: ImageDraw.ImageDraw, row: Mapping[str, Any], x: int, y: int) -> None:
    owner, _, name = printable(row["repo_id"], 100).rpartition("/")
    score = f"   score {row['score']:.3f}" if row.get("score") is not None else ""
    _say(draw, x, y, f"{row.get('rank', '')}", 30, _BAR)
    _say(draw, x + 52, y + 2, _drawable(printable(row.get("label") or "", 80) or "(no label)"), 22, _INK, _TEXT - 82)
    _say(draw, x + 52, y + 38, name, 15, _INK, _TEXT - 82)
    _say(draw, x + 52, y + 58, owner, 13, _SOFT, _TEXT - 82)
    _say(draw, x + 52, y + 84, f"logit {row['logit']}{score}", 13, _SOFT)


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, answer: _Answer, x: int, y: int) -> None:
    draw.rectangle((x - 1, y - 1, x + _THUMB, y + _THUMB), outline=_LINE)
    thumb, strength = answer.image, f"{answer.strength:+.1f}"
    sheet.paste(thumb, (x + (_THUMB - thumb.width) // 2, y + (_THUMB - thumb.height) // 2))
    size = draw.textlength(strength, font=_font(12))
    draw.rectangle((x + _THUMB - size - 8, y + _THUMB - 18, x + _THUMB - 1, y + _THUMB - 1), fill=_BAR)
    _say(draw, x + _THUMB - size - 4, y + _THUMB - 17, strength, 12, _CARD)
    for line, text in enumerate(_wrap(draw, answer.caption, 12, _THUMB, 2)):
        _say(draw, x, y + _THUMB + 4 + 15 * line, text, 12, _SOFT)


def _say(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, size: int, ink: str, room: float | None = None
) -> None:
    draw.text((x, y), text if room is None else _fit(draw, text, size, room), fill=ink, font=_font(size))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Return ``text`` with characters that the font lacks, such as Japanese, as U+ numbers in place of boxes."""
    font = _font(22)
    box = bytes(font.getmask("\U0010ffff"))
    return " ".join("".join(c if bytes(font.getmask(c)) != box else f" U+{ord(c):04X} " for c in text).split())


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, room: float) -> str:
    cut = text
    while cut and draw.textlength(cut if cut == text else f"{cut}…", font=_font(size)) > room:
        cut = cut[:-1]
    return cut if cut == text else f"{cut}…"


def _wrap(draw: ImageDraw.ImageDraw, text: str, size: int, room: float, lines: int) -> list[str]:
    rows: list[str] = []
    for word in text.split():
        if rows and draw.textlength(f"{rows[-1]} {word}", font=_font(size)) <= room:
            rows[-1] = f"{rows[-1]} {word}"
        elif len(rows) < lines:
            rows.append(word)
        else:
            rows[-1] += " …"
            break
    return [_fit(draw, row, size, room) for row in rows]
