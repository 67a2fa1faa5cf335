"""What comes after a search: ``use``, how a model is called; and ``concepts``, what there is to be found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from hubprobe.cli.options import format_option, workspace_option
from hubprobe.output import render, without_pandas


@click.command()
@workspace_option
@click.argument("repo_id")
@click.argument("logit", type=click.IntRange(min=0), required=False)
@click.option("--sha", help="Commit of REPO_ID; the last indexed when not given.")
@click.option("--names/--no-names", default=True, help="Say what the output recognises by its behaviour.")
@format_option
def use(folder: Path, repo_id: str, logit: int | None, sha: str | None, names: bool, kind: str) -> None:
    """Print the code that runs a model, or one output of it, on an image: pinned, and as the prober ran it.

    The code goes to stdout, what it means and what is odd about the model to stderr.

    \b
    Examples:
      hubprobe use --workspace my-index timm/tf_efficientnet_lite0.in1k
      hubprobe use --workspace my-index timm/tf_efficientnet_lite0.in1k 281 > use.py
    """
    from hubprobe import front
    from hubprobe.usage import use as use_

    without_pandas()
    found = use_(front.open(folder), repo_id, logit, sha=sha, name=names)
    if kind != "table":
        values = asdict(found)
        click.echo(render([values], list(values), kind), nl=False)
        return
    click.echo(found.code, nl=False)
    for line in (*found.meaning, *(f"note: {quirk}" for quirk in found.quirks)):
        click.echo(line, err=True)
    asked = "; its files have to be asked for on its page first" if found.gated else ""
    click.echo(f"licence: {found.license or 'none is named'}{asked}. Needs: {found.install}", err=True)


@click.command()
@workspace_option
@click.option("--kind", "group", help="Only animals, food, vehicles ...: one of the bank's groups.")
@click.option("--missing", is_flag=True, help="Only what no model answers.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many rows.")
@format_option
def concepts(folder: Path, group: str | None, missing: bool, limit: int, kind: str) -> None:
    """List the concepts of the bank with how many models answer each, and which output does best.

    \b
    Examples:
      hubprobe concepts --workspace my-index
      hubprobe concepts --workspace my-index --kind animal --missing
    """
    from hubprobe import front

    without_pandas()
    table = front.concepts(folder, kind=group, missing=missing)
    rows = table.slice(0, limit).to_pylist()
    columns = ["concept", "kind", "models", "covered", "probability", "repo_id", "logit", "label", "score"]
    click.echo(render(rows, columns if kind == "table" else table.column_names, kind), nl=False)
    shown = f"{len(rows)} of {table.num_rows} shown; " if table.num_rows > len(rows) else ""
    answered = sum(n > 0 for n in table.column("models").to_pylist())
    click.echo(f"{shown}{answered} of {table.num_rows} are answered by at least one model", err=True)
