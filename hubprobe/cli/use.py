"""What comes after a search: ``use``, ``pick``, ``compare``, and ``concepts``, a list of what there is to be found."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import (
    HITS,
    POSITIVE,
    ChosenHub,
    format_option,
    hub_options,
    local_offline,
    opened,
    output_options,
    sha_option,
    show,
    show_one,
    where_option,
    workspace_option,
)  # fmt: skip
from hubprobe.output import size, without_pandas
from workspace.text import printable


@click.command()
@workspace_option
@click.argument("repo_id")
@click.argument("logit", type=click.IntRange(min=0), required=False)
@sha_option
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
    from hubprobe.usage import use as use_

    found = use_(opened(folder, "use"), repo_id, logit, sha=sha, name=names)
    if kind != "table":
        show_one(asdict(found), kind)
        return
    click.echo(found.code, nl=False)
    for line in (*found.meaning, *(f"note: {quirk}" for quirk in found.quirks)):
        click.echo(line, err=True)
    asked = "; its files have to be asked for on its page first" if found.gated else ""
    click.echo(f"licence: {found.license or 'none is named'}{asked}. Needs: {found.install}", err=True)


@click.command()
@workspace_option
@click.argument("models", nargs=-1, required=True)
@click.option("--limit", type=click.IntRange(0, 10_000), default=10, help="Outputs and probes shown.")
@format_option
def compare(folder: Path, models: tuple[str, ...], limit: int, kind: str) -> None:
    """Put models side by side: what is known of them, outputs that recognise the same, probes on which they disagree.

    \b
    Examples:
      hubprobe compare --workspace my-index OWNER/MODEL OTHER/MODEL
      hubprobe compare --workspace my-index OWNER/MODEL OTHER/MODEL THIRD/MODEL --format json > compared.json
    """
    from hubprobe.comparison import compare as compare_

    found = compare_(opened(folder, "compare"), models, limit=limit if kind == "table" else 10_000)
    if kind == "json":
        show_one(asdict(found), kind)
        return
    if kind == "csv":
        show(found.models, list(found.models[0]), kind)
        return
    names = [row["repo_id"] for row in found.models]
    facts = [{"": fact, **{n: _fact(fact, row) for n, row in zip(names, found.models, strict=True)}} for fact in _SHOWN]
    show(facts, ["", *names])
    click.echo()
    pairs = [pair | {"a": names[pair["a"]], "b": names[pair["b"]]} for pair in found.pairs]
    show(pairs, ["a", "b", "same", "similarity", "probes", "agreement"])
    click.echo()
    rows = []
    for row in found.outputs:
        matches = {name: match for name, match in zip(names[1:], row["matches"], strict=True) if match}
        if matches:
            rows.append({"logit": row["logit"], names[0]: row["label"]} | {n: _match(m) for n, m in matches.items()})
    show(rows[:limit], ["logit", *names])
    click.echo()
    unlike = [
        {"probe": r["probe_id"]}
        | {names[r[s]]: f"{r[f'{s}_label'] or r[f'{s}_logit']} (+{r[f'{s}_z']:.1f})" for s in "ab"}
        for r in found.differences
    ]
    show(unlike, ["probe", *names])
    said = f"{len(rows[:limit])} of {len(rows)} outputs of the first model that have a match are shown"
    click.echo(
        "same: outputs that recognise the same in both; agreement: on the probes that one of these answers.\n"
        f"{said}; probes are those on which two models are surest and disagree, in standard deviations",
        err=True,
    )


_SHOWN = (
    "sha", "architecture", "license", "downloads", "parameters", "weights_bytes", "num_logits", "label_quality",
    "images_per_second", "peak_memory_bytes", "device", "estimated_accuracy", "reported_accuracy", "reported_on",
    "reported_by", "picked",
)  # fmt: skip


def _match(match: dict[str, Any]) -> str:
    return f"{match['logit']} {match['label'] or ''} ({match['similarity']:.2f})"


def _fact(name: str, row: dict[str, Any]) -> Any:
    value = row.get(name)
    if name == "picked":
        picks = row["picked"]
        return ", ".join(f"{p['accuracy']:.2f} {p['basis']} ({'/'.join(p['concepts'][:3])})" for p in picks) or None
    return size(value) if name.endswith("_bytes") and value is not None else value


@click.command()
@workspace_option
@click.option("--kind", "group", help="Only animals, food, vehicles ...: one of the bank's groups.")
@click.option("--missing", is_flag=True, help="Only what no model answers.")
@click.option("--limit", type=HITS, default=50, help="How many rows.")
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
    show(rows, columns if kind == "table" else table.column_names, kind)
    shown = f"{len(rows)} of {table.num_rows} shown; " if table.num_rows > len(rows) else ""
    answered = sum(n > 0 for n in table.column("models").to_pylist())
    click.echo(f"{shown}{answered} of {table.num_rows} are answered by at least one model", err=True)


_PICKED = ("rank", "repo_id", "accuracy", "interval", "basis", "agreement", "images_s", "memory", "license")


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
        show(rows, _PICKED)
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
