"""``run`` and its steps: ``crawl``, ``probes``, ``probe``, ``complete``; ``status``, ``doctor`` and ``demo``."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubprobe.cli.options import (
    COUNT,
    POSITIVE,
    ChosenHub,
    Group,
    OutPath,
    as_done,
    endpoint_option,
    format_option,
    hub_options,
    local_offline,
    output_options,
    shard_option,
    show,
    show_one,
    show_summary,
    token_option,
    workspace_option,
)  # fmt: skip
from hubprobe.output import without_pandas
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.doctor.check import Check
    from workspace import Config


@click.command()
@workspace_option
@click.option("--limit", type=COUNT, help="List at most this many repositories.")
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
    show(steps, ["stage", "rule", "passed", "looks_for", "reason"], kind)
    sentence = f": {printable(decision.reason, 300)}" if decision.reason else ""
    click.echo(f"\n{repo_id} is {decision.status.value}{sentence}", err=kind != "table")


def show_crawl(folder: Path, config: Config, options: dict[str, Any], kind: str) -> None:
    """Crawl, or dry-run, and print the summary; a dry run leaves no folder behind."""
    import hubprobe
    from workspace import Workspace
    from workspace.endpoint import is_loopback

    if not os.environ.get("HUBPROBE_CONTACT") and not is_loopback(config.endpoint):
        click.echo("please set HUBPROBE_CONTACT, so that the Hub can tell you when your crawl is a burden", err=True)
    workspace = Workspace(folder, config) if options.get("dry_run") else Workspace.create(folder, config)
    show_summary(hubprobe.crawl(workspace, **options), kind)


@click.group(cls=Group)
def probes() -> None:
    """Build the fixed set of images that every model is run on."""


@probes.command("build")
@workspace_option
@click.option("--from", "source", help="Folder of images, Parquet file, or dataset name; else the configuration's.")
@click.option("--n", type=click.IntRange(min=2), help="How many images; 4,000 by default, as published.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the order in which images are read.")
@click.option(
    "--cover/--sample",
    default=None,
    help="Choose images that show most concepts, as the encoder sees them, or at random; the former if it can.",
)
@click.option("--pool", type=click.IntRange(min=2), help="Images to choose from; ten times --n by default.")
@click.option("--licences", help="Only images under these, with commas; patterns: cc0*,cc-by-[0-9]*,pdm*")
@click.option("--split", help="Split of the dataset; 'train' when --from is given without it.")
@click.option("--image-column", help="Column that holds the images; found by its type when not given.")
@click.option("--caption-column", help="Column that holds captions; 'caption', 'text' ... when not given.")
@click.option("--dry-run", is_flag=True, help="Say what would be built, write nothing.")
@hub_options
@output_options
def build(hub: ChosenHub, source: str | None, quiet: bool, kind: str, **options: Any) -> None:
    """Choose the probe images, refuse duplicates, bombs and broken files, and write the probe set.

    \b
    Examples:
      hubprobe probes build --workspace my-index --from ./images --n 4000 --seed 0
      hubprobe probes build --workspace my-index --from lmms-lab/COCO-Caption2017 --split val --sample
      hubprobe probes build --workspace my-index --from OWNER/PHOTOS --pool 1000000 --licences "cc0*,cc-by-[0-9]*"
    """
    from hubprobe import front
    from workspace import Workspace

    local_offline()
    workspace = Workspace(hub.folder, hub.config) if options["dry_run"] else Workspace.create(hub.folder, hub.config)
    settings = workspace.config.probes
    for name, default in (("n", settings.n), ("seed", settings.seed), ("split", "train" if source else settings.split)):
        options[name] = default if options[name] is None else options[name]
    options |= {"licences": _listed(options["licences"]) or (), "token": hub.token, "progress": not quiet}
    show_summary(front.build_probes(workspace, source or settings.source, **options), kind)


@click.command()
@workspace_option
@click.option("--limit", type=COUNT, help="Run at most this many models.")
@click.option("--batch-size", type=COUNT, help="Images in a forward pass; chosen when not given.")
@click.option("--device", help="cpu, cuda, mps ...; the best there is when not given.")
@click.option("--workers", type=COUNT, help="Processes, one per GPU: 1, or as many as a cluster takes.")
@click.option(
    "--engine",
    type=click.Choice(["accelerate", "ray"]),
    default="accelerate",
    help="What starts them: on this machine, or on a Ray cluster.",
)
@click.option("--address", default="auto", help="Of the Ray cluster; 'local' for this machine alone.")
@click.option("--cpus", type=POSITIVE, help="Cores of a process in a Ray cluster.")
@click.option("--gpus", type=click.FloatRange(0), help="GPUs of a process in a Ray cluster: 1 where there are any.")
@click.option(
    "--fraction", type=click.FloatRange(0, 1, min_open=True), help="Share of the probes each model is run on."
)
@click.option("--probes-per-model", type=COUNT, help="The same, as a number of probes.")
@click.option("--core", type=click.IntRange(min=0), help="How many of those are the same for all models.")
@click.option(
    "--adaptive", is_flag=True, help="Choose that share by what 'complete' left; random where it has not run."
)
@click.option("--deadlines", help="Seconds a phase may take, with commas: fetch=600,load=300,forward=900")
@click.option("--precision", type=click.Choice(["auto", "float32"]), help="'auto' uses half precision where it agrees.")
@click.option("--models", help="Only these repositories, with commas.")
@click.option("--no-isolate", is_flag=True, help="Run models in this very process: a model's crash is then ours.")
@click.option("--keep", is_flag=True, help="Keep model files after probing.")
@click.option("--max-disk", type=POSITIVE, help="GB that fetched files may take.")
@click.option("--retry", help="Statuses to try again, with commas: rate_limited,network_error")
@shard_option
@hub_options
@output_options
def probe(hub: ChosenHub, workers: int | None, engine: str, quiet: bool, kind: str, **options: Any) -> None:
    """Run every eligible model that was not run yet; what is committed is never run again.

    \b
    Examples:
      hubprobe probe --workspace my-index
      hubprobe probe --workspace my-index --workers 8
      accelerate launch --multi_gpu --num_processes 8 -m hubprobe probe --workspace my-index
      hubprobe probe --workspace /shared/my-index --shard 2/8
      hubprobe probe --workspace /shared/my-index --engine ray --address auto
    """
    local_offline()
    from hubprobe import front, machine

    workspace = hub.workspace()
    cluster = {name: options.pop(name) for name in ("address", "cpus", "gpus")}
    if engine != "ray" and cluster != {"address": "auto", "cpus": None, "gpus": None}:
        raise click.UsageError("--address, --cpus and --gpus are for --engine ray")
    if engine == "ray" and options["no_isolate"]:
        raise click.UsageError("--no-isolate is for this very process: Ray's have a child each")
    if engine == "accelerate" and (workers or 1) > 1:
        given = machine.as_arguments({**options, "format": kind, "quiet": quiet})
        # By the environment: a command line is seen by everyone. Without a token from us they look for none themselves.
        access = {"HF_ENDPOINT": hub.config.endpoint, "HF_TOKEN": hub.token}
        access["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "" if hub.token else "1"
        machine.probe_with_workers(hub.folder, workers or 1, given, **access)
        return
    max_disk: float | None = options.pop("max_disk")
    settings: dict[str, Any] = {"isolate": not options.pop("no_isolate"), "token": hub.token, "progress": not quiet}
    settings |= {"retry": _listed(options.pop("retry")) or (), "models": _listed(options.pop("models"))}
    settings |= {"deadlines": _times(options.pop("deadlines")), "max_disk_bytes": max_disk and int(max_disk * 1e9)}
    if engine == "ray":
        settings["ray"] = {"workers": workers, **cluster}
    summary = front.probe(workspace, **settings, **{n: value for n, value in options.items() if value is not None})
    if machine.is_first_process():
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
    help="How partial models are completed; all but em are baselines.",
)
@click.option("--rank", type=COUNT, help="Dimensions of the basis; chosen when not given.")
@click.option("--ridge", type=POSITIVE, default=1.0, help="Multiple of the learned prior precision of the basis.")
@click.option("--iterations", type=click.IntRange(min=0), default=8, help="Passes of EM at most.")
@click.option("--device", default="", show_default=False, help="cpu, cuda ...; the best there is when not given.")
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
    import hubprobe

    without_pandas()
    settings = completion.Settings(**options)
    show_summary(hubprobe.complete(folder, settings, dry_run=dry_run, progress=not quiet), kind)


@click.command()
@workspace_option
@click.option("--remote", help="Address of the remote: s3://bucket/name, gs://, az://, hf://, file://.")
@click.option("--dry-run", is_flag=True, help="Count what would be copied, copy nothing.")
@output_options
def sync(folder: Path, remote: str | None, dry_run: bool, quiet: bool, kind: str) -> None:
    """Pull what is new in the workspace's remote, and push what was committed here.

    The verbs do so by themselves for what they read and write. A new folder becomes a workspace with the remote's
    settings. Credentials are found where the tools of each store look for them, such as AWS_ACCESS_KEY_ID.

    \b
    Examples:
      hubprobe sync --workspace my-index --remote s3://bucket/hub --dry-run
      hubprobe sync --workspace my-index --remote s3://bucket/hub
    """
    from hubprobe.sync import sync as run_sync

    show_summary(run_sync(folder, remote=remote, dry_run=dry_run, progress=not quiet), kind)


@click.command()
@workspace_option
@click.option("--plot", type=OutPath(), help="Also draw it: PNG, SVG or PDF.")
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

    without_pandas()
    report = count(folder)
    if plot is not None:
        from hubprobe.plots import funnel

        funnel(report, plot)
        click.echo(f"plot: {plot}", err=True)
    if kind == "json":
        show_one(asdict(report), kind)
        return
    show(report.by_status, ["outcome", "status", "repositories", "meaning"], kind, width=80)
    if kind == "table":
        click.echo(
            f"\n{report.listed} listed, {report.eligible} eligible; {report.attempted} attempted = {report.ok} ok + "
            f"{report.skipped} skipped + {report.failed} failed; {report.waiting} waiting; "
            f"{report.logits} searchable logits"
            + (f"; the weights of {report.converted} from a conversion's pull request" if report.converted else "")
        )


@click.command()
@workspace_option
@click.option("--limit", type=COUNT, help="List at most this many repositories.")
@click.option("--probes-from", help="Folder or dataset of probe images, when the workspace has none yet.")
@click.option("--dry-run", is_flag=True, help="Look, list and decide, print what would be done, write nothing.")
@shard_option
@hub_options
@output_options
def run(hub: ChosenHub, limit: int | None, dry_run: bool, quiet: bool, kind: str, **more: Any) -> None:
    """Crawl, probe, complete and index; run it again to go on or to bring the index up to date.

    First it looks at what it needs: the Hub, the encoder, the probe images, the disk; see 'hubprobe doctor'.

    \b
    Examples:
      hubprobe run --workspace my-index --limit 50
      hubprobe run --workspace my-index --probes-from ./my-images --limit 200
      hubprobe run --workspace /shared/my-index --shard 2/8     # crawled before; the last job completes and indexes
    """
    from hubprobe import front
    from workspace import Workspace

    wanted: dict[str, Any] = {"limit": limit, "token": hub.token}
    if dry_run:
        _dry_run(hub, wanted, more["probes_from"], quiet, kind)
        return

    def tell(check: Check) -> None:
        if not quiet and check.state != "fail":  # what fails is said in the end, with what to do
            show_check(check, err=True)

    wanted["probes_from"] = more["probes_from"]
    front.require_ready(Workspace(hub.folder, hub.config), **wanted, tell=tell)
    workspace = Workspace.create(hub.folder, hub.config)
    summary = front.run(workspace, **wanted | more, progress=not quiet, check=False)
    report = front.status(workspace)
    if kind == "json":
        steps = {name: None if step is None else as_done(step) for name, step in vars(summary).items()}
        show_one({**steps, "status": asdict(report)}, "json")
    else:
        show(report.by_status, ["outcome", "status", "repositories", "meaning"], kind, width=80)
    if summary.index is None:
        click.echo(
            f"\n{report.waiting} models are still with other jobs: the last to end completes and indexes", err=True
        )
    else:
        click.echo(f'\nnext: hubprobe search --workspace {hub.folder} "dog"', err=True)


def _dry_run(hub: ChosenHub, wanted: dict[str, Any], probes_from: str | None, quiet: bool, kind: str) -> None:
    """Show every check, and what a crawl would cost; exit code 1 when a check fails."""
    from hubprobe import front
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
@click.option("-w", "--workspace", "folder", type=click.Path(path_type=Path, file_okay=False), default="demo-index",
              help="Folder of the demo's workspace; made when missing.")  # fmt: skip
@click.option("--workers", type=click.IntRange(1, 64), default=1, help="Processes that probe.")
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


_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


def show_check(check: Check, *, err: bool = False) -> None:
    """Print a check as a line, and what to do below it."""
    state = click.style(f"{check.state:<4}", fg=_COLOURS[check.state])
    click.echo(f"{state}  {check.check}: {check.found}", err=err)
    if check.advice:
        click.echo(f"        → {check.advice}", err=err)


@click.command()
@workspace_option
@click.option("--offline", is_flag=True, help="Leave out what asks the Hub.")
@token_option
@endpoint_option
@format_option
def doctor(folder: Path, offline: bool, token: str | None, endpoint: str | None, kind: str) -> None:
    """Check device, libraries, disks, Hub, token and workspace, and say what to mend.

    Exit code 0 when nothing fails, warnings or not; 1 otherwise. Nothing is written, and the token is not shown.

    \b
    Examples:
      hubprobe doctor
      hubprobe doctor --workspace my-index
      hubprobe doctor --offline --format json
    """
    from hubprobe.doctor import examine

    found = []
    for check in examine(folder, endpoint=endpoint, token=token, offline=offline):
        found.append(check)
        if kind == "table":  # as they come: a Hub that does not answer takes a while
            show_check(check)
    states = [check.state for check in found]
    if kind == "table":
        counts = f"{len(found)} checks: {states.count('ok')} ok, {states.count('warn')} to know of"
        click.echo(f"\n{counts}, {states.count('fail')} to mend")
    else:
        show([asdict(check) for check in found], ["check", "state", "found", "advice"], kind)
    if "fail" in states:
        raise click.exceptions.Exit(1)
