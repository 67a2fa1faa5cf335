"""What all pictures share: colours that the colour-blind can tell apart, fonts, strangers' text, and saving."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workspace import ConfigError
from workspace.files import replacing
from workspace.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette (jfly.uni-koeln.de/color), which is made for all kinds of colour vision.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, YELLOW, GREY = "#56B4E9", "#CC79A7", "#F0E442", "#9AA0A6"
INK, SOFT = "#1b1f24", "#667080"
SERIES = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, INK)
"""Colours of things that have no colour of their own, in order. The palette's yellow is lost on white."""

FAILURES = (VERMILION, BLUE, ORANGE, PURPLE, SKY, YELLOW)
"""Colours of kinds of failure: no green, which is that of what was probed."""

OUTCOMES = {"ok": GREEN, "failed": VERMILION, "skipped": GREY, "waiting": ORANGE}

SUFFIXES = (".png", ".svg", ".pdf")
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "Yu Gothic", "Microsoft YaHei",
    "Malgun Gothic", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali",
    "Noto Sans Thai", "Noto Sans Tamil", "Noto Sans Armenian", "Noto Sans Georgian",
)  # fmt: skip


@contextmanager
def picture(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """Yield an empty figure of about that many inches; write it to ``path`` afterwards, whole or not at all.

    Nothing in it is read as mathematics, so ``$`` in a label stays what it is. The same figure gives the same bytes.
    Raises `ConfigError` when ``path`` does not end in one of `SUFFIXES`.
    """
    kind, target = checked(path), Path(path)
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot: nothing global, no display

    settings: Any = {
        "text.parse_math": False, "font.family": list(_fonts()), "font.size": 9, "axes.titlesize": 10.5,
        "axes.titlelocation": "left", "axes.titlecolor": INK, "axes.labelcolor": SOFT, "axes.edgecolor": SOFT,
        "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True, "axes.unicode_minus": False,
        "xtick.color": SOFT, "ytick.color": SOFT, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "legend.frameon": False, "legend.fontsize": 8, "grid.color": "#e3e7ec", "svg.hashsalt": "hubprobe",
    }  # fmt: skip
    undated = {".png": {"Software": None}, ".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with mpl.rc_context(settings):  # around the drawing too: ticks are made only then
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with replacing(target) as temporary:
            # tight: the layout does not see all of a square axes' labels, nor a title that is too long
            figure.savefig(temporary, format=kind[1:], dpi=150, metadata=undated[kind], bbox_inches="tight")


def checked(path: str | Path, also: tuple[str, ...] = ()) -> str:
    """Return the suffix of ``path`` in lower case; raises `ConfigError` unless it can be drawn."""
    kind = Path(path).suffix.lower()
    if kind not in (*SUFFIXES, *also):
        raise ConfigError(f"cannot draw '{Path(path).name}': name a file that ends in {', '.join((*SUFFIXES, *also))}")
    return kind


def shown(text: object, limit: int = 40) -> str:
    """Return strangers' text for a picture: one line, cut to ``limit``, U+ numbers for what no font here can draw."""
    drawn = _drawable()
    parts = [c if ord(c) in drawn else f"U+{ord(c):04X} " for c in printable(text, limit)]
    kept, room = "", limit
    for part in parts:
        room -= len(part)
        if room < 0:
            return kept.rstrip(" …") + "…"
        kept += part
    return kept.rstrip()


def drawable(text: str) -> bool:
    """Return whether the fonts here have a glyph for every character of ``text``."""
    return all(ord(c) in _drawable() for c in printable(text, len(text) + 1))


def number(value: float) -> str:
    """Return a count as it is written in a title: 1,674."""
    return f"{value:,.0f}"


def plain_numbers(axis: Any) -> None:
    """Write an axis' ticks without powers: matplotlib writes those as mathematics, which is off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def note(axes: Axes, text: str) -> None:
    """Put a line of small print under an axes' title, inside the room that the title takes."""
    axes.set_title(axes.get_title(loc="left") + "\n", loc="left")
    axes.annotate(
        text, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=8, color=SOFT, va="bottom"
    )


@lru_cache(maxsize=1)
def _fonts() -> tuple[str, ...]:
    from matplotlib.font_manager import fontManager

    here = {font.name for font in fontManager.ttflist}
    return tuple(name for name in _FONTS if name in here)


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Return the code points that one of the fonts has a glyph for."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    points: set[int] = set()
    for name in _fonts():
        points.update(get_font(findfont(FontProperties(family=[name]))).get_charmap())
    return frozenset(points)
