"""The verbs that gather: ``crawl``, ``probes``, ``probe`` and ``complete``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubprobe.cli.options import (
    config_with_endpoint,
    endpoint_option,
    format_option,
    local_offline,
    quiet_option,
    token_option,
    workspace_option,
)
from hubprobe.output import render

if TYPE_CHECKING:
    from workspace import Config


def show_summary(summary: Any, kind: str) -> None:
    """Print a summary dataclass: a line a field as a table, or one JSON object's list, or CSV."""
    values = asdict(summary)
    if kind == "table":
        flat = [{"what": name.replace("_", " "), "value": value} for name, value in values.items() if value != ""]
        click.echo(render(flat, ["what", "value"], "table", width=100), nl=False)
    else:
        click.echo(render([values], list(values), kind), nl=False)


def show_crawl(folder: Path, config: Config, options: dict[str, Any], kind: str) -> None:
    """Crawl, or dry-run, and print the summary; a dry run leaves no folder behind."""
    import crawler
    from workspace import Workspace

    workspace = Workspace(folder, config) if options.get("dry_run") else Workspace.create(folder, config)
    show_summary(crawler.crawl(workspace, **options), kind)


@click.group()
def probes() -> None:
    """Build the fixed set of images that every model is run on."""


@probes.command("build")
@workspace_option
@click.option("--from", "source", help="Folder of images, Parquet file, or dataset name; else the configuration's.")
@click.option("--n", type=click.IntRange(min=2), help="How many images; 4,000 by default, as published.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the sample.")
@click.option("--split", help="Split of the dataset; 'train' when --from is given without it.")
@click.option("--image-column", help="Column that holds the images; found by its type when not given.")
@click.option("--caption-column", help="Column that holds captions; 'caption', 'text' ... when not given.")
@click.option("--dry-run", is_flag=True, help="Say what would be built, write nothing.")
@quiet_option
@format_option
def build(
    folder: Path,
    source: str | None,
    n: int | None,
    seed: int | None,
    split: str | None,
    image_column: str | None,
    caption_column: str | None,
    dry_run: bool,
    quiet: bool,
    kind: str,
) -> None:
    """Sample the probe images, refuse duplicates, bombs and broken files, and write the probe set.

    \b
    Examples:
      hubprobe probes build --workspace my-index --from ./images --n 4000 --seed 0
      hubprobe probes build --workspace my-index --from lmms-lab/COCO-Caption2017 --split val
    """
    from probing import probes as probe_images
    from workspace import Workspace

    config = config_with_endpoint(folder, None)
    workspace = Workspace(folder, config) if dry_run else Workspace.create(folder)
    settings = workspace.config.probes
    summary = probe_images.build(
        workspace,
        source or settings.source,
        n=n or settings.n,
        seed=settings.seed if seed is None else seed,
        split=split or (settings.split if source is None else "train"),
        image_column=image_column,
        caption_column=caption_column,
        dry_run=dry_run,
        progress=not quiet,
    )
    show_summary(summary, kind)


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="List at most this many repositories.")
@click.option("--author", help="Only this owner's repositories.")
@click.option("--library", help="Only this library: transformers, timm ...")
@click.option("--search", "text", help="Only repositories whose name contains this.")
@click.option("--dry-run", is_flag=True, help="List and decide, print what would be done, write nothing.")
@token_option
@endpoint_option
@quiet_option
@format_option
def crawl(
    folder: Path,
    limit: int | None,
    author: str | None,
    library: str | None,
    text: str | None,
    dry_run: bool,
    token: str | None,
    endpoint: str | None,
    quiet: bool,
    kind: str,
) -> None:
    """List a Hub's image classifiers and decide, before any weights are fetched, which can be probed.

    \b
    Examples:
      hubprobe crawl --workspace my-index --limit 1000
      hubprobe crawl --workspace my-index --library timm
    """
    config = config_with_endpoint(folder, endpoint)
    options = {"limit": limit, "author": author, "library": library, "search": text, "dry_run": dry_run, "token": token}
    show_crawl(folder, config, {**options, "progress": not quiet}, kind)


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="Run at most this many models.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in a forward pass.")
@click.option("--device", help="cpu, cuda, mps ...; the best there is when not given.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes; one per GPU.")
@click.option("--retry", help="Statuses to try again, with commas: rate_limited,network_error")
@token_option
@endpoint_option
@quiet_option
@format_option
def probe(
    folder: Path,
    limit: int | None,
    batch_size: int | None,
    device: str | None,
    workers: int,
    retry: str | None,
    token: str | None,
    endpoint: str | None,
    quiet: bool,
    kind: str,
) -> None:
    """Run every eligible model that was not run yet; what is committed is never run again.

    \b
    Examples:
      hubprobe probe --workspace my-index
      hubprobe probe --workspace my-index --workers 8
      accelerate launch --multi_gpu --num_processes 8 -m hubprobe probe --workspace my-index
    """
    local_offline()
    from hubprobe import front, launch
    from workspace import Workspace

    workspace = Workspace(Workspace.open(folder).root, config_with_endpoint(folder, endpoint))
    if workers > 1:
        given = {"--limit": limit, "--batch-size": batch_size, "--device": device, "--retry": retry, "--format": kind}
        arguments = [part for name, value in given.items() if value is not None for part in (name, str(value))]
        secret = {"HF_TOKEN": token} if token else {}  # by the environment: a command line is seen by everyone
        address = {"HF_ENDPOINT": workspace.config.endpoint}
        launch.probe_with_workers(folder, workers, [*arguments, *(["--quiet"] if quiet else [])], **secret, **address)
        return
    statuses = tuple(s.strip() for s in retry.split(",") if s.strip()) if retry else ()
    summary = front.probe(
        workspace,
        token=token,
        limit=limit,
        batch_size=batch_size,
        device=device,
        retry=statuses,
        progress=not quiet,
    )
    if launch.is_first_process():
        show_summary(summary, kind)


@click.command()
@workspace_option
@click.option("--dry-run", is_flag=True, help="Count what would be written, write nothing.")
@quiet_option
@format_option
def complete(folder: Path, dry_run: bool, quiet: bool, kind: str) -> None:
    """Turn responses into one descriptor per searchable logit; full responses pass through bit-equal.

    \b
    Example:
      hubprobe complete --workspace my-index
    """
    import completion
    from workspace import Workspace

    show_summary(completion.complete(Workspace.open(folder), dry_run=dry_run, progress=not quiet), kind)
