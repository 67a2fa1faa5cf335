"""The verbs that find: ``index``, ``search``, ``similar``, ``sql`` and ``evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubprobe.cli.gather import show_summary
from hubprobe.cli.options import (
    config_with_endpoint,
    endpoint_option,
    format_option,
    quiet_option,
    token_option,
    workspace_option,
)
from hubprobe.output import render

if TYPE_CHECKING:
    from search import Index, Query

HIT_COLUMNS = ("rank", "repo_id", "logit", "label", "score")


@click.command()
@workspace_option
@click.option("--encoder", help="Image-text model for text queries: clip:OWNER/NAME; else the configuration's.")
@token_option
@endpoint_option
@quiet_option
@format_option
def index(folder: Path, encoder: str | None, token: str | None, endpoint: str | None, quiet: bool, kind: str) -> None:
    """Build the search index from the descriptors; readers keep the old one until the new one is whole.

    \b
    Example:
      hubprobe index --workspace my-index
    """
    import search
    from workspace import Workspace

    workspace = Workspace(Workspace.open(folder).root, config_with_endpoint(folder, endpoint))
    show_summary(search.index(workspace, encoder=encoder, token=token, progress=not quiet), kind)


@click.command()
@workspace_option
@click.argument("text", required=False)
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), help="Search by an example image instead.")
@click.option("--where", help="SQL condition on the metadata, e.g. \"downloads > 1000 and license = 'mit'\"")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many hits.")
@click.option("--by", type=click.Choice(["logit", "model"]), default="logit", show_default=True, help="What a hit is.")
@click.option("--k", type=click.IntRange(min=1), help="Probes compared: the query's strongest.")
@click.option("--scoring", help="probelog, or full (all probes); else the configuration's.")
@click.option("--evidence", type=click.Path(path_type=Path, dir_okay=False), help="Write a contact sheet (PNG).")
@format_option
def search(
    folder: Path,
    text: str | None,
    image: Path | None,
    where: str | None,
    limit: int,
    by: str,
    k: int | None,
    scoring: str | None,
    evidence: Path | None,
    kind: str,
) -> None:
    """Find logits by a concept's name, or by an example image.

    \b
    Examples:
      hubprobe search --workspace my-index "dog"
      hubprobe search --workspace my-index "dog" --where "downloads > 1000" --evidence dog.png
      hubprobe search --workspace my-index --image cat.jpg --by model
    """
    from hubprobe import front

    asked = text if text is not None else image
    if asked is None or (text is not None and image is not None):
        raise click.UsageError("give a text or --image, one of the two")
    found = front.open(folder)
    query = found.search(asked, k=k, scoring=scoring)
    _show_hits(found, query, where=where, limit=limit, by=by, evidence=evidence, kind=kind)


@click.command()
@workspace_option
@click.argument("repo_id")
@click.argument("logit", type=click.IntRange(min=0))
@click.option("--where", help="SQL condition on the metadata.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=10, show_default=True, help="How many hits.")
@click.option("--evidence", type=click.Path(path_type=Path, dir_okay=False), help="Write a contact sheet (PNG).")
@format_option
def similar(
    folder: Path, repo_id: str, logit: int, where: str | None, limit: int, evidence: Path | None, kind: str
) -> None:
    """Find logits of other models that respond like logit LOGIT of REPO_ID.

    \b
    Example:
      hubprobe similar --workspace my-index timm/tf_efficientnet_lite0.in1k 281
    """
    from hubprobe import front

    found = front.open(folder)
    query = found.similar(repo_id, logit)
    _show_hits(found, query, where=where, limit=limit, by="logit", evidence=evidence, kind=kind)


def _show_hits(
    found: Index, query: Query, *, where: str | None, limit: int, by: str, evidence: Path | None, kind: str
) -> None:
    if where:
        query = query.where(where)
    hits = query.by("model" if by == "model" else "logit").limit(limit).to_dicts()
    columns = list(HIT_COLUMNS) if kind == "table" else list(hits[0]) if hits else list(HIT_COLUMNS)
    click.echo(render(hits, columns, kind), nl=False)
    if not hits:
        click.echo("no logit passes the filter", err=True)
    if evidence is not None and hits:
        found.contact_sheet(hits, evidence)
        click.echo(f"evidence: {evidence}", err=True)


@click.command()
@workspace_option
@click.argument("statement")
@format_option
def sql(folder: Path, statement: str, kind: str) -> None:
    """Ask SQL of the workspace's tables: models, logits, attempts, catalog, probes, runs.

    \b
    Examples:
      hubprobe sql --workspace my-index "SELECT status, count(*) FROM attempts GROUP BY 1 ORDER BY 2 DESC"
    """
    from hubprobe import front

    table = front.open(folder).sql(statement)
    click.echo(render(table.to_pylist(), table.column_names, kind), nl=False)


@click.command()
@workspace_option
@click.option(
    "--truth",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="JSON: concepts with names, and the concept of every logit of every known model.",
)
@format_option
def evaluate(folder: Path, truth: Path, kind: str) -> None:
    """Measure text-to-logit and logit-to-logit accuracy where the truth is known.

    \b
    Example:
      hubprobe evaluate --workspace demo-index --truth truth.json
    """
    import search as room
    from workspace import Workspace

    try:
        known = json.loads(truth.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{truth} is not JSON: {error}") from error
    evaluation = room.evaluate(Workspace.open(folder), known)
    rows = evaluation.rows()
    click.echo(render(rows, list(rows[0]), kind), nl=False)
