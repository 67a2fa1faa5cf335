"""What comes after a search: ``use``, ``compare``, and ``concepts``, a list of what there is to be found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import format_option, opened, workspace_option
from hubprobe.output import render, size, without_pandas


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
    from hubprobe.usage import use as use_

    found = use_(opened(folder, "use"), repo_id, logit, sha=sha, name=names)
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
@click.argument("models", nargs=-1, required=True)
@click.option(
    "--limit", type=click.IntRange(0, 10_000), default=10, show_default=True, help="Outputs and probes shown."
)
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
        values = asdict(found)
        click.echo(render([values], list(values), kind), nl=False)
        return
    if kind == "csv":
        click.echo(render(found.models, list(found.models[0]), kind), nl=False)
        return
    names = [row["repo_id"] for row in found.models]
    facts = [{"": fact, **{n: _fact(fact, row) for n, row in zip(names, found.models, strict=True)}} for fact in _SHOWN]
    click.echo(render(facts, ["", *names]))
    pairs = [pair | {"a": names[pair["a"]], "b": names[pair["b"]]} for pair in found.pairs]
    click.echo(render(pairs, ["a", "b", "same", "similarity", "probes", "agreement"]))
    rows = []
    for row in found.outputs:
        matches = {name: match for name, match in zip(names[1:], row["matches"], strict=True) if match}
        if matches:
            rows.append({"logit": row["logit"], names[0]: row["label"]} | {n: _match(m) for n, m in matches.items()})
    click.echo(render(rows[:limit], ["logit", *names]))
    unlike = [
        {"probe": r["probe_id"]}
        | {names[r[s]]: f"{r[f'{s}_label'] or r[f'{s}_logit']} (+{r[f'{s}_z']:.1f})" for s in "ab"}
        for r in found.differences
    ]
    click.echo(render(unlike, ["probe", *names]), nl=False)
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
