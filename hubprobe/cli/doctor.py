"""The verb ``doctor``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubprobe.cli.options import endpoint_option, format_option, token_option, workspace_option
from hubprobe.output import render

if TYPE_CHECKING:
    from hubprobe.doctor.check import Check

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
        click.echo(render([asdict(check) for check in found], ["check", "state", "found", "advice"], kind), nl=False)
    if "fail" in states:
        raise click.exceptions.Exit(1)
