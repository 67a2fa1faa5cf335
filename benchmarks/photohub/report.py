"""The recorded rows as the tables of ``RESULTS.md``: the paper's in form, its figures beside ours."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TASKS = {
    "PhotoHub -> PhotoHub": "INet -> INet",
    "ImageNet -> PhotoHub": "HF -> INet",
    "PhotoHub -> ImageNet": "INet -> HF",
    "ImageNet -> ImageNet": "",
    "text -> ImageNet": "text -> HF",
    "text -> PhotoHub": "text -> INet",
}
"""Our tasks and the paper's of the same form."""
PAPER = {
    "INet -> INet": {"full": "59.9 / 82.8", "model-level": "0 / 0", "probelog": "72.8 / 92.6"},
    "INet -> HF": {"full": "14.8 / 31.5", "model-level": "13.9 / 34.6", "probelog": "26.1 / 43.6"},
    "HF -> INet": {"full": "15.3 / 19.7", "model-level": "21.0 / 51.6", "probelog": "40.6 / 58.6"},
    "text -> HF": {"full": "22.6 / 38.6", "model-level": "17.8 / 38.8", "probelog": "34.0 / 53.7"},
    "text -> INet": {"full": "16.9 / 22.8", "model-level": "0 / 0", "probelog": "43.8 / 68.0"},
}
"""Top-1 / top-5 with 4,000 COCO probes and CLIP: arXiv 2502.09619 and its revision."""


def _read(folder: Path, name: str) -> list[dict[str, Any]]:
    path = folder / f"{name}.json"
    return json.loads(path.read_text("utf-8"))["rows"] if path.exists() else []


def _cell(row: dict[str, Any]) -> str:
    low, high = (100 * row[f"top1_{end}"] for end in ("low", "high"))
    return f"{100 * row['top1']:.1f} ({low:.0f} to {high:.0f}) / {100 * row['top5']:.1f}"


def _table(head: Iterable[str], lines: Iterable[Iterable[Any]]) -> list[str]:
    head = list(head)
    body = ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *body, ""]


def accuracy(rows: list[dict[str, Any]], title: str) -> list[str]:
    """Return the table of tasks and scorings of one study, test half."""
    lines = []
    for task, paper in TASKS.items():
        own = [row for row in rows if row.get("task") == task and row.get("part") == "test" and "top1" in row]
        for row in own:
            if ", " in row["scoring"]:
                continue
            name = row["scoring"] + (f" (k = {row['k']})" if row.get("k") and row["scoring"] == "probelog" else "")
            theirs = PAPER.get(paper, {}).get(row["scoring"].partition(" (")[0], "")
            if theirs:
                theirs = f"{theirs} ({paper})"
            lines.append((task, name, row["queries"], _cell(row), theirs))
    head = ("query -> logit", "scoring", "queries", "top-1 (95 %) / top-5, %", "the paper's")
    return [f"**{title}**", "", *_table(head, lines)] if lines else []


def selections(rows: list[dict[str, Any]]) -> list[str]:
    """Return which probes are compared."""
    tasks = [task for task in TASKS if task.startswith("text")]
    own = [row for row in rows if row.get("part") == "test" and str(row.get("scoring", "")).startswith("probelog, ")]
    names = list(dict.fromkeys(row["scoring"] for row in own))
    lines = []
    for name in names:
        by_task = {row["task"]: row for row in own if row["scoring"] == name}
        lines.append((name, *(_cell(by_task[task]) for task in tasks if task in by_task)))
    return _table(("probes compared", *tasks), lines) if lines else []


def measures(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is not an accuracy: skews, correlations, coverage."""
    own = [row for row in rows if "measure" in row]
    names = ("setting", "task", "measure", "scoring")
    lines = []
    for row in own:
        known = {*names, "study", "probes", "part"}
        value = ", ".join(f"{key} {value}" for key, value in row.items() if key not in known)
        lines.append((*(row.get(name, "") for name in names), value))
    return _table((*names, "value"), lines) if lines else []


def tables(folder: Path) -> str:
    """Return all of them as Markdown."""
    found: list[str] = []
    for name, title in (
        ("full", "Captions by a held-out ImageNet model"),
        ("unseen", "Captions that never name the asked classes"),
    ):
        rows = _read(folder, name)
        found += accuracy(rows, title) + selections(rows) + measures(rows)
    sources = _read(folder, "probe_sources")
    for probes in dict.fromkeys(row["probes"] for row in sources):
        found += accuracy([row for row in sources if row["probes"] == probes], f"Probes: {probes}")
    rows = _read(folder, "labelled")
    lines = [(r["setting"], r["scoring"], r["queries"], _cell(r)) for r in rows if "top1" in r]
    found += _table(("setting", "scoring", "queries", "top-1 (95 %) / top-5, %"), lines) if lines else []
    found += measures(rows)
    return "\n".join(found) + "\n"
