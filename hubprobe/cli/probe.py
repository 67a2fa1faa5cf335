"""The verbs ``probes``, ``probe`` and ``complete``: from images and models to descriptors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import (
    ChosenHub,
    Group,
    hub_options,
    local_offline,
    output_options,
    show_summary,
    workspace_option,
)


@click.group(cls=Group)
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
@hub_options
@output_options
def build(
    hub: ChosenHub,
    source: str | None,
    n: int | None,
    seed: int | None,
    split: str | None,
    dry_run: bool,
    quiet: bool,
    kind: str,
    **columns: str | None,
) -> None:
    """Sample the probe images, refuse duplicates, bombs and broken files, and write the probe set.

    \b
    Examples:
      hubprobe probes build --workspace my-index --from ./images --n 4000 --seed 0
      hubprobe probes build --workspace my-index --from lmms-lab/COCO-Caption2017 --split val
    """
    from probing import probes as probe_images
    from workspace import Workspace

    workspace = Workspace(hub.folder, hub.config) if dry_run else Workspace.create(hub.folder, hub.config)
    settings = workspace.config.probes
    summary = probe_images.build(
        workspace,
        source or settings.source,
        n=n or settings.n,
        seed=settings.seed if seed is None else seed,
        split=split or (settings.split if source is None else "train"),
        token=hub.token,
        dry_run=dry_run,
        progress=not quiet,
        **columns,
    )
    show_summary(summary, kind)


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
@hub_options
@output_options
def probe(
    hub: ChosenHub,
    workers: int,
    retry: str | None,
    models: str | None,
    deadlines: str | None,
    no_isolate: bool,
    max_disk: float | None,
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

    workspace = hub.workspace()
    if workers > 1:
        given = {**options, "retry": retry, "models": models, "deadlines": deadlines, "no_isolate": no_isolate}
        given |= {"max_disk": max_disk, "format": kind, "quiet": quiet}
        # By the environment: a command line is seen by everyone. Without a token from us they look for none themselves.
        access = {"HF_ENDPOINT": hub.config.endpoint, "HF_TOKEN": hub.token}
        access["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "" if hub.token else "1"
        launch.probe_with_workers(hub.folder, workers, launch.as_arguments(given), **access)
        return
    settings = {name: value for name, value in options.items() if value is not None}
    settings |= {"retry": _listed(retry) or (), "models": _listed(models), "isolate": not no_isolate}
    settings["deadlines"] = _times(deadlines)
    settings["max_disk_bytes"] = None if max_disk is None else int(max_disk * 1e9)
    summary = front.probe(workspace, token=hub.token, progress=not quiet, **settings)
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
@output_options
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
