"""All logits as points: near where they answer the probes alike, coloured by what they seem to recognise."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hubprobe.plots.sample import sampled, suggested
from hubprobe.plots.style import GREY, SERIES, checked, note, number, picture, shown
from search import bank
from workspace import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

Method = Literal["auto", "pca", "umap"]
Colour = Literal["concept", "model"]

LIMIT = 5_000
"""Points drawn at most: more hide each other, and make the HTML slow."""

OTHERS = "others"
_DIMENSIONS = 50  # principal components that UMAP starts from
_SURE = 0.2  # confidence below which a suggested name gives no colour


def logit_map(
    index: Index,
    path: str | Path,
    *,
    method: Method = "auto",
    colour: Colour = "concept",
    limit: int = LIMIT,
    seed: int = 0,
    where: str | None = None,
    progress: bool = True,
) -> list[dict[str, Any]]:
    """Draw the logits in two dimensions, as HTML that opens offline when ``path`` ends in .html, else as a picture.

    Args:
        index: the index.
        path: .html, .png, .svg or .pdf.
        method: ``umap`` (needs umap-learn), ``pca``, or ``auto``: umap where it is installed.
        colour: ``concept``, the concept bank's group of the suggested name, or ``model``.
        limit: points at most; more are sampled.
        seed: of the sample and of UMAP.
        where: SQL condition on models and logits, as in a search.
        progress: bars on stderr.

    Returns a row per colour, most points first: ``colour``, ``logits``. Raises `ConfigError` for a method that is not
    installed or HTML without plotly, `QueryError` for a condition that leaves nothing.
    """
    kind = checked(path, (".html",))
    method = chosen_method(method)
    rows, of = sampled(index, limit, seed, where)
    vectors = index.gallery.vectors(rows)
    points, how = placed(vectors, method, seed)
    named = suggested(index, rows, progress=progress)
    groups = _groups(index, rows, named, colour)
    some = f"{number(rows.size)} of {number(of)} logits (seed {seed})" if rows.size < of else f"{number(of)} logits"
    models = np.unique(index.gallery.model_of[rows]).size
    title = f"{some} of {number(models)} models, near where they answer {number(vectors.shape[1])} probes alike"
    about = f"{how}; colour: {_MEANING[colour]}"
    if kind == ".html":
        from hubprobe.plots.interactive import write_map

        write_map(Path(path), points, groups, texts=_texts(index, rows, named), title=title, about=about)
    else:
        _draw(path, points, groups, named, title, about)
    return [{"colour": name, "logits": count} for name, count in _counted(groups)]


_MEANING = {
    "concept": "kind of the name that behaviour suggests; grey: other kinds, or not sure",
    "model": "the model, of the largest ones",
}


def chosen_method(method: Method) -> Literal["pca", "umap"]:
    """Return what ``auto`` stands for here; raises `ConfigError` when umap is asked for and not installed."""
    installed = find_spec("umap") is not None
    if method == "umap" and not installed:
        raise ConfigError("UMAP is not installed: pip install umap-learn, or use --method pca")
    return "umap" if installed and method != "pca" else "pca"


def placed(vectors: NDArray[np.float32], method: str, seed: int) -> tuple[NDArray[np.float64], str]:
    """Return a place for every row of float32 ``[logits, n]``, float64 ``[logits, 2]``, and how it was found.

    Rows are scaled to unit length, so that distances are those of correlations. Signs of principal components are set:
    the largest weight is positive, so the same descriptors are drawn the same way round.
    """
    unit = vectors.astype(np.float64)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    unit -= unit.mean(axis=0)
    wide = min(*unit.shape, _DIMENSIONS)
    power, directions = np.linalg.eigh(unit.T @ unit)
    directions = directions[:, ::-1][:, :wide]
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(wide)])
    components = unit @ directions
    if method == "pca":
        share = power[::-1][:2].sum() / max(float(power.sum()), 1e-12)
        return components[:, :2], f"two principal components, {share:.0%} of the variance"
    found = (
        import_module("umap")
        .UMAP(metric="euclidean", random_state=seed, n_jobs=1)
        .fit_transform(components.astype(np.float32))
    )
    return np.asarray(found, np.float64), f"UMAP of {wide} principal components"


def _groups(index: Index, rows: NDArray[np.int64], named: list[tuple[str, float]], colour: Colour) -> list[str]:
    """Return the group of every point: as many as there are colours, and `OTHERS`."""
    if colour == "model":
        repos = index.gallery.models.column("repo_id").to_pylist()
        found = [repos[i] for i in index.gallery.model_of[rows].tolist()]
    elif colour == "concept":
        kinds = _kinds()
        found = [kinds.get(bank.fold(name), OTHERS) if sure >= _SURE else OTHERS for name, sure in named]
    else:
        raise ConfigError(f"points are coloured by concept or model, not by '{colour}'")
    largest = {name for name, _ in Counter(n for n in found if n != OTHERS).most_common(len(SERIES))}
    return [name if name in largest else OTHERS for name in found]


def _kinds() -> dict[str, str]:
    """Return the bank's group by folded name; a synonym counts where no concept has that name."""
    kinds = {bank.fold(s): c.group for c in bank.bank() for s in c.synonyms}
    return kinds | {bank.fold(c.name): c.group for c in bank.bank()}


def _counted(groups: list[str]) -> list[tuple[str, int]]:
    """Return groups by size, the others last: the order of colours and of the legend."""
    return sorted(Counter(groups).items(), key=lambda pair: (pair[0] == OTHERS, -pair[1], pair[0]))


def colours(groups: list[str]) -> dict[str, str]:
    """Return the colour of every group, in the order of the legend."""
    names = [name for name, _ in _counted(groups)]
    return dict(zip((n for n in names if n != OTHERS), SERIES, strict=False)) | {n: GREY for n in names if n == OTHERS}


def _texts(index: Index, rows: NDArray[np.int64], named: list[tuple[str, float]]) -> list[tuple[str, str, str]]:
    """Return repository, logit with label, and suggestion of every point: strangers' text as it is."""
    labels = index.gallery.logits.column("label").take(rows).to_pylist()
    keys = index.gallery.keys(rows)
    return [
        (key[0], f"{key[2]}: {label}" if label else str(key[2]), f"{name} ({sure:.2f})" if name else "")
        for key, label, (name, sure) in zip(keys, labels, named, strict=True)
    ]


def _draw(
    path: str | Path,
    points: NDArray[np.float64],
    groups: list[str],
    named: list[tuple[str, float]],
    title: str,
    about: str,
) -> None:
    from matplotlib.patheffects import withStroke

    member = np.array(groups, object)
    with picture(path, 9, 6) as figure:
        axes = figure.subplots()
        size = float(np.clip(16_000 / len(groups), 4, 40))
        for name, colour in reversed(colours(groups).items()):  # the others below the coloured ones
            here = member == name
            text = f"{shown(name, 32)}  {number(here.sum())}"
            axes.scatter(points[here, 0], points[here, 1], s=size, color=colour, alpha=0.75, lw=0, label=text)
        for row, name in _labelled(points, named):
            effects = [withStroke(linewidth=2, foreground="white")]
            axes.annotate(name, points[row], (3, 2), textcoords="offset points", fontsize=7, path_effects=effects)
        handles, texts = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], texts[::-1], loc="center left", bbox_to_anchor=(1, 0.5), markerscale=6 / np.sqrt(size)
        )
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(title)
        note(axes, about)


_LABELS = 60
_LETTER, _LINE = 0.0088, 0.03  # width and height of small print, as shares of the axes
_APART = 0.15  # as a share of the axes: a name comes once in that distance


def _labelled(points: NDArray[np.float64], named: list[tuple[str, float]]) -> list[tuple[int, str]]:
    """Return points that are named in the picture, surest first, none over another, and what is written there."""
    low, high = points.min(axis=0), points.max(axis=0)
    places = (points - low) / np.maximum(high - low, 1e-12)
    found: list[tuple[int, str]] = []
    boxes: list[tuple[float, float, float, str]] = []
    for row in sorted((i for i, (name, _) in enumerate(named) if name), key=lambda i: (-named[i][1], i)):
        (x, y), text = places[row], shown(named[row][0], 20)
        end = x + _LETTER * len(text)
        over = any(x < b and a < end and abs(y - c) < _LINE for a, b, c, _ in boxes)
        again = any(t == text and abs(x - a) < _APART and abs(y - c) < _APART for a, _, c, t in boxes)
        if end <= 1.08 and not over and not again:
            boxes.append((x, end, y, text))
            found.append((row, text))
            if len(found) == _LABELS:
                break
    return found
