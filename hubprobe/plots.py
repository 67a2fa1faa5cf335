"""Pictures where people would rather look than read."""

from __future__ import annotations

from pathlib import Path

from hubprobe.counts import StatusReport

_COLOURS = {"ok": "#2a9d5c", "failed": "#c8553d", "skipped": "#8d99ae", "waiting": "#e9c46a"}


def funnel(report: StatusReport, path: Path) -> None:
    """Draw the way from listed to probed, and how many repositories ended in each status, as a PNG, SVG or PDF."""
    from matplotlib.figure import Figure  # not pyplot: nothing global, no display

    rows = report.by_status
    figure = Figure(figsize=(9, 2.2 + 0.28 * len(rows)), layout="constrained")
    top, below = figure.subplots(2, 1, height_ratios=[3, max(len(rows), 3)])
    steps = {"listed": report.listed, "eligible": report.eligible, "probed": report.ok}
    top.barh(list(steps), list(steps.values()), color=["#264653", "#2a6f97", _COLOURS["ok"]])
    top.invert_yaxis()
    top.bar_label(top.containers[0], padding=3)
    top.set_title("From listed to probed", loc="left")
    names = [f"{row['outcome']}: {row['status']}" for row in rows]
    bars = below.barh(names, [row["repositories"] for row in rows], color=[_COLOURS[row["outcome"]] for row in rows])
    below.invert_yaxis()
    below.bar_label(bars, padding=3)
    below.set_xscale("symlog")  # thousands of one status must not hide the one of another
    below.set_title("How each repository ended", loc="left")
    for axes in (top, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=150)
