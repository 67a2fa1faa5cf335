"""The verb ``plot``, a command for each kind of picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import POSITIVE, Group, OutPath, output_options, sha_option, show, where_option
from hubprobe.cli.options import workspace_option as of_workspace

Rows = list[dict[str, Any]]


@click.group(cls=Group)
def plot() -> None:
    """Draw the crawl, the models or the search as a picture.

    Every kind writes --out (PNG, SVG or PDF) and prints the numbers that it shows.

    \b
    Examples:
      hubprobe plot funnel --workspace my-index --out funnel.png
      hubprobe plot map --workspace my-index --out map.html
      hubprobe plot heatmap --workspace my-index OWNER/MODEL --out heatmap.png
    """


def _picture(name: str) -> Callable[[Callable[..., tuple[Rows, list[str]]]], click.Command]:
    """Make a command of a function that draws and returns rows, and which columns a table of them shows; all if []."""

    def command(draws: Callable[..., tuple[Rows, list[str]]]) -> click.Command:
        @plot.command(name)
        @of_workspace
        @click.option("-o", "--out", type=OutPath(), required=True, help="The picture to write.")
        @output_options
        @wraps(draws)
        def drawn(*, folder: Path, out: Path, quiet: bool, kind: str, **options: Any) -> None:
            rows, columns = draws(folder, out, progress=not quiet, **options)
            everything = list(rows[0]) if rows else columns
            show(rows, everything if kind == "json" else columns or everything, kind)
            click.echo(f"plot: {out}", err=True)

        return drawn

    return command


@_picture("funnel")
def funnel(folder: Path, out: Path, *, progress: bool) -> tuple[Rows, list[str]]:  # noqa: ARG001 - it is quick
    """From listed to probed, and how each repository ended.

    \b
    Example:
      hubprobe plot funnel --workspace my-index --out funnel.png
    """
    from hubprobe import plots
    from hubprobe.front import status

    return plots.funnel(status(folder), out), ["outcome", "status", "repositories", "meaning"]


@_picture("throughput")
@click.option("--every", type=POSITIVE, help="Seconds of a bar; by the time it took if none.")
@click.option("--run", "run_id", help="Attempts of one run only, as in the column run_id of attempts.")
def throughput(folder: Path, out: Path, *, progress: bool, **options: Any) -> tuple[Rows, list[str]]:  # noqa: ARG001
    """Models probed an hour, and failures by status, over time.

    \b
    Examples:
      hubprobe plot throughput --workspace my-index --out speed.png
      hubprobe plot throughput --workspace my-index --out speed.png --every 3600
    """
    from hubprobe import plots
    from hubprobe.sync import fresh

    rows = plots.throughput(fresh(folder, "throughput"), out, **options)
    return rows, ["from", "seconds", "probed", "failed", "probed_per_hour"]


@_picture("curve")
@click.option("--share", "shares", type=click.FloatRange(0, 1, min_open=True, max_open=True), multiple=True,
              help="Share of the probes to try; may be repeated.")  # fmt: skip
@click.option("--seed", type=int, default=0, help="Which models are held out, and which probes.")
@click.option("--from", "source", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Draw this record of benchmarks.accuracy in place of the workspace.")  # fmt: skip
def curve(
    folder: Path, out: Path, *, shares: tuple[float, ...], source: Path | None, **options: Any
) -> tuple[Rows, list[str]]:
    """What of a search stays when models are run on a part of the probes.

    A third of the fully probed models are treated as if only a part had been run; nothing is run for it.

    \b
    Examples:
      hubprobe plot curve --workspace my-index --out curve.png
      hubprobe plot curve --from benchmarks/accuracy/results/partial_imagenet.json --out recorded.png
    """
    from hubprobe import front, plots
    from hubprobe.plots.curve import SHARES

    if source is None:
        return plots.curve(front.open(folder), out, shares=shares or SHARES, **options), []
    if shares:
        raise click.UsageError("--share chooses what is measured; --from draws what was")
    columns = ["gallery", "mode", "share", "text_top1", "text_of_full", "logit_top1", "logit_of_full"]
    return plots.recorded_curve(source, out), columns


@_picture("hubness")
@click.option("--scoring", "scorings", multiple=True, help="May be repeated; contrastive and probelog if none.")
@click.option("--queries", type=click.IntRange(1, 1_024), default=512, help="Concepts to ask for.")
def hubness(folder: Path, out: Path, *, scorings: tuple[str, ...], **options: Any) -> tuple[Rows, list[str]]:
    """How often each logit is among the ten best hits: hubs come up whatever is asked.

    \b
    Example:
      hubprobe plot hubness --workspace my-index --out hubness.png --scoring bridged --scoring probelog
    """
    from hubprobe import front, plots
    from hubprobe.plots.outputs import SCORINGS

    return plots.hubness(front.open(folder), out, scorings=scorings or SCORINGS, **options), []


@_picture("map")
@click.option("--method", type=click.Choice(["auto", "pca", "umap"]), default="auto",
              help="umap needs umap-learn; auto takes it where it is installed.")  # fmt: skip
@click.option("--colour", type=click.Choice(["concept", "model"]), default="concept",
              help="Kind of the suggested name, or the model.")  # fmt: skip
@click.option("--limit", type=click.IntRange(3, 100_000), default=5_000, help="Points at most.")
@click.option("--seed", type=click.IntRange(0), default=0, help="Of the sample, and of UMAP.")
@where_option
def logit_map(folder: Path, out: Path, *, method: Any, **options: Any) -> tuple[Rows, list[str]]:
    """All logits as points, near where they answer alike; .html is interactive.

    \b
    Examples:
      hubprobe plot map --workspace my-index --out map.html
      hubprobe plot map --workspace my-index --out map.png --colour model --where "downloads > 1000"
    """
    from hubprobe import front, plots
    from hubprobe.plots.logit_map import chosen_method

    if method == "auto" and chosen_method(method) == "pca":
        click.echo("principal components: UMAP, which parts groups better, comes with pip install umap-learn", err=True)
    return plots.logit_map(front.open(folder), out, method=method, **options), []


@_picture("heatmap")
@click.argument("repo_id")
@sha_option
@click.option("--limit", type=click.IntRange(3, 120), default=40, help="Logits drawn at most.")
def heatmap(folder: Path, out: Path, *, repo_id: str, **options: Any) -> tuple[Rows, list[str]]:
    """Which outputs of REPO_ID answer alike: those it confuses, or that mean the same.

    \b
    Example:
      hubprobe plot heatmap --workspace my-index OWNER/MODEL --out heatmap.png
    """
    from hubprobe import front, plots

    return plots.heatmap(front.open(folder), repo_id, out, **options), []
