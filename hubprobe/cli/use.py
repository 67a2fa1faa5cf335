"""The verb ``use``: how a model that was found is called."""

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
