"""How often each logit comes up, whatever is asked: a few that always do are hubs, and hide the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubprobe.plots.style import SERIES, checked, number, picture, shown
from search.text import bank
from search.text.calibration import BANK, spread
from workspace import ConfigError

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
    _draw(path, rows, counts)
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


def _draw(path: str | Path, rows: list[dict[str, Any]], counts: dict[str, NDArray[np.int64]]) -> None:
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
