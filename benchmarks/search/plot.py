"""Draws how the cost of a scan grows, with the floor: ``python -m benchmarks.search.plot LOG.jsonl growth.png``."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt


def draw(log: Path, target: Path) -> None:
    """Draw the last ``scale`` line of a benchmark log."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    last = next(line for line in reversed(lines) if line["part"] == "scale")
    sizes = sorted(int(name) for name in last["figures"] if name.isdigit())
    rows = [last["figures"][str(size)] for size in sizes]
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    axes.loglog(sizes, [r["p50_ms"] for r in rows], "o-", label="scan and selection, median")
    axes.loglog(sizes, [r["min_ms"] for r in rows], "o:", label="the same, fastest of 30")
    bandwidth = last["figures"]["bandwidth_gb_s"]
    axes.loglog(
        sizes, [r["floor_ms"] for r in rows], "k--", label=f"bytes read at {bandwidth} GB/s, measured in the same run"
    )
    axes.set(
        xlabel="logits", ylabel="milliseconds", title=f"One query, k = {last['k']}, {last['machine']['cores']} cores"
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=130)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
