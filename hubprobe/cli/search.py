"""``index``, and what asks it: ``search``, ``similar``, ``sql``, ``describe``, ``audit``, ``evaluate``, ``serve``."""

from __future__ import annotations

import io
import json
import sys
from contextlib import ExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import click

from hubprobe.cli.options import (
    COUNT,
    HITS,
    POSITIVE,
    ChosenHub,
    Group,
    OutPath,
    format_option,
    hub_options,
    index_option,
    local_offline,
    opened,
    output_options,
    sha_option,
    show,
    show_one,
    show_summary,
    where_option,
    workspace_option,
)  # fmt: skip
from hubprobe.output import BINARY, SUFFIXES, chance, output_file, without_pandas, write_batches

if TYPE_CHECKING:
    from search import Index, Query
    from workspace import Workspace


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
def index(context: click.Context, /, hub: ChosenHub, verify: bool, quiet: bool, kind: str, **options: Any) -> None:
    """Build the search index from the descriptors; readers keep the old one until the new one is whole.

    \b
    Examples:
      hubprobe index --workspace my-index
      hubprobe index --workspace my-index --verify
      hubprobe index info --workspace my-index
    """
    if context.invoked_subcommand is not None:
        return
    import hubprobe
    import search

    workspace = hub.workspace()
    if verify:
        show_one(search.verify(workspace), kind)
        return
    show_summary(hubprobe.index(workspace, token=hub.token, progress=not quiet, **options), kind)


@index.command("info")
@workspace_option
@format_option
def info(folder: Path, kind: str) -> None:
    """Say what the index holds: sizes, versions, encoder, memory, recall of what is approximate.

    \b
    Example:
      hubprobe index info --workspace my-index
    """
    values = opened(folder).info()
    if kind == "json":
        show_one(values, kind)
        return
    rows = [{"what": name, "value": json.dumps(v) if isinstance(v, dict) else v} for name, v in values.items()]
    show(rows, ["what", "value"], kind, width=140)


@click.command()
@workspace_option
@index_option
@click.argument("text", required=False)
@click.option("--image", type=click.Path(path_type=Path, dir_okay=False), help="Search by an example image instead.")
@where_option
@click.option("--limit", type=HITS, default=10, help="How many hits.")
@click.option(
    "--by",
    type=click.Choice(["logit", "model", "family"]),
    help="What a hit is: a logit, a model, or a family of near-copies.",
)
@click.option("--all-of", multiple=True, help="Models that recognise each of these; may be repeated.")
@click.option("--any-of", multiple=True, help="Models that recognise one of these; may be repeated.")
@click.option("--none-of", multiple=True, help="... but none of these; may be repeated.")
@click.option("--hybrid", is_flag=True, help="Join behaviour with the words of labels and names.")
@click.option("--exact", is_flag=True, help="Bypass everything approximate.")
@click.option("--explain", is_flag=True, help="Say on stderr what the search did, with times and bytes.")
@click.option("--k", type=COUNT, help="Probes compared: the query's strongest.")
@click.option("--scoring", help="bridged, contrastive, strong, probelog, full or unnormalised.")
@click.option("--evidence", type=OutPath(), help="Write a contact sheet (PNG).")
@format_option
def search(folder: Path | str, text: str | None, image: Path | None, **shown: Any) -> None:
    """Find logits by a concept's name, or by an example image.

    \b
    Examples:
      hubprobe search --workspace my-index "dog"
      hubprobe search --workspace my-index "dog" --where "downloads > 1000" --evidence dog.png
      hubprobe search --workspace my-index --image cat.jpg --by model
      hubprobe search --index hf://datasets/my-org/classifiers "dog"
      hubprobe search --workspace my-index --all-of dog --all-of cat --none-of car
    """
    how = {name: shown.pop(name) for name in ("all_of", "any_of", "none_of", "hybrid", "k", "scoring")}
    several = bool(how["all_of"] or how["any_of"] or how["none_of"])
    if (text is not None) + (image is not None) + several != 1:
        raise click.UsageError("give a text, --image, or --all-of, --any-of and --none-of: one of the three")
    index = opened(folder)
    query = index.search(text if text is not None else image, **how)
    some, sure = _show_hits(index, query, **shown), query.scoring == "bridged" and not how["hybrid"]
    if some and text is not None and sure and query.descriptor.signs is not None:
        where = shown["where"]
        coverage = (query.where(where) if where else query).coverage()
        if not coverage.covered:
            click.echo(f"{text}: {coverage}", err=True)


@click.command()
@workspace_option
@index_option
@click.argument("repo_id")
@click.argument("logit", type=click.IntRange(min=0), required=False)
@where_option
@click.option("--limit", type=HITS, default=10, help="How many hits.")
@sha_option
@click.option("--same-model", is_flag=True, help="Let other logits of REPO_ID itself be hits too.")
@click.option("--whole", is_flag=True, help="Compare whole descriptors, not the strongest probes.")
@click.option("--evidence", type=OutPath(), help="Write a contact sheet (PNG).")
@format_option
def similar(
    folder: Path | str, repo_id: str, logit: int | None, sha: str | None, same_model: bool, whole: bool, **shown: Any
) -> None:
    """Find logits of other models that respond like logit LOGIT of REPO_ID; without LOGIT, models like REPO_ID.

    \b
    Examples:
      hubprobe similar --workspace my-index timm/tf_efficientnet_lite0.in1k 281
      hubprobe similar --workspace my-index timm/tf_efficientnet_lite0.in1k
    """
    index = opened(folder)
    if logit is None:
        if same_model or whole or shown["where"] or shown["evidence"]:
            raise click.UsageError("--same-model, --whole, --where and --evidence need a LOGIT")
        found = index.similar_models(repo_id, sha=sha, limit=shown["limit"])
        columns = ["rank", "repo_id", "score", "shared", "num_logits", "downloads"]
        show(found.to_pylist(), found.column_names if shown["kind"] != "table" else columns, shown["kind"])
        return
    query = index.similar(repo_id, logit, sha=sha, other_models_only=not same_model, whole=whole)
    _show_hits(index, query, **shown)


def _show_hits(
    index: Index,
    query: Query,
    *,
    where: str | None,
    limit: int,
    evidence: Path | None,
    kind: str,
    by: Literal["logit", "model", "family"] | None = None,
    exact: bool = False,
    explain: bool = False,
) -> bool:
    """Print the hits; return whether there were any."""
    if where:
        query = query.where(where)
    if by is not None:
        query = query.by(by)
    query = query.exact() if exact else query
    hits = query.limit(limit).to_dicts()
    if explain:
        click.echo(str(query.limit(limit).explain()), err=True)
    for note in query.notes:
        click.echo(note, err=True)
    rows = [
        hit if hit.get("probability") is None else {**hit, "likely right": chance(hit["probability"])} for hit in hits
    ]
    more = [name for name in ("likely right", "found_by") if rows and name in rows[0]]
    columns = ["rank", "repo_id", "logit", "label", "score", *more]
    show(*((rows, columns) if kind == "table" or not hits else (hits, list(hits[0]))), kind)
    if not hits:
        click.echo("no logit passes the filter", err=True)
    if evidence is not None and hits:
        index.contact_sheet(hits, evidence, title=query.descriptor.about)
        click.echo(f"evidence: {evidence}", err=True)
    return bool(hits)


@click.command()
@workspace_option
@click.argument("statement", required=False)
@click.option("-f", "--file", "script", type=click.File(encoding="utf-8"), help="Ask what is in FILE; - is stdin.")
@click.option(
    "--allow", multiple=True, help="Folder or hf://, s3:// prefix whose files it may read (Parquet, CSV, JSON)."
)
@click.option("--timeout", type=POSITIVE, default=60.0, help="Seconds it may take.")
@click.option("--out", type=OutPath(), help=f"File for the result: {', '.join(sorted(SUFFIXES))}.")
@click.option("--format", "kind", type=click.Choice(sorted(set(SUFFIXES.values()))), help="Else by FILE's suffix.")
@click.option("--attach", type=OutPath(), help="Write all tables as they are now into a DuckDB file, for any client.")
def sql(folder: Path, statement: str | None, script: IO[str] | None, attach: Path | None, **how: Any) -> None:
    """Ask SQL of the workspace's tables: models, logits, concepts, attempts, catalog, probes, runs.

    Searches are table functions: FROM search('dog', limit := 500) JOIN models USING (repo_id, sha). Without a
    STATEMENT it reads stdin, or asks line by line where that is a terminal.

    \b
    Examples:
      hubprobe sql --workspace my-index "SELECT status, count(*) FROM attempts GROUP BY 1 ORDER BY 2 DESC"
      hubprobe sql --workspace my-index "FROM search('dog', limit := 50)" --out dogs.parquet
      hubprobe sql --workspace my-index -f questions.sql
      hubprobe sql --workspace my-index --attach my-index.duckdb
    """
    from hubprobe.sync import fresh
    from search import views
    from search.statements import statements_of

    if sum(given is not None for given in (statement, script, attach)) > 1:
        raise click.UsageError("give a STATEMENT, --file or --attach: one of the three")
    how["written"] = _format_of(how["out"], how.pop("kind"))
    without_pandas()
    # not through an open index: attempts and catalog can be asked before there is one
    workspace = fresh(folder, "sql")
    if attach is not None:
        for name, rows in views.attach(workspace, attach).items():
            click.echo(f"{name}: {rows} rows", err=True)
    elif statement is not None:
        _answer(workspace, statement, **how)
    elif script is None and sys.stdin.isatty():
        _prompt(workspace, **how)
    else:
        asked = statements_of((script if script is not None else sys.stdin).read())
        if how["out"] is not None and len(asked) != 1:
            raise click.UsageError(f"--out takes the rows of one statement, not of {len(asked)}")
        for one in asked:
            _answer(workspace, one, **how)


def _answer(
    workspace: Workspace, statement: str, *, allow: tuple[str, ...], timeout: float, out: Path | None, written: str
) -> None:
    from search.answers import sql_rows

    as_text = io.BytesIO() if out is None and written not in BINARY and not _takes_utf8(sys.stdout) else None
    with ExitStack() as stack:
        sink = as_text or (sys.stdout.buffer if out is None else stack.enter_context(output_file(out)))
        answer = stack.enter_context(sql_rows(workspace, statement, allow=allow, timeout_s=timeout))
        rows, more = write_batches(answer.batches, answer.schema, written, sink)
    if as_text is not None:
        click.echo(as_text.getvalue().decode(), nl=False)
    if more:
        click.echo(f"{more} more rows: add a LIMIT, or write them to a file with --out", err=True)
    if out is not None:
        click.echo(f"{rows} rows: {out}", err=True)


def _prompt(workspace: Workspace, **how: Any) -> None:
    """Ask for statements, each up to a semicolon, until the input ends; an error ends none of the others."""
    from search.statements import statements_of
    from search.views import VIEWS
    from workspace import HubprobeError

    with suppress(ImportError):
        import_module("readline")  # arrow keys and what was asked before
    click.echo(f"tables: {', '.join(sorted(VIEWS))}; end a statement with ; and leave with Ctrl-D", err=True)
    written = ""
    while True:
        try:
            written += input("     > " if written else "sql  > ") + "\n"
            if not written.rstrip().endswith(";"):
                written = written if written.strip() else ""
                continue
            for statement in statements_of(written):
                _answer(workspace, statement, **how)
        except EOFError:
            click.echo(err=True)
            return
        except KeyboardInterrupt:
            click.echo(err=True)
        except HubprobeError as error:
            click.echo(str(error), err=True)
        written = ""


def _takes_utf8(stream: Any) -> bool:
    """Whether rows can go to a pipe or file as they arrive; a terminal, or another encoding, gets them as text."""
    return not stream.isatty() and stream.encoding.lower().replace("-", "") == "utf8"


def _format_of(out: Path | None, kind: str | None) -> str:
    """Return the format that the suffix of ``--out`` and ``--format`` agree on."""
    suffix = SUFFIXES.get(out.suffix.lower()) if out is not None else None
    if suffix and kind and suffix != kind:
        raise click.UsageError(f"{out} ends like {suffix}, but --format says {kind}: give one of the two")
    if out is not None and not (suffix or kind):
        raise click.UsageError(f"what format is {out}? End it in {', '.join(sorted(SUFFIXES))}, or add --format")
    if out is None and kind in BINARY and sys.stdout.isatty():
        raise click.UsageError(f"{kind} is no text for a terminal: add --out FILE")
    return kind or suffix or "table"


@click.command()
@workspace_option
@click.argument("repo_id")
@sha_option
@click.option("--names", "count", type=click.IntRange(1, 8), default=3, help="Names per output.")
@output_options
def describe(folder: Path, repo_id: str, sha: str | None, count: int, quiet: bool, kind: str) -> None:
    """Name every output of REPO_ID by what it recognises, whatever it is called.

    Names come from the labels of other models whose outputs answer alike ("labels"), else from the concept bank
    ("zero-shot"). The confidence is between 0 and 1.

    \b
    Example:
      hubprobe describe --workspace my-index pixel-garden/checkpoint-1200
    """
    rows = opened(folder).describe(repo_id, sha=sha, count=count, progress=not quiet).to_pylist()
    show(rows, ["logit", "label", "name", "confidence", "source", "others"], kind)


@click.command()
@workspace_option
@click.option("--repo", "repo_id", help="One repository only; all when not given.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, help="How many outputs.")
@output_options
def audit(folder: Path, repo_id: str | None, limit: int, quiet: bool, kind: str) -> None:
    """List outputs whose label, in words, disagrees with what they recognise; most doubtful first.

    \b
    Examples:
      hubprobe audit --workspace my-index
      hubprobe audit --workspace my-index --repo open-shelf/things-demo --format json
    """
    rows = opened(folder).audit(repo_id=repo_id, limit=limit, progress=not quiet).to_pylist()
    columns = ["doubt", "repo_id", "logit", "label", "name", "confidence", "source"]
    show(rows, columns if kind == "table" or not rows else list(rows[0]), kind)
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
@click.option("--k", type=COUNT, help="Probes compared; each scoring's own when not given.")
@click.option("--trec", type=OutPath(folder=True), help="Also write TREC runs and qrels into this folder.")
@output_options
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
    from hubprobe.sync import fresh
    from search.evaluation import BASELINES, read_qrels, write_trec

    try:
        text = truth.read_text(encoding="utf-8")
        known = read_qrels(text) if truth.suffix == ".qrels" else json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{truth} is not JSON: {error}; qrels end in .qrels") from error
    asked = scorings or tuple(sorted([*room.SCORINGS, *BASELINES]))
    workspace = fresh(folder, "evaluate")
    evaluation = room.evaluate(workspace, known, scorings=asked, k=k, progress=not quiet)
    rows = evaluation.rows()
    show(rows, list(rows[0]), kind)
    if trec is not None:
        runs = [scoring for scoring in asked if scoring not in BASELINES]
        files = write_trec(workspace, known, trec, scorings=runs, k=k)
        click.echo(f"{len(files)} files: {trec}", err=True)


@click.command()
@workspace_option
@click.option(
    "--host", default="127.0.0.1", help="Address to listen on. Any other than a loopback one lets other machines in."
)
@click.option("--port", type=click.IntRange(0, 65_535), default=7860, help="Port; 0: a free one.")
@click.option("--open/--no-browser", "open_browser", default=False, help="Open the page in a browser.")
@click.option("--rate", type=click.FloatRange(min=0), default=600, help="Searches a minute and client; 0: no bound.")
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="Name under which the page may be asked, besides localhost: that of the proxy before it. Repeatable.",
)
@click.option("--mcp/--no-mcp", default=True, help="Whether to serve the MCP endpoint too.")
@click.option(
    "--pick/--no-pick",
    default=None,
    help="Whether visitors may run models on their images; they may when --host is a loopback address.",
)
@hub_options
def serve(hub: ChosenHub, **options: Any) -> None:
    """Search in the browser: cards with evidence, filters, example images, a page for every model, an API and MCP.

    Ctrl-C ends it. A new version of the index is picked up without a restart.

    \b
    Examples:
      hubprobe serve --workspace my-index --open
      hubprobe serve --workspace my-index --port 0 --no-browser
    """
    local_offline()
    from hubprobe.page import serve as run

    run(hub.workspace(), token=hub.token, **options)
