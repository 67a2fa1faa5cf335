"""The verb ``crawl``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubprobe.cli.options import ChosenHub, hub_options, output_options, show_summary, workspace_option
from hubprobe.output import render
from workspace.text import printable

if TYPE_CHECKING:
    from workspace import Config


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="List at most this many repositories.")
@click.option("--task", "pipeline_tag", help="Task to list; image-classification by default, '' for any.")
@click.option("--author", help="Only this owner's repositories.")
@click.option("--library", help="Only this library: transformers, timm ...")
@click.option("--search", "text", help="Only repositories whose name contains this.")
@click.option("--tag", "tags", multiple=True, help="Only repositories with this tag; may be repeated.")
@click.option("--from", "source", help="Parquet snapshot of the Hub, local or hf://, in place of its listing.")
@click.option("--restart", is_flag=True, help="Begin anew although an interrupted crawl could go on.")
@click.option("--explain", "explained", metavar="OWNER/NAME", help="Say how one repository is decided, step by step.")
@click.option("--dry-run", is_flag=True, help="Print repositories, requests, bytes and hours; write nothing.")
@hub_options
@output_options
def crawl(hub: ChosenHub, text: str | None, explained: str | None, quiet: bool, kind: str, **options: Any) -> None:
    """List a Hub's image classifiers and decide, before any weights are fetched, which can be probed.

    Run again, it books what is new, changed or gone; interrupted, it goes on where it was.

    \b
    Examples:
      hubprobe crawl --workspace my-index --limit 1000
      hubprobe crawl --workspace my-index --library timm --dry-run
      hubprobe crawl --workspace my-index --from hf://datasets/cfahlgren1/hub-stats/models.parquet
      hubprobe crawl --explain google/vit-base-patch16-224
    """
    if explained is not None:
        _explain(hub, explained, kind)
        return
    options |= {"search": text, "token": hub.token, "progress": not quiet}
    show_crawl(hub.folder, hub.config, options, kind)


def _explain(hub: ChosenHub, repo_id: str, kind: str) -> None:
    import crawler
    from workspace import Workspace

    decision = crawler.explain(Workspace(hub.folder, hub.config), repo_id, token=hub.token)
    steps = [{**step, "passed": "yes" if step["passed"] else "no"} for step in decision.to_arrow().to_pylist()]
    click.echo(render(steps, ["stage", "rule", "passed", "looks_for", "reason"], kind), nl=False)
    sentence = f": {printable(decision.reason, 300)}" if decision.reason else ""
    click.echo(f"\n{repo_id} is {decision.status.value}{sentence}", err=kind != "table")


def show_crawl(folder: Path, config: Config, options: dict[str, Any], kind: str) -> None:
    """Crawl, or dry-run, and print the summary; a dry run leaves no folder behind."""
    import crawler
    from workspace import Workspace
    from workspace.endpoint import is_loopback

    if not os.environ.get("HUBPROBE_CONTACT") and not is_loopback(config.endpoint):
        click.echo("please set HUBPROBE_CONTACT, so that the Hub can tell you when your crawl is a burden", err=True)
    workspace = Workspace(folder, config) if options.get("dry_run") else Workspace.create(folder, config)
    show_summary(crawler.crawl(workspace, **options), kind)
