"""The verb ``pick``: the best model for one's own images."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import (
    POSITIVE,
    ChosenHub,
    hub_options,
    local_offline,
    output_options,
    show,
    where_option,
    workspace_option,
)  # fmt: skip
from hubprobe.output import size
from workspace.text import printable

COLUMNS = ("rank", "repo_id", "accuracy", "interval", "basis", "agreement", "images_s", "memory", "license")


@click.command()
@workspace_option
@click.argument("concepts", nargs=-1)
@click.option(
    "--images", required=True, help="Folder of images (or a folder for each class), Parquet file or data set."
)
@click.option("--labels", type=click.Path(path_type=Path, dir_okay=False, exists=True), help="CSV with path and label.")
@click.option("--budget", type=click.IntRange(0, 10_000), default=0, help="Labels to ask you for.")
@click.option("--candidates", type=click.IntRange(1, 2_000), default=20, help="Models to try.")
@click.option("--models", help="Repositories to try, comma-separated, in place of a search.")
@where_option
@click.option("--max-images", type=click.IntRange(2, 1_000_000), default=1_000, help="Images used.")
@click.option("--seed", type=int, default=0, help="Of the sample of images.")
@click.option("--name", help="Folder below picks/; made of the question when not given.")
@click.option("--device", help="cpu, cuda ...; what there is when not given.")
@click.option("--max-disk", type=POSITIVE, help="GB that fetched files may take.")
@click.option("--keep", is_flag=True, help="Keep models' files.")
@hub_options
@output_options
def pick(
    hub: ChosenHub, concepts: tuple[str, ...], images: str, budget: int, models: str | None, max_disk: float | None,
    quiet: bool, kind: str, **options: Any,
) -> None:  # fmt: skip
    """Pick the best model for your own images; they stay on this machine.

    Candidates that may know the CONCEPTS are found by search, run on your images, and ranked by what they get right
    where labels are, by what the models say together where not ("estimated"). A folder for each class, or a CSV, gives
    labels; --budget 25 asks you for up to 25.

    \b
    Examples:
      hubprobe pick dog cat --images photos/ --workspace my-index
      hubprobe pick --images photos-by-class/ --workspace my-index --where "license = 'apache-2.0'"
      hubprobe pick dog cat --images photos/ --budget 25 --candidates 200 --workspace my-index
    """
    local_offline()
    from hubprobe.pick import pick as pick_
    from hubprobe.sync import fresh

    interactive = sys.stdin.isatty()
    if budget and not interactive:
        click.echo("no terminal to ask for labels in: --budget is left aside", err=True)
    options |= {"ask": _ask if budget and interactive else None, "token": hub.token, "progress": not quiet}
    options |= {"models": tuple(m.strip() for m in (models or "").split(",") if m.strip()), "budget": budget}
    options["max_disk_bytes"] = max_disk and int(max_disk * 1e9)
    found = pick_(fresh(hub.workspace(), "pick"), images, concepts, **options)
    if kind == "table":
        rows = [
            row
            | {
                "interval": f"{row['low']:.2f} to {row['high']:.2f}",
                "images_s": row["images_per_second"],
                "memory": size(row["peak_memory_bytes"]) if row["peak_memory_bytes"] else None,
            }
            for row in found.models
        ]
        show(rows, COLUMNS)
    else:
        show(found.models, list(found.models[0]), kind)
    for note in found.notes:
        click.echo(note, err=True)
    for row in found.failed:
        click.echo(
            f"not run: {printable(row['repo_id'], 100)}: {row['status']}, {printable(row['reason'], 200)}", err=True
        )
    click.echo(
        f"{found.images} images, {found.labelled} with a label ({found.asked} asked now); the first is the best with "
        f"probability {found.sure:.2f}. Kept in {found.folder}: models.parquet, images.parquet, disagreements.png",
        err=True,
    )


def _ask(source: str, encoded: bytes, concepts: Sequence[str]) -> int | None:
    """Ask in the terminal what an image shows; the image lies in a temporary file for whoever wants to open it."""
    from hubprobe.pick.images import FOREIGN

    handle, path = tempfile.mkstemp(suffix=".image", prefix="hubprobe-pick-")
    with os.fdopen(handle, "wb") as file:
        file.write(encoded)
    try:
        click.echo(f"\n{printable(source, 200)}\n  ({path})", err=True)
        click.echo(
            "  ".join(f"{i + 1} {printable(c, 40)}" for i, c in enumerate(concepts)) + "  0 none of these  q enough",
            err=True,
        )
        while True:
            said = click.prompt("what does it show", err=True).strip().lower()
            if said in ("q", "quit"):
                return None
            if said.isdigit() and 0 <= int(said) <= len(concepts):
                return FOREIGN if said == "0" else int(said) - 1
            click.echo(f"a number from 0 to {len(concepts)}, or q", err=True)
    finally:
        Path(path).unlink(missing_ok=True)
