"""What coverage and hits promise on PhotoHub, of concepts that no label names; and how good a model is said to be.

    python -m benchmarks.photohub.certainty WORKSPACE TRUTH MODELS

``WORKSPACE`` is PhotoHub's, ``TRUTH`` what `search.evaluate` takes, ``MODELS`` a JSON list with ``repo_id`` and
``accuracy``. The labels of the classes' test half are taken out of the workspace, which is changed, and the index is
built again: what it learns, it learns of the validation half. Then the test half is asked, each with all models and
with a tenth of them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import search
from benchmarks.accuracy.encoder import captions
from benchmarks.photohub.plan import halves
from workspace import Workspace
from workspace.files import table_files, write_table

BINS = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 0.85), (0.85, 0.95), (0.95, 1.01))


def without_test_labels(workspace: Workspace) -> None:
    """Blank the labels of the test half in the descriptors, and build the index again."""
    test = {name.lower() for name in halves()["test"]}
    for path in table_files(workspace.descriptors_dir(workspace.probe_set)):
        table = pq.read_table(path)
        labels = [None if label and label.lower() in test else label for label in table.column("label").to_pylist()]
        at = table.column_names.index("label")
        write_table(path, table.set_column(at, table.schema.field(at), pa.array(labels, pa.string())))
    search.index(workspace, encoder=captions(), rebuild=True, names=False, progress=False)


def promised(index: search.Index, truth: dict[str, Any]) -> None:
    """Print what was stated and what came, of queries and of hits."""
    gallery = index.gallery
    keys = gallery.keys(np.arange(len(index)))
    concept = np.array([truth["models"][repo]["logits"][logit] for repo, _, logit in keys])
    asked = [c for c in halves()["test"] if (concept == c).any()]
    rng = np.random.default_rng(0)
    for kept in (1.0, 0.1):
        stated, covered, answered, shares, came = [], [], [], [], []
        for one in asked:
            query = index.descriptor(one)
            allowed = None if kept == 1.0 else (rng.random(gallery.models.num_rows) < kept)[gallery.model_of]
            coverage = gallery.coverage(query, allowed)
            rows, distances = gallery.nearest(gallery.compile(query, "bridged"), 10, allowed)
            right = concept[rows] == one
            stated.append(coverage.probability)
            covered.append(coverage.covered)
            answered.append(bool(right.any()))
            shares += gallery.certain(query, distances, allowed).tolist()
            came += right.tolist()
        said, ok = np.array(covered), np.array(answered)
        _say(
            models_kept=kept, asked=len(asked), found_in_ten=round(float(ok.mean()), 3), answered=int(said.sum()),
            failures_of_answered=round(float((~ok[said]).mean()), 3) if said.any() else None,
            failures_of_declined=round(float((~ok[~said]).mean()), 3) if (~said).any() else None,
        )  # fmt: skip
        for what, values, truths in (("query", stated, answered), ("hit", shares, came)):
            v, t = np.array(values), np.array(truths)
            for low, high in BINS:
                here = (v >= low) & (v < high)
                if here.sum() >= 10:
                    mean, observed = round(float(v[here].mean()), 3), round(float(t[here].mean()), 3)
                    _say(models_kept=kept, of=what, cases=int(here.sum()), stated=mean, observed=observed)


def ranked(index: search.Index, models: list[dict[str, Any]]) -> None:
    """Print Spearman's correlation of the estimate with the accuracy on held-out photographs."""
    about = {m["repo_id"]: m for m in models if m.get("accuracy") is not None}
    rows = index.gallery.models.select(["repo_id", "estimated_accuracy"]).to_pylist()
    for labels in ("honest", None):
        pairs = [
            (row["estimated_accuracy"], about[row["repo_id"]]["accuracy"])
            for row in rows
            if row["repo_id"] in about
            and row["estimated_accuracy"] is not None
            and labels in (None, about[row["repo_id"]]["labels_are"])
        ]
        ranks = [np.argsort(np.argsort(column)) for column in np.array(pairs, float).T]
        spearman = round(float(np.corrcoef(*ranks)[0, 1]), 3)
        _say(labels=labels or "any", models=len(about), estimated=len(pairs), spearman=spearman)


def _say(**row: Any) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    opened = Workspace.open(Path(sys.argv[1]))
    told, listed = (json.loads(Path(path).read_text("utf-8")) for path in sys.argv[2:4])
    search.index(opened, encoder=captions(), rebuild=True, names=False, progress=False)
    ranked(search.open(opened, encoder=captions()), listed)
    without_test_labels(opened)
    promised(search.open(opened, encoder=captions()), told)
