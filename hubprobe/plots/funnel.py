"""Where the repositories went: from listed to probed, and how each of the others ended."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hubprobe.counts import StatusReport
from hubprobe.plots.style import BLUE, OUTCOMES, SKY, number, picture, plain_numbers

_ROWS = 40
"""Statuses drawn at most; there are fewer than 60 in all."""


def funnel(report: StatusReport, path: str | Path) -> list[dict[str, Any]]:
    """Draw the way from listed to probed, and how many repositories ended in each status, as a PNG, SVG or PDF.

    Returns what is drawn: the rows of ``report.by_status``.
    """
    rows = report.by_status[:_ROWS]
    with picture(path, 9, 2.1 + 0.2 * max(len(rows), 3)) as figure:
        top, below = figure.subplots(2, 1, height_ratios=[1, 0.17 * max(len(rows), 3)])
        steps = {"listed": report.listed, "eligible": report.eligible, "probed": report.ok}
        top.barh(list(steps), list(steps.values()), color=[BLUE, SKY, OUTCOMES["ok"]], height=0.72)
        share = {name: f" {count / report.listed:.0%}" if report.listed else "" for name, count in steps.items()}
        top.bar_label(
            top.containers[0], [f"{number(count)}  {share[name]}" for name, count in steps.items()], padding=4
        )
        top.set_title(
            f"{number(report.ok)} of {number(report.listed)} listed repositories were probed; {number(report.skipped)} "
            f"skipped, {number(report.failed)} failed, {number(report.waiting)} waiting"
        )
        top.set_xlim(0, 1.15 * max(report.listed, 1))
        names = [row["status"] if row["status"] == "ok" else f"{row['outcome']}: {row['status']}" for row in rows]
        counts = [row["repositories"] for row in rows]
        bars = below.barh(
            [name.replace("_", " ") for name in names],
            counts,
            color=[OUTCOMES[row["outcome"]] for row in rows],
            height=0.72,
        )
        below.bar_label(bars, [number(count) for count in counts], padding=4)
        below.set_xscale("symlog")  # thousands of one status must not hide the one of another
        below.set_xlim(0, 1.6 * max([1, *counts]))
        plain_numbers(below.xaxis)
        below.set_title("How each of them ended (logarithmic)")
        below.margins(y=0.01)
        for axes in (top, below):
            axes.invert_yaxis()
            axes.tick_params(axis="y", length=0)
        top.xaxis.set_visible(False)
        top.spines["bottom"].set_visible(False)
    return rows
