"""Outputs (logits) compared: which come up whatever is asked, and which of one model answer alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.plots.logit_map import suggested
from hubprobe.plots.style import SERIES, checked, drawable, note, number, picture, shown
from search.text import bank
from search.text.calibration import BANK, spread
from workspace import ConfigError, QueryError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

NEAREST = 10
"""Hits of a query that count: hubness is the skew of the 10-occurrence (Radovanovic et al., JMLR 2010)."""

SCORINGS = ("contrastive", "probelog")
QUERIES = 512
MOST_QUERIES = 1_024

_BATCH = 64
_EDGES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


def hubness(
    index: Index, path: str | Path, *, scorings: Sequence[str] = SCORINGS, queries: int = QUERIES, progress: bool = True
) -> list[dict[str, Any]]:
    """Draw how often each logit is among the ten best hits, over names of the concept bank.

    The names are spread evenly over the everyday ones that the index was not calibrated with: on those it would look
    better than it is.

    Returns a row per scoring: ``scoring``, ``queries``, ``logits``, ``skewness`` of the counts, ``expected`` (the
    counts' mean), ``most`` (the largest), ``never`` (share of the logits that were never found), and the logit found
    most often, ``repo_id``, ``logit``, ``label``. Raises `QueryError` for an unknown scoring or an index without an
    encoder, `ConfigError` when there is nothing to ask or draw.
    """
    checked(path)
    if not scorings or not 1 <= queries <= MOST_QUERIES:
        raise ConfigError(f"hubness needs a scoring, and 1 to {MOST_QUERIES} queries, not {queries}")
    names = unused_names(queries)
    index.prepare(names)  # all at once; the last 1,024 are kept
    rows, counts = [], {}
    for scoring in dict.fromkeys(scorings):
        counts[scoring] = _occurrences(index, names, scoring, progress)
        rows.append(_row(index, counts[scoring], scoring, len(names)))
    _draw_hubness(path, rows, counts)
    return rows


def unused_names(count: int) -> list[str]:
    """Return ``count`` everyday names of the bank, evenly spread, that no index is calibrated with."""
    everyday = bank.names()
    used = set(spread(everyday, BANK))
    free = [name for name in everyday if name not in used]
    return spread(free, count)


def _occurrences(index: Index, names: list[str], scoring: str, progress: bool) -> NDArray[np.int64]:
    from tqdm import tqdm

    gallery = index.gallery
    counts = np.zeros(len(gallery), np.int64)
    with tqdm(total=len(names), desc=scoring, unit="query", disable=not progress, leave=False) as bar:
        for start in range(0, len(names), _BATCH):
            asked = [gallery.compile(index.descriptor(n), scoring) for n in names[start : start + _BATCH]]
            for rows, _ in gallery.nearest_many(asked, NEAREST, [None] * len(asked)):
                counts[rows] += 1
            bar.update(len(asked))
    return counts


def skewness(counts: NDArray[np.int64]) -> float:
    """Return the third standardised moment; 0 when all are equal."""
    away = counts - counts.mean()
    return float((away**3).mean() / max(float(counts.std()) ** 3, 1e-12))


def _row(index: Index, counts: NDArray[np.int64], scoring: str, queries: int) -> dict[str, Any]:
    most = int(counts.argmax())
    repo_id, _, logit = index.gallery.keys(np.array([most]))[0]
    return {
        "scoring": scoring,
        "queries": queries,
        "logits": counts.size,
        "skewness": round(skewness(counts), 3),
        "expected": round(float(counts.mean()), 3),
        "most": int(counts[most]),
        "never": round(float((counts == 0).mean()), 4),
        "repo_id": repo_id,
        "logit": logit,
        "label": index.gallery.logits.column("label")[most].as_py(),
    }


def _draw_hubness(path: str | Path, rows: list[dict[str, Any]], counts: dict[str, NDArray[np.int64]]) -> None:
    top = max(int(c.max()) for c in counts.values())
    edges = [edge for edge in _EDGES if edge <= top]
    ends = [*edges[1:], max(top, edges[-1]) + 1]
    ticks = [f"{a}" if b - a == 1 else f"{a}–{b - 1}" for a, b in zip(edges, ends, strict=True)]
    with picture(path, 8, 4) as figure:
        axes = figure.subplots()
        width = 0.84 / len(rows)
        for i, row in enumerate(rows):
            bins = np.histogram(counts[row["scoring"]], [*edges, ends[-1]])[0]
            at = np.arange(len(edges)) - 0.42 + width * (i + 0.5)
            name = f"{row['scoring']}: skewness {row['skewness']:.1f}, at most {row['most']} times"
            bars = axes.bar(at, bins, width, color=SERIES[i % len(SERIES)], label=name)
            axes.bar_label(bars, [number(v) if v else "" for v in bins], padding=1, fontsize=6.5)
        axes.set_xticks(range(len(edges)), ticks)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(0, 2.2 * max(row["logits"] for row in rows))
        axes.yaxis.set_visible(False)
        axes.spines["left"].set_visible(False)
        about = rows[0]
        axes.set_xlabel(
            f"how often a logit is among the {NEAREST} best hits of {number(about['queries'])} concepts "
            f"({about['expected']:.1f} if all were equal); bars: logits, logarithmic"
        )
        axes.legend(loc="upper right")
        axes.set_title(_finding(rows))


def _finding(rows: list[dict[str, Any]]) -> str:
    best, worst = (pick(rows, key=lambda row: row["skewness"]) for pick in (min, max))
    label = f" “{shown(worst['label'], 24)}”" if worst["label"] else ""
    hub = f"{shown(worst['repo_id'], 36)} logit {worst['logit']}{label}"
    if best is worst:
        return f"{best['scoring']}: hubness skew {best['skewness']:.1f}; most often found: {hub}"
    return (
        f"Hubness skew {worst['skewness']:.1f} with {worst['scoring']}, {best['skewness']:.1f} with {best['scoring']}\n"
        f"{worst['scoring']} finds most often: {hub}"
    )


# ── a model's outputs among themselves ────────────────────────────────────────────────────────────────────────────────


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
    _draw_heatmap(path, repo_id, alike, texts, pairs[0]["correlation"], total)
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


def _draw_heatmap(
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
