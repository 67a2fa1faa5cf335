"""What several verbs share: options, groups that know near names, and how a summary is printed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from hubprobe.machine import wants_json
from hubprobe.output import FORMATS, duration, render, size, without_pandas
from workspace.text import printable

if TYPE_CHECKING:
    from search import Index
    from workspace import Config, Workspace

F = TypeVar("F", bound=Callable[..., Any])

COUNT, POSITIVE, HITS = click.IntRange(min=1), click.FloatRange(min=0, min_open=True), click.IntRange(1, 10_000)

sha_option = click.option("--sha", help="Commit of REPO_ID; the last indexed when not given.")
where_option = click.option(
    "--where", help="SQL condition on models and logits: \"downloads > 1000 and license = 'mit'\""
)
token_option = click.option("--token", help="Hugging Face token; better set HF_TOKEN.")
"""For this command. That of the environment goes where `workspace.endpoint` says."""

format_option = click.option("--format", "kind", type=click.Choice(FORMATS), default="table", help="Format on stdout.")
endpoint_option = click.option(
    "--endpoint", envvar="HF_ENDPOINT", show_envvar=True, help="Address of the Hub; else the workspace's own."
)
shard_option = click.option(
    "--shard", metavar="I/N",
    help="This is job I of N, I from 0: its share first, then what others left. 'auto' in a SLURM array.",
)  # fmt: skip


def workspace_option(function: F) -> F:
    """``--workspace``: the folder everything is read from and written to."""
    return click.option(
        "-w", "--workspace", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(),
        envvar="HUBPROBE_WORKSPACE", show_envvar=True, show_default=False,
        help="Folder of the workspace; the current one by default.",
    )(function)  # fmt: skip


def index_option(function: F) -> F:
    """``--index``: an index that is published, handed on as ``folder`` in place of the workspace's."""

    @click.option("--index", "address", metavar="URL", help="Ask a published index: hf://, s3://, https://.")
    @wraps(function)
    def with_index(*args: Any, folder: Path, address: str | None, **options: Any) -> Any:
        return function(*args, folder=address or folder, **options)

    return cast("F", with_index)


def quiet_option(function: F) -> F:
    """``--quiet``: no progress bars; nor are there any where nobody looks, in a file or a pipe."""

    def quiet(_context: click.Context, _option: click.Parameter, value: bool) -> bool:
        return value or not (sys.stderr.isatty() or wants_json())

    return click.option("-q", "--quiet", is_flag=True, callback=quiet, help="No progress bars.")(function)


def output_options(function: F) -> F:
    """``--quiet`` and ``--format``."""
    return quiet_option(format_option(function))


@dataclass(frozen=True)
class ChosenHub:
    """The Hub of a command: that of ``--endpoint``, else of the workspace in ``folder``; and the token for it."""

    folder: Path
    endpoint: str | None
    given: str | None

    @cached_property
    def config(self) -> Config:
        """The workspace's configuration, with the endpoint that was given in place of its own."""
        from workspace import Config
        from workspace.endpoint import checked
        from workspace.layout import MARKER

        config = Config.load(self.folder / MARKER)
        return replace(config, endpoint=checked(self.endpoint)) if self.endpoint else config

    @cached_property
    def token(self) -> str:
        """The token for it; "" for none."""
        from workspace.endpoint import token_for

        return token_for(self.config.endpoint, self.given, named=self.endpoint is not None) or ""

    def workspace(self) -> Workspace:
        """Return the workspace, which must be one, with this Hub in its configuration."""
        from workspace import Workspace

        return Workspace(Workspace.open(self.folder).root, self.config)


def hub_options(function: F) -> F:
    """``--token`` and ``--endpoint``, handed on with the folder of the workspace as ``hub``, a `ChosenHub`.

    A verb that takes them makes no frames, so pyarrow does without pandas.
    """

    @token_option
    @endpoint_option
    @wraps(function)
    def with_hub(*args: Any, folder: Path, token: str | None, endpoint: str | None, **options: Any) -> Any:
        without_pandas()
        return function(*args, hub=ChosenHub(folder, endpoint, token), **options)

    return cast("F", with_hub)


def opened(folder: Path | str, verb: str = "") -> Index:
    """Return the index that a verb asks, after what it reads was pulled; without pandas, which no answer needs."""
    from hubprobe import front

    without_pandas()
    return front.opened(folder, verb) if verb else front.open(folder)


def local_offline() -> None:
    """Keep transformers from looking anything up by itself: every file it is given is local and verified."""
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class OutPath(click.Path):
    """A file, or a folder, to be written: its place is looked at before anything is computed."""

    def __init__(self, *, folder: bool = False) -> None:
        super().__init__(path_type=Path, dir_okay=folder, file_okay=not folder, writable=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; fails when its folder is not there or cannot be written into."""
        path = Path(str(super().convert(value, param, ctx)))
        if not path.parent.is_dir():
            self.fail(f"there is no folder {path.parent}: make it first, or give another place", param, ctx)
        if not path.exists() and not os.access(path.parent, os.W_OK):
            self.fail(f"nothing can be written into {path.parent}", param, ctx)
        return path


class Group(click.Group):
    """Commands that say which of them was probably meant, when it was none of them."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that the first of ``args`` names; a usage error proposes near names."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = get_close_matches(args[0].lower(), names, n=2, cutoff=0.6)
            meant = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            ctx.fail(f"No such command '{printable(args[0], 40)}'.{meant}")
        return super().resolve_command(ctx, args)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kind: str = "table", *, width: int = 60) -> None:
    """Print rows to stdout."""
    click.echo(render(rows, columns, kind, width=width), nl=False)


def show_one(values: Mapping[str, Any], kind: str) -> None:
    """Print one record: a list of one object as JSON, or a line as CSV."""
    show([values], list(values), kind)


def as_done(summary: Any) -> dict[str, Any]:
    """Return a summary's fields; those of a dry run (``would_...``, ``undecided``) only if it was one."""
    values = asdict(summary)
    if any(value for name, value in values.items() if name.startswith("would_")):
        return values
    return {name: value for name, value in values.items() if not name.startswith("would_") and name != "undecided"}


def show_summary(summary: Any, kind: str) -> None:
    """Print a summary dataclass: a line a field as a table, or one JSON object's list, or CSV."""
    values = as_done(summary)
    if kind == "table":
        rows = [
            {"what": n.replace("_", " "), "value": _for_people(n, v)} for n, v in values.items() if v not in ("", {})
        ]
        show(rows, ["what", "value"], width=100)
    else:
        show_one(values, kind)


def _for_people(name: str, value: Any) -> Any:
    """Return a field's value with the unit that its name states."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_for_people(name, part)}" for key, part in value.items())
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if "bytes" in name.split("_"):
        return size(value)
    if name.split("_")[0] == "seconds":
        return duration(value)
    return duration(3600 * value) if "hours" in name.split("_") else value
