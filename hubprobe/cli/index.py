"""The verb ``index``, and ``index info``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hubprobe.cli.options import (
    ChosenHub,
    Group,
    format_option,
    hub_options,
    output_options,
    show_summary,
    workspace_option,
)
from hubprobe.output import render


@click.group(cls=Group, invoke_without_command=True)
@workspace_option
@click.option(
    "--encoder",
    help="Encoder for text queries: clip:OWNER/NAME, captions:OWNER/NAME, or none; else the configuration's.",
)
@click.option("--rebuild", is_flag=True, help="Read every descriptor again, not only new ones.")
@click.option("--verify", is_flag=True, help="Compare every byte of the index with its checksums; build nothing.")
@hub_options
@output_options
@click.pass_context
def index(
    context: click.Context,
    hub: ChosenHub,
    encoder: str | None,
    rebuild: bool,
    verify: bool,
    quiet: bool,
    kind: str,
) -> None:
    """Build the search index from the descriptors; readers keep the old one until the new one is whole.

    \b
    Examples:
      hubprobe index --workspace my-index
      hubprobe index --workspace my-index --verify
      hubprobe index info --workspace my-index
    """
    if context.invoked_subcommand is not None:
        return
    import search

    workspace = hub.workspace()
    if verify:
        compared = search.verify(workspace)
        click.echo(render([compared], list(compared), kind), nl=False)
        return
    show_summary(search.index(workspace, encoder=encoder, token=hub.token, rebuild=rebuild, progress=not quiet), kind)


@index.command("info")
@workspace_option
@format_option
def info(folder: Path, kind: str) -> None:
    """Say what the index holds: sizes, versions, encoder, memory, recall of what is approximate.

    \b
    Example:
      hubprobe index info --workspace my-index
    """
    from hubprobe import front

    values = front.open(folder).info()
    if kind == "json":
        click.echo(render([values], list(values), kind), nl=False)
        return
    rows = [{"what": name, "value": json.dumps(v) if isinstance(v, dict) else v} for name, v in values.items()]
    click.echo(render(rows, ["what", "value"], kind, width=140), nl=False)
