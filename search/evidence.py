"""Evidence one can look at: for every hit, the probes that its logit answers most strongly."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw, ImageFont

from search.text.embeddings import decode
from workspace import QueryError, Workspace, WorkspaceError
from workspace.files import replacing
from workspace.text import printable

if TYPE_CHECKING:
    from search.scan.gallery import Gallery

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
        order = np.argsort(-vector, kind="stable")[:count]
        chosen.append([(int(probe), float(vector[probe])) for probe in order])
    wanted = sorted({probe for strongest in chosen for probe, _ in strongest})
    table = workspace.probes(["image", "caption"]).take(pa.array(wanted, pa.int64()))
    drawn = {
        probe: (_thumbnail(decode(image["bytes"])), printable(caption or "", 60))
        for probe, image, caption in zip(
            wanted, table.column("image").to_pylist(), table.column("caption").to_pylist(), strict=True
        )
    }
    return [[_Answer(*drawn[probe], strength) for probe, strength in strongest] for strongest in chosen]


def _draw(rows: Sequence[Mapping[str, Any]], answers: list[list[_Answer]], heading: str, count: int) -> Image.Image:
    height = _THUMB + _CAPTION + 2 * _GAP
    width = 2 * _MARGIN + _TEXT + count * (_THUMB + _GAP) + _GAP
    top = _MARGIN + _TITLE
    sheet = Image.new("RGB", (width, top + len(rows) * (height + _GAP) + _MARGIN), _PAPER)
    draw = ImageDraw.Draw(sheet)
    title = _fit(draw, printable(heading or "search", 80), 26, width - 2 * _MARGIN)
    draw.text((_MARGIN, _MARGIN - 4), title, fill=_INK, font=_font(26))
    about = "each row: a logit, and the probe images it answers most strongly (in standard deviations)"
    draw.text((_MARGIN, _MARGIN + 30), about, fill=_SOFT, font=_font(14))
    for i, (row, strongest) in enumerate(zip(rows, answers, strict=True)):
        y = top + i * (height + _GAP)
        draw.rounded_rectangle((_MARGIN, y, width - _MARGIN, y + height), 10, fill=_CARD, outline=_LINE)
        _describe(draw, row, _MARGIN + 14, y + 14)
        for j, answer in enumerate(strongest):
            x = _MARGIN + _TEXT + j * (_THUMB + _GAP)
            _place(sheet, draw, answer, x, y + _GAP)
    return sheet


def _describe(draw: ImageDraw.ImageDraw, row: Mapping[str, Any], x: int, y: int) -> None:
    room = _TEXT - 30
    label = printable(row.get("label") or "", 80) or "(no label)"
    draw.text((x, y), f"{row.get('rank', '')}", fill=_BAR, font=_font(30))
    draw.text((x + 52, y + 2), _fit(draw, _drawable(label), 22, room - 52), fill=_INK, font=_font(22))
    owner, _, name = printable(row["repo_id"], 100).rpartition("/")
    draw.text((x + 52, y + 38), _fit(draw, name, 15, room - 52), fill=_INK, font=_font(15))
    draw.text((x + 52, y + 58), _fit(draw, owner, 13, room - 52), fill=_SOFT, font=_font(13))
    facts = f"logit {row['logit']}"
    if row.get("score") is not None:
        facts += f"   score {row['score']:.3f}"
    draw.text((x + 52, y + 84), facts, fill=_SOFT, font=_font(13))


def _place(sheet: Image.Image, draw: ImageDraw.ImageDraw, answer: _Answer, x: int, y: int) -> None:
    draw.rectangle((x - 1, y - 1, x + _THUMB, y + _THUMB), outline=_LINE)
    thumb = answer.image
    sheet.paste(thumb, (x + (_THUMB - thumb.width) // 2, y + (_THUMB - thumb.height) // 2))
    strength = f"{answer.strength:+.1f}"
    size = draw.textlength(strength, font=_font(12))
    draw.rectangle((x + _THUMB - size - 8, y + _THUMB - 18, x + _THUMB - 1, y + _THUMB - 1), fill=_BAR)
    draw.text((x + _THUMB - size - 4, y + _THUMB - 17), strength, fill=_CARD, font=_font(12))
    for line, text in enumerate(_wrap(draw, answer.caption, 12, _THUMB, 2)):
        draw.text((x, y + _THUMB + 4 + 15 * line), text, fill=_SOFT, font=_font(12))


def _thumbnail(image: Image.Image) -> Image.Image:
    image = image.copy()
    scale = _THUMB / max(image.size)
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _drawable(text: str) -> str:
    """Return ``text`` with characters that the font lacks, such as Japanese, as U+ numbers in place of boxes."""
    font = _font(22)
    box = bytes(font.getmask("\U0010ffff"))
    return " ".join("".join(c if bytes(font.getmask(c)) != box else f" U+{ord(c):04X} " for c in text).split())


def _fit(draw: ImageDraw.ImageDraw, text: str, size: int, room: float) -> str:
    if draw.textlength(text, font=_font(size)) <= room:
        return text
    while text and draw.textlength(text + "…", font=_font(size)) > room:
        text = text[:-1]
    return text + "…"


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
