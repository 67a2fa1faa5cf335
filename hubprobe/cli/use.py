"""What comes after a search: ``use``, ``compare``, and ``concepts``, a list of what there is to be found."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from hubprobe.cli.options import HITS, format_option, opened, sha_option, show, show_one, workspace_option
from hubprobe.output import size, without_pandas


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
