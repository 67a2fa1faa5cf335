"""Which outputs of one model answer alike: the ones that it confuses, or that mean the same."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.plots.logit_map import suggested
from hubprobe.plots.style import checked, drawable, note, number, picture, shown
from workspace import ConfigError, QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

LIMIT = 40
MOST = 120
"""More than this many labels cannot be read."""

_PAIRS = 20
_UNREADABLE = ("LABEL_i", "numeric", "missing")  # as workspace.LabelQuality has them


def heatmap(
    index: Index, repo_id: str, path: str | Path, *, sha: str | None = None, limit: int = LIMIT, progress: bool = True
) -> list[dict[str, Any]]:
    """Draw the correlations of a model's logit descriptors, ordered so that logits which answer alike lie together.

    A model with more than ``limit`` logits is shown by those that are most like another one of its own. Where labels
    say nothing, or cannot be drawn here, the names that the logits' behaviour suggests stand, with a question mark.

    Returns the 20 pairs of highest correlation: ``logit``, ``name``, ``other``, ``other_name``, ``correlation``.
    Raises `QueryError` when the model is not in the index or has fewer than 3 logits, `ConfigError` for a limit
    outside 3 to 120.
    """
    checked(path)
    if not 3 <= limit <= MOST:
        raise ConfigError(f"{limit} logits cannot be drawn: from 3 to {MOST}")
    gallery = index.gallery
    rows = np.flatnonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha))).astype(np.int64)
    if rows.size < 3:
        raise QueryError(f"{repo_id} has {rows.size} searchable logits: nothing to compare")
    alike = np.atleast_2d(np.corrcoef(gallery.vectors(rows).astype(np.float64)))
    total = rows.size
    if total > limit:
        nearest = (alike - 2 * np.eye(total)).max(axis=1)
        kept = np.sort(np.argsort(-nearest, kind="stable")[:limit])
        rows, alike = rows[kept], alike[np.ix_(kept, kept)]
    order = clustered(alike)
    rows, alike = rows[order], alike[np.ix_(order, order)]
    logits = gallery.logits.column("logit").to_numpy()[rows].tolist()
    named = _names(index, rows, progress)
    pairs = _pairs(alike, logits, [" ".join(filter(None, names)) for names in named])
    texts = [f"{shown(name or label, 26)}  {i}" for i, (label, name) in zip(logits, named, strict=True)]
    _draw(path, repo_id, alike, texts, pairs[0]["correlation"], total)
    return pairs


def clustered(alike: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return an order of the rows in which average-linkage clusters lie together, their most alike ends touching.

    Agglomerative, in ``logits^3`` steps: for a few hundred at most.
    """
    count = len(alike)
    between = alike.astype(np.float64).copy()
    np.fill_diagonal(between, -np.inf)
    members: list[list[int]] = [[i] for i in range(count)]
    for _ in range(count - 1):
        a, b = divmod(int(between.argmax()), count)
        left, right = members[a], members[b]
        ends = [(alike[x[-1], y[0]], x + y) for x in (left, left[::-1]) for y in (right, right[::-1])]
        joined = max(ends, key=lambda end: float(end[0]))[1]
        sizes = len(left), len(right)
        merged = (sizes[0] * between[a] + sizes[1] * between[b]) / sum(sizes)
        between[a], between[:, a] = merged, merged
        between[a, a] = -np.inf
        between[b], between[:, b] = -np.inf, -np.inf
        members[a], members[b] = joined, []
    return np.array(next(m for m in members if m), np.int64)


def _names(index: Index, rows: NDArray[np.int64], progress: bool) -> list[tuple[str, str]]:
    """Return label and suggested name of every logit; the name is empty where the label says it all."""
    labels = index.gallery.logits.column("label").take(rows).to_pylist()
    quality = index.gallery.models.column("label_quality")[int(index.gallery.model_of[rows[0]])].as_py()
    unreadable = [quality in _UNREADABLE or not label or not drawable(label) for label in labels]
    if not any(unreadable):
        return [(label, "") for label in labels]
    names = [name for name, _ in suggested(index, rows, progress=progress)]
    return [
        (label or "", f"{name}?" if name and asked else "")
        for label, name, asked in zip(labels, names, unreadable, strict=True)
    ]


def _pairs(alike: NDArray[np.float64], logits: list[int], names: list[str]) -> list[dict[str, Any]]:
    first, second = np.triu_indices(len(alike), 1)
    best = np.argsort(-alike[first, second], kind="stable")[:_PAIRS]
    return [
        {
            "logit": logits[i], "name": names[i], "other": logits[j], "other_name": names[j],
            "correlation": round(float(alike[i, j]), 3),
        }
        for i, j in zip(first[best].tolist(), second[best].tolist(), strict=True)
    ]  # fmt: skip


def _draw(
    path: str | Path, repo_id: str, alike: NDArray[np.float64], texts: list[str], most: float, total: int
) -> None:
    count = len(alike)
    first, second = np.unravel_index(int(np.argmax(alike - 2 * np.eye(count))), alike.shape)
    inches = 2.2 + 0.15 * count
    with picture(path, max(inches + 0.9, 7.5), max(inches, 4.8)) as figure:
        axes = figure.subplots()
        drawn = axes.imshow(alike, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        font = 8.0 if count <= 40 else 6.5
        axes.set_xticks(range(count), texts, rotation=90, fontsize=font)
        axes.set_yticks(range(count), texts, fontsize=font)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = figure.colorbar(drawn, ax=axes, shrink=0.5, aspect=24, label="correlation of the answers to all probes")
        bar.outline.set_visible(False)
        axes.set_title(f"“{texts[first]}” and “{texts[second]}” answer most alike: r = {most:.2f}")
        some = f"{count} of {number(total)} logits, those most like another" if total > count else f"all {count} logits"
        note(axes, f"{shown(repo_id, 48)}: {some}; average-linkage clusters")
