"""The verbs ``run``, ``demo`` and ``status``: all steps at once, and how far they have come."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubprobe.cli.doctor import show_check
from hubprobe.cli.options import ChosenHub, format_option, hub_options, output_options, workspace_option
from hubprobe.output import render

if TYPE_CHECKING:
    from hubprobe.doctor.check import Check


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
            + (f"; the weights of {report.converted} from a conversion's pull request" if report.converted else "")
        )


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="List at most this many repositories.")
@click.option("--probes-from", help="Folder or dataset of probe images, when the workspace has none yet.")
@click.option("--dry-run", is_flag=True, help="Look, list and decide, print what would be done, write nothing.")
@hub_options
@output_options
def run(hub: ChosenHub, limit: int | None, probes_from: str | None, dry_run: bool, quiet: bool, kind: str) -> None:
    """Crawl, probe, complete and index; run it again to go on or to bring the index up to date.

    First it looks at what it needs: the Hub, the encoder, the probe images, the disk; see 'hubprobe doctor'.

    \b
    Examples:
      hubprobe run --workspace my-index --limit 50
      hubprobe run --workspace my-index --probes-from ./my-images --limit 200
    """
    from hubprobe import front
    from workspace import Workspace

    wanted: dict[str, Any] = {"limit": limit, "token": hub.token}
    if dry_run:
        _dry_run(hub, wanted, probes_from, quiet, kind)
        return

    def tell(check: Check) -> None:
        if not quiet and check.state != "fail":  # what fails is said in the end, with what to do
            show_check(check, err=True)

    front.require_ready(Workspace(hub.folder, hub.config), **wanted, probes_from=probes_from, tell=tell)
    workspace = Workspace.create(hub.folder, hub.config)
    summary = front.run(workspace, **wanted, probes_from=probes_from, progress=not quiet, check=False)
    report = front.status(workspace)
    if kind == "json":
        click.echo(
            render([{**asdict(summary), "status": asdict(report)}], [*asdict(summary), "status"], "json"), nl=False
        )
    else:
        click.echo(render(report.by_status, ["outcome", "status", "repositories", "meaning"], kind, width=80), nl=False)
    click.echo(f'\nnext: hubprobe search --workspace {hub.folder} "dog"', err=True)


def _dry_run(hub: ChosenHub, wanted: dict[str, Any], probes_from: str | None, quiet: bool, kind: str) -> None:
    """Show every check, and what a crawl would cost; exit code 1 when a check fails."""
    from hubprobe import front
    from hubprobe.cli.crawl import show_crawl
    from workspace import Workspace, WorkspaceError

    found: list[Check] = []

    def tell(check: Check) -> None:
        found.append(check)
        show_check(check, err=True)

    problem = None
    try:
        front.require_ready(Workspace(hub.folder, hub.config), **wanted, probes_from=probes_from, tell=tell)
    except WorkspaceError as error:
        if any(check.state == "fail" and check.check in ("endpoint", "listing") for check in found):
            raise
        problem = error
    show_crawl(hub.folder, hub.config, {**wanted, "dry_run": True, "progress": not quiet}, kind)
    if problem is not None:
        raise problem


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
