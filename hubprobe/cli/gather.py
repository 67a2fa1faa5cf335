"""The verbs that gather: ``crawl``, ``probes``, ``probe`` and ``complete``."""

from __future__ import annotations

import os
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
    token_to_send,
    workspace_option,
)
from hubprobe.output import render
from workspace.text import printable

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
    from workspace.endpoint import is_loopback

    if not os.environ.get("HUBPROBE_CONTACT") and not is_loopback(config.endpoint):
        click.echo("please set HUBPROBE_CONTACT, so that the Hub can tell you when your crawl is a burden", err=True)
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
@click.option("--task", "pipeline_tag", help="Task to list; image-classification by default, '' for any.")
@click.option("--author", help="Only this owner's repositories.")
@click.option("--library", help="Only this library: transformers, timm ...")
@click.option("--search", "text", help="Only repositories whose name contains this.")
@click.option("--tag", "tags", multiple=True, help="Only repositories with this tag; may be repeated.")
@click.option("--from", "source", help="Parquet snapshot of the Hub, local or hf://, in place of its listing.")
@click.option("--restart", is_flag=True, help="Begin anew although an interrupted crawl could go on.")
@click.option("--explain", "explained", metavar="OWNER/NAME", help="Say how one repository is decided, step by step.")
@click.option("--dry-run", is_flag=True, help="Print repositories, requests, bytes and hours; write nothing.")
@token_option
@endpoint_option
@quiet_option
@format_option
def crawl(
    folder: Path,
    text: str | None,
    explained: str | None,
    endpoint: str | None,
    quiet: bool,
    kind: str,
    **options: Any,
) -> None:
    """List a Hub's image classifiers and decide, before any weights are fetched, which can be probed.

    Run again, it books what is new, changed or gone; interrupted, it goes on where it was.

    \b
    Examples:
      hubprobe crawl --workspace my-index --limit 1000
      hubprobe crawl --workspace my-index --library timm --dry-run
      hubprobe crawl --workspace my-index --from hf://datasets/cfahlgren1/hub-stats/models.parquet
      hubprobe crawl --explain google/vit-base-patch16-224
    """
    config = config_with_endpoint(folder, endpoint)
    options["token"] = token_to_send(config, endpoint, options["token"])
    if explained is not None:
        _explain(folder, config, explained, options["token"], kind)
        return
    show_crawl(folder, config, {**options, "search": text, "progress": not quiet}, kind)


def _explain(folder: Path, config: Config, repo_id: str, token: str | None, kind: str) -> None:
    import crawler
    from workspace import Workspace

    found = crawler.explain(Workspace(folder, config), repo_id, token=token)
    steps = [{**step, "passed": "yes" if step["passed"] else "no"} for step in found.to_arrow().to_pylist()]
    click.echo(render(steps, ["stage", "rule", "passed", "looks_for", "reason"], kind), nl=False)
    sentence = f": {printable(found.reason, 300)}" if found.reason else ""
    click.echo(f"\n{repo_id} is {found.status.value}{sentence}", err=kind != "table")


@click.command()
@workspace_option
@click.option("--limit", type=click.IntRange(min=1), help="Run at most this many models.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in a forward pass; chosen when not given.")
@click.option("--device", help="cpu, cuda, mps ...; the best there is when not given.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes; one per GPU.")
@click.option(
    "--fraction", type=click.FloatRange(0, 1, min_open=True), help="Share of the probes each model is run on."
)
@click.option("--probes-per-model", type=click.IntRange(min=1), help="The same, as a number of probes.")
@click.option("--core", type=click.IntRange(min=0), help="How many of those are the same for all models.")
@click.option(
    "--adaptive", is_flag=True, help="Choose that share by what 'complete' left; random where it has not run."
)
@click.option("--deadlines", help="Seconds a phase may take, with commas: fetch=600,load=300,forward=900")
@click.option("--precision", type=click.Choice(["auto", "float32"]), help="'auto' uses half precision where it agrees.")
@click.option("--models", help="Only these repositories, with commas.")
@click.option("--no-isolate", is_flag=True, help="Run models in this very process: a model's crash is then ours.")
@click.option("--keep", is_flag=True, help="Keep model files after probing.")
@click.option("--max-disk", type=click.FloatRange(0, min_open=True), help="GB that fetched files may take.")
@click.option("--retry", help="Statuses to try again, with commas: rate_limited,network_error")
@token_option
@endpoint_option
@quiet_option
@format_option
def probe(
    folder: Path,
    workers: int,
    retry: str | None,
    models: str | None,
    deadlines: str | None,
    no_isolate: bool,
    max_disk: float | None,
    token: str | None,
    endpoint: str | None,
    quiet: bool,
    kind: str,
    **options: Any,
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

    config = config_with_endpoint(folder, endpoint)
    workspace = Workspace(Workspace.open(folder).root, config)
    token = token_to_send(config, endpoint, token)
    if workers > 1:
        given = {
            **options,
            "retry": retry,
            "models": models,
            "deadlines": deadlines,
            "no_isolate": no_isolate,
            "max_disk": max_disk,
        }
        given |= {"format": kind, "quiet": quiet}
        # By the environment: a command line is seen by everyone. Without a token from us they look for none themselves.
        access = {"HF_ENDPOINT": config.endpoint, "HF_TOKEN": token}
        access["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "" if token else "1"
        launch.probe_with_workers(folder, workers, launch.as_arguments(given), **access)
        return
    settings = {name: value for name, value in options.items() if value is not None}
    settings |= {"retry": _listed(retry) or (), "models": _listed(models), "isolate": not no_isolate}
    settings["deadlines"] = _times(deadlines)
    settings["max_disk_bytes"] = None if max_disk is None else int(max_disk * 1e9)
    summary = front.probe(workspace, token=token, progress=not quiet, **settings)
    if launch.is_first_process():
        show_summary(summary, kind)


def _times(text: str | None) -> dict[str, float]:
    try:
        return {name.strip(): float(value) for name, _, value in (p.partition("=") for p in _listed(text) or ())}
    except ValueError as error:
        raise click.BadParameter(f"'{text}' is not like fetch=600,load=300", param_hint="--deadlines") from error


def _listed(text: str | None) -> tuple[str, ...] | None:
    return tuple(part.strip() for part in text.split(",") if part.strip()) if text else None


@click.command()
@workspace_option
@click.option(
    "--method",
    type=click.Choice(["em", "mean", "soft-impute", "anchors"]),
    default="em",
    show_default=True,
    help="How partial models are completed; all but em are baselines.",
)
@click.option("--rank", type=click.IntRange(min=1), help="Dimensions of the basis; chosen when not given.")
@click.option(
    "--ridge",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Multiple of the learned prior precision of the basis.",
)
@click.option("--iterations", type=click.IntRange(min=0), default=8, show_default=True, help="Passes of EM at most.")
@click.option("--device", default="", help="cpu, cuda ...; the best there is when not given.")
@click.option("--refit", is_flag=True, help="Fit anew although the gallery has hardly changed.")
@click.option("--dry-run", is_flag=True, help="Count what would be written, write nothing.")
@quiet_option
@format_option
def complete(folder: Path, dry_run: bool, quiet: bool, kind: str, **options: Any) -> None:
    """Turn responses into one descriptor per searchable logit; full responses pass through bit-equal.

    Models that were run on some probes are completed by factors fitted to the whole gallery.

    \b
    Examples:
      hubprobe complete --workspace my-index
      hubprobe complete --workspace my-index --rank 64 --iterations 4
    """
    import completion
    from workspace import Workspace

    settings = completion.Settings(**options)
    show_summary(completion.complete(Workspace.open(folder), settings, dry_run=dry_run, progress=not quiet), kind)
