"""The verbs ``run``, ``demo`` and ``status``: all steps at once, and how far they have come."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hubprobe.cli.options import ChosenHub, format_option, hub_options, output_options, workspace_option
from hubprobe.output import render


@click.command()
@workspace_option
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="Also draw it: PNG, SVG or PDF.")
@format_option
def status(folder: Path, plot: Path | None, kind: str) -> None:
    """Count repositories by how they ended: attempted = ok + skipped + failed.

    \b
    Examples:
      hubprobe status --workspace my-index
      hubprobe status --workspace my-index --format json
      hubprobe status --workspace my-index --plot funnel.png
    """
    from hubprobe.front import status as count

    report = count(folder)
    if plot is not None:
        from hubprobe.plots import funnel

        funnel(report, plot)
        click.echo(f"plot: {plot}", err=True)
    click.echo(render(report.by_status, ["outcome", "status", "repositories", "meaning"], kind, width=80), nl=False)
    if kind == "table":
        click.echo(
            f"\n{report.listed} listed, {report.eligible} eligible; {report.attempted} attempted = {report.ok} ok + "
            f"{report.skipped} skipped + {report.failed} failed; {report.waiting} waiting; "
            f"{report.logits} searchable logits"
        )


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="List at most this many repositories.")
@click.option("--probes-from", help="Folder or dataset of probe images, when the workspace has none yet.")
@click.option("--dry-run", is_flag=True, help="List and decide, print what would be done, write nothing.")
@hub_options
@output_options
def run(hub: ChosenHub, limit: int | None, probes_from: str | None, dry_run: bool, quiet: bool, kind: str) -> None:
    """Crawl, probe, complete and index; run it again to go on or to bring the index up to date.

    \b
    Examples:
      hubprobe run --workspace my-index --limit 50
      hubprobe run --workspace my-index --probes-from ./my-images --limit 200
    """
    from hubprobe import front
    from workspace import Workspace

    if dry_run:
        from hubprobe.cli.crawl import show_crawl

        options = {"limit": limit, "token": hub.token, "dry_run": True, "progress": not quiet}
        show_crawl(hub.folder, hub.config, options, kind)
        return
    workspace = Workspace.create(hub.folder, hub.config)
    summary = front.run(workspace, limit=limit, token=hub.token, probes_from=probes_from, progress=not quiet)
    report = front.status(workspace)
    if kind == "json":
        click.echo(
            render([{**asdict(summary), "status": asdict(report)}], [*asdict(summary), "status"], "json"), nl=False
        )
    else:
        click.echo(render(report.by_status, ["outcome", "status", "repositories", "meaning"], kind, width=80), nl=False)
    click.echo(f'\nnext: hubprobe search --workspace {hub.folder} "dog"', err=True)


@click.command()
@click.option(
    "-w",
    "--workspace",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo-index"),
    show_default=True,
    help="Folder of the demo's workspace; made when missing.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that probe.")
@output_options
def demo(folder: Path, workers: int, quiet: bool, kind: str) -> None:
    """Serve the embedded demo hub and do everything on it: crawl, probe, complete, index, search, evaluate.

    The hub holds really trained classifiers, the real ImageNet model EfficientNet-Lite0, and repositories that
    must not be probed, each for its own reason. Nothing leaves this machine.

    \b
    Examples:
      hubprobe demo
      hubprobe search --workspace demo-index "pizza"
    """
    from hubprobe.demo import run as demo_run

    report = demo_run.demo(folder, workers=workers, progress=not quiet)
    click.echo(demo_run.as_text(report) if kind == "table" else demo_run.as_data(report, kind), nl=False)
