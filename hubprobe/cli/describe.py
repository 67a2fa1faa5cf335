"""The verbs ``describe``, ``audit`` and ``evaluate``: what outputs recognise, and how good search is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hubprobe.cli.options import OutPath, format_option, quiet_option, workspace_option
from hubprobe.output import render


@click.command()
@workspace_option
@click.argument("repo_id")
@click.option("--sha", help="Commit of REPO_ID; the last indexed when not given.")
@click.option("--names", "count", type=click.IntRange(1, 8), default=3, show_default=True, help="Names per output.")
@quiet_option
@format_option
def describe(folder: Path, repo_id: str, sha: str | None, count: int, quiet: bool, kind: str) -> None:
    """Name every output of REPO_ID by what it recognises, whatever it is called.

    Names come from the labels of other models whose outputs answer alike ("labels"), else from the concept bank
    ("zero-shot"). The confidence is between 0 and 1.

    \b
    Example:
      hubprobe describe --workspace my-index pixel-garden/checkpoint-1200
    """
    from hubprobe import front

    rows = front.open(folder).describe(repo_id, sha=sha, count=count, progress=not quiet).to_pylist()
    click.echo(render(rows, ["logit", "label", "name", "confidence", "source", "others"], kind), nl=False)


@click.command()
@workspace_option
@click.option("--repo", "repo_id", help="One repository only; all when not given.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="How many outputs.")
@quiet_option
@format_option
def audit(folder: Path, repo_id: str | None, limit: int, quiet: bool, kind: str) -> None:
    """List outputs whose label, in words, disagrees with what they recognise; most doubtful first.

    \b
    Examples:
      hubprobe audit --workspace my-index
      hubprobe audit --workspace my-index --repo open-shelf/things-demo --format json
    """
    from hubprobe import front

    rows = front.open(folder).audit(repo_id=repo_id, limit=limit, progress=not quiet).to_pylist()
    columns = ["doubt", "repo_id", "logit", "label", "name", "confidence", "source"]
    click.echo(render(rows, columns if kind == "table" or not rows else list(rows[0]), kind), nl=False)
    if not rows:
        click.echo("no label disagrees with its output's behaviour", err=True)


@click.command()
@workspace_option
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="JSON (concepts with names, and the concept of every logit), or TREC qrels: concept 0 repo_id#logit 1.",
)
@click.option("--scoring", "scorings", multiple=True, help="Scoring to measure; may be repeated; all when not given.")
@click.option("--k", type=click.IntRange(min=1), help="Probes compared; each scoring's own when not given.")
@click.option("--trec", type=OutPath(folder=True), help="Also write TREC runs and qrels into this folder.")
@quiet_option
@format_option
def evaluate(
    folder: Path, truth: Path, scorings: tuple[str, ...], k: int | None, trec: Path | None, quiet: bool, kind: str
) -> None:
    """Measure text-to-logit and logit-to-logit accuracy where the truth is known.

    \b
    Examples:
      hubprobe evaluate --workspace demo-index --truth truth.json
      hubprobe evaluate --workspace my-index --truth my.qrels --scoring bridged --trec runs/
    """
    import search as room
    from search.evaluation import read_qrels, write_trec
    from workspace import Workspace

    try:
        text = truth.read_text(encoding="utf-8")
        known = read_qrels(text) if truth.suffix == ".qrels" else json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{truth} is not JSON: {error}; qrels end in .qrels") from error
    asked = scorings or tuple(sorted(room.SCORINGS))
    evaluation = room.evaluate(Workspace.open(folder), known, scorings=asked, k=k, progress=not quiet)
    rows = evaluation.rows()
    click.echo(render(rows, list(rows[0]), kind), nl=False)
    if trec is not None:
        files = write_trec(Workspace.open(folder), known, trec, scorings=asked, k=k)
        click.echo(f"{len(files)} files: {trec}", err=True)
