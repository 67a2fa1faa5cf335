"""The verb ``plot``, a command for each kind of picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from hubprobe.cli.options import Group, OutPath, format_option, output_options, workspace_option
from hubprobe.output import render

F = TypeVar("F", bound=Callable[..., Any])


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


def _out(function: F) -> F:
    return click.option("-o", "--out", type=OutPath(), required=True, help="The picture to write.")(function)


def _show(rows: list[dict[str, Any]], columns: list[str], kind: str, out: Path) -> None:
    click.echo(render(rows, columns if kind != "json" or not rows else list(rows[0]), kind, width=60), nl=False)
    click.echo(f"plot: {out}", err=True)


@plot.command()
@workspace_option
@_out
@format_option
def funnel(folder: Path, out: Path, kind: str) -> None:
    """From listed to probed, and how each repository ended.

    \b
    Example:
      hubprobe plot funnel --workspace my-index --out funnel.png
    """
    from hubprobe import plots
    from hubprobe.front import status

    _show(plots.funnel(status(folder), out), ["outcome", "status", "repositories", "meaning"], kind, out)


@plot.command()
@workspace_option
@_out
@click.option("--every", type=click.FloatRange(0, min_open=True), help="Seconds of a bar; by the time it took if none.")
@click.option("--run", "run_id", help="Attempts of one run only, as in the column run_id of attempts.")
@format_option
def throughput(folder: Path, out: Path, every: float | None, run_id: str | None, kind: str) -> None:
    """Models probed an hour, and failures by status, over time.

    \b
    Examples:
      hubprobe plot throughput --workspace my-index --out speed.png
      hubprobe plot throughput --workspace my-index --out speed.png --every 3600
    """
    from hubprobe import plots
    from hubprobe.sync import fresh

    rows = plots.throughput(fresh(folder, "throughput"), out, every=every, run_id=run_id)
    _show(rows, ["from", "seconds", "probed", "failed", "probed_per_hour"], kind, out)


@plot.command()
@workspace_option
@_out
@click.option("--share", "shares", type=click.FloatRange(0, 1, min_open=True, max_open=True), multiple=True,
              help="Share of the probes to try; may be repeated.")  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Which models are held out, and which probes.")
@click.option("--from", "source", type=click.Path(path_type=Path, dir_okay=False, exists=True),
              help="Draw this record of benchmarks.accuracy in place of the workspace.")  # fmt: skip
@output_options
def curve(
    folder: Path, out: Path, shares: tuple[float, ...], seed: int, source: Path | None, quiet: bool, kind: str
) -> None:
    """What of a search stays when models are run on a part of the probes.

    A third of the fully probed models are treated as if only a part had been run; nothing is run for it.

    \b
    Examples:
      hubprobe plot curve --workspace my-index --out curve.png
      hubprobe plot curve --from benchmarks/accuracy/results/partial_imagenet.json --out recorded.png
    """
    from hubprobe import front, plots
    from hubprobe.plots.curve import SHARES

    if source is not None:
        if shares:
            raise click.UsageError("--share chooses what is measured; --from draws what was")
        rows = plots.recorded_curve(source, out)
        columns = ["gallery", "mode", "share", "text_top1", "text_of_full", "logit_top1", "logit_of_full"]
    else:
        rows = plots.curve(front.open(folder), out, shares=shares or SHARES, seed=seed, progress=not quiet)
        columns = list(rows[0])
    _show(rows, columns, kind, out)


@plot.command()
@workspace_option
@_out
@click.option("--scoring", "scorings", multiple=True, help="May be repeated; contrastive and probelog if none.")
@click.option("--queries", type=click.IntRange(1, 1_024), default=512, show_default=True, help="Concepts to ask for.")
@output_options
def hubness(folder: Path, out: Path, scorings: tuple[str, ...], queries: int, quiet: bool, kind: str) -> None:
    """How often each logit is among the ten best hits: hubs come up whatever is asked.

    \b
    Example:
      hubprobe plot hubness --workspace my-index --out hubness.png --scoring bridged --scoring probelog
    """
    from hubprobe import front, plots
    from hubprobe.plots.outputs import SCORINGS

    rows = plots.hubness(front.open(folder), out, scorings=scorings or SCORINGS, queries=queries, progress=not quiet)
    _show(rows, list(rows[0]), kind, out)


@plot.command("map")
@workspace_option
@_out
@click.option("--method", type=click.Choice(["auto", "pca", "umap"]), default="auto", show_default=True,
              help="umap needs umap-learn; auto takes it where it is installed.")  # fmt: skip
@click.option("--colour", type=click.Choice(["concept", "model"]), default="concept", show_default=True,
              help="Kind of the suggested name, or the model.")  # fmt: skip
@click.option("--limit", type=click.IntRange(3, 100_000), default=5_000, show_default=True, help="Points at most.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the sample, and of UMAP.")
@click.option("--where", help="SQL condition on models and logits, as in a search.")
@output_options
def logit_map(
    folder: Path, out: Path, method: Any, colour: Any, limit: int, seed: int, where: str | None, quiet: bool, kind: str
) -> None:
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
    rows = plots.logit_map(
        front.open(folder), out, method=method, colour=colour, limit=limit, seed=seed, where=where, progress=not quiet
    )
    _show(rows, list(rows[0]), kind, out)


@plot.command()
@workspace_option
@click.argument("repo_id")
@_out
@click.option("--sha", help="Commit of REPO_ID; the last indexed when not given.")
@click.option("--limit", type=click.IntRange(3, 120), default=40, show_default=True, help="Logits drawn at most.")
@output_options
def heatmap(folder: Path, repo_id: str, out: Path, sha: str | None, limit: int, quiet: bool, kind: str) -> None:
    """Which outputs of REPO_ID answer alike: those it confuses, or that mean the same.

    \b
    Example:
      hubprobe plot heatmap --workspace my-index OWNER/MODEL --out heatmap.png
    """
    from hubprobe import front, plots

    rows = plots.heatmap(front.open(folder), repo_id, out, sha=sha, limit=limit, progress=not quiet)
    _show(rows, list(rows[0]), kind, out)
