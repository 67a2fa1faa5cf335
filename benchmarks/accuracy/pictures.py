"""Pictures of the recorded rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COLOURS = {"probelog": "#999999", "contrastive": "#4c78a8", "bridged": "#e45756"}


def draw(studies: dict[str, Any], folder: Path) -> None:
    """Draw what has been recorded: scorings side by side, and partial probing's curves."""
    import matplotlib as mpl

    mpl.use("Agg")
    folder.mkdir(exist_ok=True)
    _scorings(studies, folder / "results_scorings.png")
    _curves(studies, folder / "results_partial.png")


def _scorings(studies: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    bars: list[tuple[str, Any]] = []
    for study in ("imagenet", "minihub"):
        for row in studies.get(study, {}).get("rows", []):
            asked = row.get("part") == "test" and row.get("task") == "text" and "top1" in row
            if asked and row["scoring"] in COLOURS and "all are found" not in row["setting"]:
                where = row.get("probes") or row["target"].rpartition("/")[2]
                bars.append((f"{study}, {where}\n{row['setting']}: {row['scoring']}", row))
    if not bars:
        return
    figure, axes = plt.subplots(figsize=(9, 0.34 * len(bars) + 1))
    for i, (_, row) in enumerate(bars):
        error = [[row["top1"] - row["top1_low"]], [row["top1_high"] - row["top1"]]]
        axes.barh(i, row["top1"], xerr=error, color=COLOURS[row["scoring"]], height=0.75)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=6)
    axes.invert_yaxis()
    axes.set_xlabel("top-1, text to logit, test half of the concepts; 95 % intervals")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _curves(studies: dict[str, Any], path: Path) -> None:
    import matplotlib.pyplot as plt

    found = [
        (name, gallery)
        for name in ("partial_imagenet", "partial_minihub")
        if name in studies
        for gallery in dict.fromkeys(row["gallery"] for row in studies[name]["rows"])
    ]
    if not found:
        return
    figure, axes = plt.subplots(1, 2 * len(found), figsize=(4.2 * 2 * len(found), 3.4), squeeze=False)
    for at, (name, gallery) in enumerate(found):
        rows = [row for row in studies[name]["rows"] if row["part"] == "test" and row["gallery"] == gallery]
        for side, task in enumerate(("text", "logit")):
            plot = axes[0][2 * at + side]
            for mode in ("random", "adaptive", "fixed"):
                some = sorted((r["share"], r[f"{task}_top1"]) for r in rows if r["mode"] == mode)
                if some:
                    plot.plot(*zip(*some, strict=True), marker="o", label=mode)
            full = next(r for r in rows if r["mode"] == "full")
            plot.axhline(full[f"{task}_top1"], color="#999999", linestyle="--", label="full")
            plot.set_title(f"{name.rpartition('_')[2]}: {task} to logit\ngallery: {gallery}", fontsize=8)
            plot.set_xlabel("share of the probes run")
            plot.set_ylabel("top-1")
            plot.set_ylim(bottom=0)
            plot.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
