"""Draw docs/images/concepts.png from a finished demo: what probes, a logit, its descriptor and a query are.

``python -m benchmarks.demo_hub.concept_picture demo-index docs/images/concepts.png``
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pyarrow.parquet as pq

mpl.use("Agg")
import matplotlib.pyplot as plt
from PIL import Image

import hubprobe

SHOWN = ("strawberry", "watermelon", "pizza", "dog", "cat", "guitar", "bicycle", "castle")
ROWS = (
    ("kitchen-bench/food-regnet", 1, 'output 1 of a model,\nwhich calls it "strawberry"'),
    ("one-gpu-club/final_final2", 11, 'output 11 of another,\nwhich calls it "11"'),
    ("emoji-zoo/animal-resnet", 0, 'output 0 of a third,\nwhich calls it "Dog"'),
)


def main(workspace: str, out: str) -> None:
    """Draw the picture of ``workspace``, a finished demo, to the file ``out``."""
    index = hubprobe.open(workspace)
    (probes,) = Path(workspace, "probes").glob("*/probes.parquet")
    table = pq.read_table(probes, columns=["probe_id", "caption", "image", "source"]).to_pylist()
    emoji = [row for row in table if (row["source"] or "").startswith("iconify:noto")]
    chosen = [next(row for row in emoji if row["caption"] == name) for name in SHOWN]
    ids = [row["probe_id"] for row in chosen]
    rows = []
    for repo_id, logit, said in ROWS:
        rows.append((said, np.asarray(index.logit(repo_id, logit).vector)[ids], "#0969da"))
    said = 'the query: the text "strawberry",\ncompared with each probe'
    rows.append((said, np.asarray(index.descriptor("strawberry").vector)[ids], "#9a6700"))
    figure, axes = plt.subplots(
        len(rows) + 1, len(SHOWN), figsize=(11, 6.2), gridspec_kw={"height_ratios": [1.25] + [1] * len(rows)}
    )
    figure.subplots_adjust(left=0.235, right=0.99, top=0.94, bottom=0.06, hspace=0.35, wspace=0.12)
    for axis, row in zip(axes[0], chosen, strict=True):
        axis.imshow(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))
        axis.set_title(row["caption"], fontsize=10)
        axis.axis("off")
    for line, (said, values, colour) in zip(axes[1:], rows, strict=True):
        top = max(values.max(), 3)
        for axis, value in zip(line, values, strict=True):
            axis.bar([0], [value], color=colour if value > 1 else "#c9d1d9", width=0.6)
            axis.set(ylim=(min(-1.2, values.min() - 0.3), top * 1.3), xlim=(-0.6, 0.6), xticks=[], yticks=[])
            axis.axhline(0, color="#57606a", linewidth=0.8)
            axis.text(0, max(value, 0) + 0.06 * top, f"{value:+.1f}", ha="center", fontsize=9)
            for side in axis.spines.values():
                side.set_visible(False)
        box = line[0].get_position()
        figure.text(0.225, (box.y0 + box.y1) / 2, said, ha="right", va="center", fontsize=10.5)
    box = axes[0][0].get_position()
    label = "probes: the same images for\nevery model (8 of 1,256)"
    figure.text(0.225, (box.y0 + box.y1) / 2, label, ha="right", va="center", fontsize=10.5)
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
