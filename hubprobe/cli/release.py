"""The verbs ``release`` and ``import``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hubprobe.cli import options as shared
from hubprobe.cli.options import ChosenHub, hub_options, local_offline, output_options, show, show_one, workspace_option
from hubprobe.output import size
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.release import ReleaseSummary


@click.command()
@workspace_option
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--push", "repo", metavar="ORG/NAME", help="Then upload it as this dataset.")
@click.option("--public", is_flag=True, help="Make a new dataset public; private otherwise.")
@click.option("--licenses", "keep", help="Classes or tags of models' licences to keep, with commas; 'all' for any.")
@click.option("--license", metavar="TAG", help="Licence of the measurements; [release] license, cc-by-4.0.")
@click.option("--probes-license", metavar="TAG", help="Licence of probe images whose source states none: you state it.")
@click.option("--without-images", "probe_images", flag_value=False, default=True, show_default=False,
              help="Hashes in place of probe images and captions.")  # fmt: skip
@click.option("--author", help="Whom the card says to cite; [release] author, or the owner of the dataset.")
@click.option("--diff", "earlier", metavar="OLD", help="The release before it, a folder or hf://datasets/ORG/NAME: "
              "prints what has changed since, and the card counts it. Default: the one that OUT holds.")  # fmt: skip
@click.option("--with-index", is_flag=True, help="With an index, which can be searched where the release lies.")
@click.option("--dry-run", is_flag=True, help="Print rows, sizes and what is left out; write and upload nothing.")
@click.option("--yes", is_flag=True, help="Upload without asking.")
@hub_options
@output_options
def release(
    hub: ChosenHub, out: Path, repo: str | None, public: bool, with_index: bool, yes: bool, **options: Any
) -> None:
    """Write the workspace as a dataset into OUT: tables, card, manifest; with --push, upload it.

    Gated, private, disabled and deleted repositories are left out, models whose licence forbids, and whoever is in
    release-optout.txt; they are counted. The same workspace gives the same bytes.

    \b
    Examples:
      hubprobe release my-release --workspace my-index --dry-run
      hubprobe release my-release --workspace my-index --licenses permissive,copyleft
      hubprobe release my-release --workspace my-index --push my-org/classifiers
      hubprobe release my-release --workspace my-index --with-index
      hubprobe release next --workspace my-index --diff hf://datasets/my-org/classifiers --dry-run
    """
    from hubprobe.release import push
    from hubprobe.release import release as write
    from hubprobe.release.source import check_repo
    from hubprobe.sync import fresh

    if repo is not None:
        check_repo(repo)
    options |= {"keep": tuple(options["keep"].split(",")) if options["keep"] else None, "repo": repo or "OWNER/NAME"}
    kind, progress, dry_run = options.pop("kind"), not options.pop("quiet"), options["dry_run"]
    options |= {"token": hub.token, "progress": progress}
    summary = write(fresh(hub.folder, "release"), out, **options)
    if with_index and not dry_run:
        from hubprobe.release.write import carry_index

        carried = carry_index(out, token=hub.token, progress=progress)
        click.echo(f"its index: {size(carried)}; 'hubprobe search --index ADDRESS' asks it where it lies", err=True)
    shown = _show(summary, kind)
    if repo is not None and not dry_run:
        pushed = push(
            out, repo, endpoint=hub.config.endpoint, token=hub.token, public=public, progress=progress,
            confirm=lambda what: yes or click.confirm(f"{what}?", abort=True, err=True),
        )  # fmt: skip
        shown |= {"push": asdict(pushed)}
        state = "uploaded" if pushed.changed else "nothing to upload: it is there already"
        click.echo(f"{state}: {pushed.url} at {pushed.commit}", err=True)
    elif repo is not None:
        click.echo(f"would upload {len(summary.files)} files to {repo}", err=True)
    if kind == "json":
        show_one(shown, kind)


def _show(summary: ReleaseSummary, kind: str) -> dict[str, Any]:
    """Print what a release holds, unless as JSON, which is printed when all is done; return it."""
    from hubprobe.release.diff import KINDS
    from hubprobe.release.plan import REASONS

    sizes = Counter[str]()
    for name, length in summary.files.items():
        table = name.split("/")[0]
        sizes[table if table in summary.rows else name] += length
    rows: list[dict[str, Any]] = [{"what": name, "rows": n, "bytes": sizes[name]} for name, n in summary.rows.items()]
    rows += [{"what": name, "bytes": count} for name, count in sizes.items() if name not in summary.rows]
    if kind == "table":
        rows = [{**row, "bytes": size(row["bytes"])} for row in rows]
    changes = summary.since.names if summary.since else {}
    rows += [
        {"what": f"since: {kind}", "rows": len(names), "meaning": f"{KINDS[kind]}: {_some(names)}"}
        for kind, names in changes.items()
    ]
    rows += [
        {"what": f"left out: {name}", "rows": count, "meaning": REASONS[name]}
        for name, count in summary.left_out.items()
    ]
    if kind != "json":
        show(rows, ["what", "rows", "bytes", "meaning"], kind, width=80)
        images = "with" if summary.probe_images else "without"
        where = f"release {summary.release_id} in {summary.folder}"
        about = where if summary.release_id else "dry run, sizes are about"
        click.echo(f"{about}; {images} probe images; encoder {summary.encoder or 'none: no text queries'}", err=True)
        if summary.since:
            same = "the same probes" if summary.since.probe_set else "other probes: no descriptor can be compared"
            said = "" if changes else "; no repository has changed"
            click.echo(f"since release {summary.since.release_id}: {same}{said}", err=True)
    return {**asdict(summary), "folder": str(summary.folder)}


def _some(names: list[str], most: int = 3) -> str:
    shown = ", ".join(printable(name, 60) for name in names[:most])
    return f"{shown} and {len(names) - most:,} more" if len(names) > most else shown


@click.command("import")
@click.argument("source", metavar="SRC")
@workspace_option
@click.option(
    "--encoder",
    type=click.Choice(["released", "none"]),
    default="released",
    help="Fetch the released encoder, or do without text queries.",
)
@shared.token_option
@shared.endpoint_option
@output_options
def import_(source: str, folder: Path, encoder: str, quiet: bool, kind: str, **access: Any) -> None:
    """Make a workspace and its index from a release, so that you can search without running a model.

    SRC is a folder or hf://datasets/ORG/NAME, with @REVISION for another than the newest. Every file's sha256 is
    checked before it is used. Interrupted, the same command goes on.

    \b
    Examples:
      hubprobe import my-release --workspace copy
      hubprobe import hf://datasets/my-org/classifiers --workspace classifiers
    """
    local_offline()
    from hubprobe.release import import_release

    without = "none" if encoder == "none" else None
    summary = import_release(source, folder, encoder=without, progress=not quiet, **access)
    shared.show_summary(summary, kind)
    click.echo(f'\nnext: hubprobe search --workspace {folder} "dog"', err=True)
