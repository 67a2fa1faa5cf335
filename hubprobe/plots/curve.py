"""How much of a search survives when models are run on a part of the probes only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubprobe.plots.style import BLUE, GREY, ORANGE, SOFT, VERMILION, checked, note, number, picture
from workspace import ConfigError
from workspace.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from search import Index

SHARES = (0.05, 0.1, 1 / 6, 1 / 3, 0.5)
"""Shares of the probes that are tried when none is named."""

_MODES = {
    "adaptive": ("adaptive: chosen while probing, completed", VERMILION, "D-"),
    "random": ("random probes, completed", BLUE, "o-"),
    "fixed": ("the same fixed probes for all, not completed", GREY, "s--"),
}
_TASKS = {"text": "by a concept's name", "logit": "by another model's logit"}


def curve(
    index: Index, path: str | Path, *, shares: Sequence[float] = SHARES, seed: int = 0, progress: bool = True
) -> list[dict[str, Any]]:
    """Draw what partial probing would keep in this very workspace: nothing is run, and truth is full probing.

    A third of the fully probed models (64 at most) are treated as if only a share of their probes had been run, the
    factors fitted to the others. Drawn is the share of the ten best hits among their logits that stay, of names and of
    other models' logits, with completion and without; and R2 of the completed responses.

    Returns a row per share: ``share``, ``probes``, ``r2``, and ``similar``, ``similar_observed``, ``text``,
    ``text_observed`` (None without an encoder). Raises `ConfigError` for shares that leave too few probes or none out,
    `QueryError` when too few models were probed in full.
    """
    checked(path)
    from hubprobe.plots.holding_out import HITS, held_out

    rows, about = held_out(index, sorted(set(shares)), seed=seed, progress=progress)
    with picture(path, 9, 3.9) as figure:
        kept, fit = figure.subplots(1, 2, width_ratios=[3, 2])
        x = [row["share"] for row in rows]
        for name, colour, label in (
            ("text", ORANGE, "by a concept's name"), ("similar", BLUE, "by another model's logit"),
        ):  # fmt: skip
            if rows[0][name] is not None:
                kept.plot(x, [row[name] for row in rows], "o-", color=colour, label=f"{label}, completed")
                kept.plot(x, [row[f"{name}_observed"] for row in rows], "o:", color=colour, label="· run probes alone")
        kept.set_ylabel(f"share of the {HITS} best hits that stay")
        kept.legend(loc="lower right")
        fit.plot(x, [row["r2"] for row in rows], "o-", color=BLUE)
        fit.set_ylabel("R² of responses that were not run")
        _share_axes([kept, fit], x)
        fit.set_ylim(min(0.0, *(row["r2"] for row in rows)), 1)
        best = min(rows, key=lambda row: abs(row["share"] - 1 / 3))
        kept.set_title(f"{best['similar']:.0%} of the best hits stay when {best['share']:.0%} of the probes are run")
        note(
            kept,
            f"{about['measured']} models, {number(about['logits'])} logits, completed from {about['fitted']} others",
        )
    return rows


def recorded_curve(source: str | Path, path: str | Path) -> list[dict[str, Any]]:
    """Draw a recorded study of partial probing: share of the full accuracy against the share of the probes.

    ``source`` is a JSON file as ``benchmarks/accuracy/results/partial_*.json``: ``rows`` with ``part``, ``gallery``,
    ``mode``, ``share``, and for ``text`` and ``logit`` ``..._top1`` and ``..._of_full``. Only the test part is drawn.

    Returns its rows. Raises `ConfigError` when the file is no such record.
    """
    checked(path)
    try:
        recorded = read_json(Path(source))["rows"]
        rows = [{name: row[name] for name in _FIELDS} for row in recorded if row["part"] == "test"]
        galleries = list(dict.fromkeys(row["gallery"] for row in rows))
        full = {row["gallery"]: row for row in rows if row["mode"] == "full"}
        assert galleries
        assert set(galleries) == set(full)
    except (KeyError, TypeError, AssertionError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{source} is no record of partial probing ({type(error).__name__}: {error}): "
            "name one like benchmarks/accuracy/results/partial_imagenet.json"
        ) from error
    with picture(path, 9, 1.0 + 2.8 * len(galleries)) as figure:
        panels = figure.subplots(len(galleries), 2, squeeze=False)
        for line, gallery in zip(panels, galleries, strict=True):
            for axes, (task, name) in zip(line, _TASKS.items(), strict=True):
                some = [row for row in rows if row["gallery"] == gallery]
                _recorded(axes, some, task)
                top = full[gallery][f"{task}_top1"]
                axes.set_title(f"{some[0]['target'].rpartition('/')[2]}, {name}")
                note(axes, f"gallery: {gallery}; full probing: top-1 {top:.3f}")
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        most = max(row["share"] for row in rows if row["mode"] != "full")
        at = [row for row in rows if row["gallery"] == galleries[0] and row["share"] == most]
        best = max(at, key=lambda row: row["text_of_full"] + row["logit_of_full"])
        figure.suptitle(
            f"{best['share']:.0%} of the probes keep {best['text_of_full']:.0%} of the top-1 by name, "
            f"{best['logit_of_full']:.0%} by logit ({best['mode']}, gallery: {galleries[0]})",
            ha="left", x=0.01, fontsize=12,
        )  # fmt: skip
        _share_axes(panels.ravel().tolist(), sorted({row["share"] for row in rows if row["mode"] != "full"}))
    return rows


_FIELDS = (
    "target", "gallery", "mode", "share", "text_top1", "text_of_full", "logit_top1", "logit_of_full", "text_queries",
    "logit_queries",
)  # fmt: skip


def _recorded(axes: Axes, rows: list[dict[str, Any]], task: str) -> None:
    for mode, (label, colour, marks) in _MODES.items():
        found = sorted((row["share"], row[f"{task}_of_full"]) for row in rows if row["mode"] == mode)
        if found:
            axes.plot(*zip(*found, strict=True), marks, color=colour, label=label)
    axes.axhline(1.0, color=SOFT, lw=1, ls="--")
    axes.set_ylabel("share of the full top-1")
    axes.set_ylim(0, 1.08)


def _share_axes(panels: Sequence[Axes], shares: Sequence[float]) -> None:
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:.2g}" if share < 0.01 else f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.set_xlabel("share of the probes run on a model")
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.grid()
