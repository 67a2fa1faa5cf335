"""Pictures to move about in: one HTML file with its script inside, which asks nobody for anything.

Plotly reads some HTML in every text it shows (bold, links, line breaks). Strangers' text goes in only through `safe`.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hubprobe.plots.style import INK, SOFT
from workspace import ConfigError
from workspace.files import replacing
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SVG_POINTS = 5_000
"""Points up to which none of it needs WebGL, which browsers on servers and old machines lack."""


def safe(text: str, limit: int = 60) -> str:
    """Return strangers' text for plotly: one line, cut, with ``& < >`` as entities, which it shows as they were."""
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
    """Write points with a legend that switches groups off, and what each is under the pointer.

    Args:
        path: the HTML file; about 5 MB, most of it plotly's script.
        points: float64 ``[points, 2]``.
        groups: of every point.
        texts: repository, logit with label, and suggested name of every point; strangers' text.
        title: our own words.
        about: our own words.

    Raises `ConfigError` when plotly is not installed.
    """
    if find_spec("plotly") is None:
        raise ConfigError(
            "interactive HTML needs plotly: pip install 'hubprobe[plots]', "
            "or name a file that ends in .png, .svg or .pdf"
        )
    import plotly.graph_objects as go

    from hubprobe.plots.logit_map import colours

    figure = go.Figure()
    add = figure.add_scatter if len(points) <= _SVG_POINTS else figure.add_scattergl
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
    page = _PAGE.format(title=html.escape(title), about=html.escape(about), ink=INK, soft=SOFT, drawn=drawn)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ margin: 1em; font-family: system-ui, sans-serif; color: {soft} }}
  h1 {{ margin: 0 0 .2em; font-size: 1.1em; color: {ink} }}
  p {{ margin: 0; font-size: .85em }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{drawn}
</html>
"""
