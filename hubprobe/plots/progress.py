"""How far a crawl came, how each repository ended, and how fast probing went."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hubprobe.front import StatusReport
from hubprobe.output import duration
from hubprobe.plots.style import BLUE, FAILURES, GREY, INK, OUTCOMES, SKY, number, picture, plain_numbers
from workspace import ConfigError, MissingStepError, Workspace

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
        shares = [f" {count / report.listed:.0%}" if report.listed else "" for count in steps.values()]
        texts = [f"{number(count)}  {share}" for count, share in zip(steps.values(), shares, strict=True)]
        top.bar_label(top.containers[0], texts, padding=4)
        top.set_title(
            f"{number(report.ok)} of {number(report.listed)} listed repositories were probed; {number(report.skipped)} "
            f"skipped, {number(report.failed)} failed, {number(report.waiting)} waiting"
        )
        top.set_xlim(0, 1.15 * max(report.listed, 1))
        names = [row["status"] if row["status"] == "ok" else f"{row['outcome']}: {row['status']}" for row in rows]
        counts = [row["repositories"] for row in rows]
        names, colours = [name.replace("_", " ") for name in names], [OUTCOMES[row["outcome"]] for row in rows]
        bars = below.barh(names, counts, color=colours, height=0.72)
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


WIDTHS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 43_200, 86_400, 604_800)
"""Widths of a bar, in seconds, that are chosen from when none is given."""

_BARS = 60
_MOST = 10_000
_PHASES = ("fetch", "load", "preprocess", "forward", "write")


def throughput(
    workspace: Workspace, path: str | Path, *, every: float | None = None, run_id: str | None = None
) -> list[dict[str, Any]]:
    """Draw models probed an hour, and failures by status, over time, from every attempt that was ever made.

    An attempt counts when it ended: ``started_at`` and the seconds of its phases. What was skipped without running
    it takes no time and does not count.

    Args:
        workspace: has attempts.
        path: the picture.
        every: seconds of a bar; the narrowest of `WIDTHS` that gives at most 60 bars when None.
        run_id: attempts of this run only; of all when None.

    Returns a row per bar: ``from`` (UTC), ``seconds`` it covers, ``probed``, ``failed``, ``probed_per_hour``, and
    ``failures``, the counts by status. Raises `MissingStepError` when nothing was attempted, `ConfigError` for a run
    that attempted nothing, or bars too narrow.
    """
    ended, begun, status, ok = _attempts(workspace, run_id)
    first, last = float(begun.min()), max(float(ended.max()), float(begun.min()) + 1.0)
    width = every or next((w for w in WIDTHS if (last - first) / w <= _BARS), WIDTHS[-1])
    bars = int(np.ceil((last - first) / width))
    if bars > _MOST:
        raise ConfigError(f"{bars} bars of {width:g} s are too many to draw: widen them")
    bar_of = np.minimum(((ended - first) / width).astype(int), bars - 1)
    covers = np.minimum(width, last - first - width * np.arange(bars))  # the last one ends with the last attempt
    rows = []
    for bar in range(bars):
        here = bar_of == bar
        failures = Counter(status[here & ~ok].tolist())
        rows.append(
            {
                "from": _utc(first + bar * width).isoformat(timespec="seconds"),
                "seconds": round(float(covers[bar]), 1),
                "probed": int((here & ok).sum()),
                "failed": sum(failures.values()),
                "probed_per_hour": round(float((here & ok).sum() / covers[bar] * 3600), 1),
                "failures": dict(failures.most_common()),
            }
        )
    _draw(path, rows, first, last, width, Counter(status[~ok].tolist()))
    return rows


def _attempts(
    workspace: Workspace, run_id: str | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.str_], NDArray[np.bool_]]:
    """Return end and start (seconds since 1970), status, and whether it was probed, of what was run."""
    columns = ["outcome", "status", "started_at", "run_id", *(f"seconds_{phase}" for phase in _PHASES)]
    table = workspace.attempts(columns, history=True)
    if not table.num_rows:
        raise MissingStepError("attempts", "probe")
    outcome = np.array(table["outcome"].to_pylist())
    chosen = outcome != "skipped"
    if run_id is not None:
        chosen &= np.array(table["run_id"].to_pylist(), object) == run_id
    if not chosen.any():
        where = f"run '{run_id}'" if run_id else "this workspace"
        raise ConfigError(f"{where} ran no model: see 'hubprobe sql \"SELECT DISTINCT run_id FROM attempts\"'")
    begun = table["started_at"].cast("int64").to_numpy().astype(np.float64)[chosen] / 1e6
    spent = np.zeros(begun.size)
    for phase in _PHASES:
        spent += np.nan_to_num(table[f"seconds_{phase}"].to_numpy().astype(np.float64)[chosen])
    return begun + spent, begun, np.array(table["status"].to_pylist())[chosen], outcome[chosen] == "ok"


def _draw(
    path: str | Path, rows: list[dict[str, Any]], first: float, last: float, width: float, failures: Counter[str]
) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    probed = sum(row["probed"] for row in rows)
    left = [_utc(first + i * width) for i in range(len(rows))]
    days = [row["seconds"] / 86_400 for row in rows]  # matplotlib's unit of time
    with picture(path, 9, 4.6) as figure:
        top, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 2])
        top.bar(left, [row["probed_per_hour"] for row in rows], days, align="edge", color=OUTCOMES["ok"], lw=0)
        mean = probed / (last - first) * 3600
        top.axhline(mean, color=INK, lw=1, ls="--")
        top.set_title(
            f"{number(probed)} models probed in {duration(last - first)}: {number(mean)} an hour (dashed); "
            f"{number(failures.total())} failed"
        )
        top.set_ylabel("models probed an hour")
        plain_numbers(top.yaxis)
        kinds = [name for name, _ in failures.most_common(len(FAILURES))]
        base = np.zeros(len(rows))
        for name, colour in zip(kinds, FAILURES, strict=False):
            counts = np.array([row["failures"].get(name, 0) for row in rows])
            below.bar(left, counts, days, bottom=base, align="edge", color=colour, lw=0, label=name.replace("_", " "))
            base += counts
        others = np.array([row["failed"] for row in rows]) - base
        if others.any():
            below.bar(left, others, days, bottom=base, align="edge", color=GREY, lw=0, label="others")
        below.set_ylabel(f"failures in {duration(width)}")
        below.yaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if kinds:
            below.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        locator: Any = AutoDateLocator(tz="UTC")  # type: ignore[no-untyped-call]
        below.xaxis.set_major_locator(locator)
        below.xaxis.set_major_formatter(ConciseDateFormatter(locator, tz="UTC"))  # type: ignore[no-untyped-call]
        below.set_xlabel("UTC")
        below.set_xlim(_utc(first), _utc(last))
        for axes in (top, below):
            axes.grid(axis="y")


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
