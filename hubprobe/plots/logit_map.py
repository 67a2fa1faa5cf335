"""All logits as points: near where they answer the probes alike, coloured by what they seem to recognise."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2 import Environment, PackageLoader

from hubprobe.plots.style import GREY, INK, SERIES, SOFT, checked, note, number, picture, shown
from search.text import bank
from workspace import ConfigError, QueryError
from workspace.files import replacing
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from search import Index

Method = Literal["auto", "pca", "umap"]
Colour = Literal["concept", "model"]

LIMIT = 5_000
"""Points drawn at most: more hide each other, and make the HTML slow."""

SVG_POINTS = 5_000
"""Points up to which the HTML needs no WebGL, which browsers on servers and old machines lack."""

NAMED, COMPARISONS = 500, 20_000_000
"""Points that are named: all up to this many, and more where few labels of other models are compared with each."""

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
    named, few = suggested_nearby(index, rows, vectors, progress=progress)
    groups = _groups(index, rows, named, colour)
    some = f"{number(rows.size)} of {number(of)} logits (seed {seed})" if rows.size < of else f"{number(of)} logits"
    models = np.unique(index.gallery.model_of[rows]).size
    title = f"{some} of {number(models)} models, near where they answer {number(vectors.shape[1])} probes alike"
    about = f"{how}; colour: {_MEANING[colour]}" + (f" ({few} are named, the others like the nearest)" if few else "")
    if kind == ".html":
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
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    unit -= unit.mean(axis=0)
    directions, power = _principal(unit, min(*unit.shape, _DIMENSIONS))
    directions *= np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])
    components = unit @ directions
    if method == "pca":
        share = power[:2].sum() / max(float(np.square(unit, dtype=np.float64).sum()), 1e-12)
        return components[:, :2], f"two principal components, {share:.0%} of the variance"
    umap = import_module("umap").UMAP(metric="euclidean", random_state=seed, n_jobs=1)
    places = umap.fit_transform(components.astype(np.float32))
    return np.asarray(places, np.float64), f"UMAP of {components.shape[1]} principal components"


def _principal(centred: NDArray[np.float32], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the strongest directions of float32 ``[rows, n]``, ``[n, count]``, and the power of each, strongest first.

    By subspace iteration (Halko, Martinsson and Tropp, SIAM Review 53, 2011, algorithm 4.4): of thousands of probes all
    eigenvectors would be computed for the sake of fifty.
    """
    wide = min(*centred.shape, count + _SPARE)
    basis = np.random.default_rng(0).standard_normal((centred.shape[1], wide), np.float32)
    for _ in range(_ROUNDS):
        basis = np.linalg.qr(centred.T @ (centred @ basis))[0].astype(np.float32)
    seen = (centred @ basis).astype(np.float64)
    power, turned = np.linalg.eigh(seen.T @ seen)
    strongest = np.argsort(-power)[:count]
    return basis.astype(np.float64) @ turned[:, strongest], power[strongest]


_SPARE, _ROUNDS = 14, 8  # directions beyond those wanted, and iterations: the first ones are exact to float32 then


def _groups(index: Index, rows: NDArray[np.int64], named: list[tuple[str, float]], colour: Colour) -> list[str]:
    """Return the group of every point: as many as there are colours, and `OTHERS`."""
    if colour == "model":
        repos = index.gallery.models.column("repo_id").to_pylist()
        kinds_of = [repos[i] for i in index.gallery.model_of[rows].tolist()]
    elif colour == "concept":
        kinds = _kinds()
        kinds_of = [kinds.get(bank.fold(name), OTHERS) if sure >= _SURE else OTHERS for name, sure in named]
    else:
        raise ConfigError(f"points are coloured by concept or model, not by '{colour}'")
    largest = {name for name, _ in Counter(n for n in kinds_of if n != OTHERS).most_common(len(SERIES))}
    return [name if name in largest else OTHERS for name in kinds_of]


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
    labels: list[tuple[int, str]] = []
    boxes: list[tuple[float, float, float, str]] = []
    for row in sorted((i for i, (name, _) in enumerate(named) if name), key=lambda i: (-named[i][1], i)):
        (x, y), text = places[row], shown(named[row][0], 20)
        end = x + _LETTER * len(text)
        over = any(x < b and a < end and abs(y - c) < _LINE for a, b, c, _ in boxes)
        again = any(t == text and abs(x - a) < _APART and abs(y - c) < _APART for a, _, c, t in boxes)
        if end <= 1.08 and not over and not again:
            boxes.append((x, end, y, text))
            labels.append((row, text))
            if len(labels) == _LABELS:
                break
    return labels


def sampled(index: Index, limit: int, seed: int, where: str | None = None) -> tuple[NDArray[np.int64], int]:
    """Return positions of at most ``limit`` logits, ascending, and how many there were to choose from.

    ``where`` is a condition as `search.query.Query.where` takes it. Raises `QueryError` when it leaves fewer than 3.
    """
    from search import filters

    mask = index.gallery.mask([filters.parse(where)]) if where else None
    rows = np.arange(len(index.gallery)) if mask is None else np.flatnonzero(mask)
    if rows.size < 3:
        raise QueryError(f"{rows.size} logits are too few to draw: loosen the filter, or index more models")
    chosen = rows if rows.size <= limit else np.random.default_rng(seed).choice(rows, limit, replace=False)
    return np.sort(chosen).astype(np.int64), int(rows.size)


def suggested(index: Index, rows: NDArray[np.int64], *, progress: bool) -> list[tuple[str, float]]:
    """Return a name and a confidence for every logit; empty names for an index that cannot name."""
    from search.naming import Namer

    if index.gallery.calibration is None:
        return [("", 0.0)] * rows.size
    named = Namer(index.gallery, index.texts, progress=progress).names(rows, 1)
    return [(names[0].name, names[0].confidence) if names else ("", 0.0) for names in named]


def suggested_nearby(
    index: Index, rows: NDArray[np.int64], vectors: NDArray[np.float32], *, progress: bool
) -> tuple[list[tuple[str, float]], int]:
    """Return what `suggested` does, of as many as `NAMED` says, and how many those were, or 0 for all.

    Every other logit takes the name of that one of these which answers most alike, less sure as the two correlate less.
    ``vectors`` are the descriptors of ``rows``, float32 ``[logits, n]``.
    """
    from search.text.contrast import unit

    labels = 1 if index.gallery.bridge is None else max(index.gallery.bridge.rows.size, 1)
    most = min(max(NAMED, COMPARISONS // labels), rows.size)
    chosen = np.unique(np.linspace(0, rows.size - 1, most).astype(np.int64))
    first = suggested(index, rows[chosen], progress=progress)
    if chosen.size == rows.size:
        return first, 0
    likeness = unit(vectors) @ unit(vectors[chosen]).T
    likeness[chosen, np.arange(chosen.size)] = np.inf
    nearest = likeness.argmax(axis=1)
    alike = np.clip(likeness[np.arange(rows.size), nearest], 0.0, 1.0).tolist()
    return [(first[i][0], first[i][1] * like) for i, like in zip(nearest.tolist(), alike, strict=True)], chosen.size


# ── as HTML: one file with its script inside, which asks nobody for anything ────────────────────────────────────────


def safe(text: str, limit: int = 60) -> str:
    """Return strangers' text for plotly: one line, cut, with ``& < >`` as entities, which it shows as they were.

    Plotly reads some HTML in every text it shows (bold, links, line breaks).
    """
    return html.escape(printable(text, limit), quote=False)


def write_map(
    path: Path,
    points: NDArray[np.float64],
    groups: Sequence[str],
    *,
    texts: Sequence[tuple[str, str, str]],
    title: str,
    about: str,
) -> None:
    """Write points with a legend that switches groups off, and what each is under the pointer: about 5 MB.

    ``texts`` are repository, logit with label, and suggested name of every point: strangers' text. Raises `ConfigError`
    when plotly is not installed.
    """
    if find_spec("plotly") is None:
        other = "or name a file that ends in .png, .svg or .pdf"
        raise ConfigError(f"interactive HTML needs plotly: pip install 'hubprobe[plots]', {other}")
    import plotly.graph_objects as go

    figure = go.Figure()
    add = figure.add_scatter if len(points) <= SVG_POINTS else figure.add_scattergl
    member = np.array(groups, object)
    for name, colour in colours(list(groups)).items():
        here = np.flatnonzero(member == name)
        add(
            x=points[here, 0].round(4).tolist(),
            y=points[here, 1].round(4).tolist(),
            mode="markers",
            name=f"{safe(name, 40)} {here.size}",
            marker={"size": 6, "color": colour, "opacity": 0.8},
            customdata=[[safe(part) for part in texts[i]] for i in here.tolist()],
            hovertemplate="<b>%{customdata[2]}</b><br>%{customdata[0]}<br>logit %{customdata[1]}<extra></extra>",
        )
    hidden = {"visible": False}
    figure.update_layout(
        font={"family": "system-ui, sans-serif", "color": SOFT},
        xaxis=hidden, yaxis=hidden, plot_bgcolor="white", margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"itemsizing": "constant"}, hoverlabel={"align": "left"}, dragmode="pan",
    )  # fmt: skip
    drawn = figure.to_html(
        include_plotlyjs=True,
        include_mathjax=False,
        full_html=False,
        div_id="logit-map",  # plotly's own is drawn by chance: the same index gives the same file
        config={"displaylogo": False, "scrollZoom": True, "responsive": True},
        default_height="82vh",
    )
    pages = Environment(loader=PackageLoader("hubprobe.plots"), autoescape=True, keep_trailing_newline=True)
    page = pages.get_template("map.html").render(title=title, about=about, ink=INK, soft=SOFT, drawn=drawn)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
