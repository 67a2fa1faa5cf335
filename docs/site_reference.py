"""What the site says of columns, statuses, settings and options: made from the code when the site is built.

``<!-- columns of TABLE -->``, ``<!-- statuses -->`` and ``<!-- settings of SECTION -->`` in a page become tables, and
the page of a verb ends with what its ``--help`` says of every option. So nobody keeps a second copy by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from html import escape
from typing import Any

import click
import pyarrow as pa

from hubprobe.cli.app import cli
from workspace import Config, Status, records

_MARK = re.compile(r"^<!-- (columns of (\w+)|statuses|settings(?: of (\w+))?) -->$", re.MULTILINE)

_BAR = r"\|"
_CODE = re.compile(r"(?<=\| )`([^`\n]*\\\|[^`\n]*)`(?= \|)")
"""A cell of a table that is code with a bar in it: GitHub wants a backslash before that, the site would show it."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put tables where the marks are, and the options of a verb after the last line of its page."""
    text = filled(markdown) + options_of(page.file.src_uri.removesuffix(".md").removesuffix("_verb"))
    return _CODE.sub(lambda cell: f"<code>{escape(cell[1]).replace(_BAR, '&#124;')}</code>", text)


def filled(markdown: str) -> str:
    """Return ``markdown`` with a table in place of every mark."""

    def made(mark: re.Match[str]) -> str:
        if mark[1] == "statuses":
            return statuses()
        return columns(mark[2]) if mark[2] else settings(mark[3])

    return _MARK.sub(made, markdown)


def columns(table: str) -> str:
    """Return every column of a table of the workspace, with its type and meaning."""
    schema = records.descriptors(4000) if table == "descriptors" else records.TABLES[table]
    rows = []
    for field in schema:
        said = {k.decode(): v.decode() for k, v in field.metadata.items()}
        doc, unit = said["doc"], said.get("unit", "")
        if unit.startswith(doc):
            doc = unit
        elif unit not in doc:
            doc = f"{doc} ({unit})"
        rows.append((f"`{field.name}`", _type(field.type) + ("" if field.nullable else "*"), doc))
    return _table(("column", "type", "meaning"), rows)


def statuses() -> str:
    """Return every way a repository can end, where that is decided, and what it means."""
    rows = [(f"`{s.value}`", s.stage, s.meaning) for s in Status if s is not Status.ELIGIBLE]
    return _table(("status", "decided from", "meaning"), rows)


def settings(section: str | None) -> str:
    """Return the settings of a section of ``hubprobe.toml``, or those outside of any."""
    chosen = getattr(Config(), section) if section else Config()
    rows = []
    for name, known in type(chosen).__pydantic_fields__.items():
        value = getattr(chosen, name)
        if not is_dataclass(value):
            rows.append((f"`{name}`", f"`{json.dumps(value)}`", str(known.description)))
    return _table(("setting", "default", "meaning"), rows)


def options_of(verb: str) -> str:
    """Return what a verb, and every verb below it, says of its arguments and options; "" for any other page."""
    command = cli.get_command(click.Context(cli), verb)
    if command is None:
        return ""
    parts = ["\n\n## Options\n"]
    for name, found, context in commands(command, verb):
        said = [p.get_help_record(context) for p in found.get_params(context)]
        rows = [(f"`{option}`", meaning) for option, meaning in filter(None, said) if "--help" not in option]
        usage = f"hubprobe {name} {' '.join(found.collect_usage_pieces(context))}"
        parts.append(f"```\n{usage}\n```\n\n{_table(('option', 'meaning'), rows)}")
    return "\n".join(parts)


def commands(
    command: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Yield a command and those below it, each with its full name and a context to ask it in."""
    context = click.Context(command, parent=parent, info_name=name)
    yield name, command, context
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            child = command.get_command(context, below)
            if child is not None:
                yield from commands(child, f"{name} {below}", context)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *((*first, escape(last, quote=False)) for *first, last in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"map of {_type(kind.key_type)} to {_type(kind.item_type)}"
    if pa.types.is_struct(kind):
        return "struct of " + ", ".join(f"`{f.name}` {_type(f.type)}" for f in kind)
    if pa.types.is_fixed_size_list(kind):
        return f"list of n {_type(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    names = {"halffloat": "float16", "float": "float32", "timestamp[us, tz=UTC]": "timestamp (µs, UTC)"}
    return names.get(str(kind), str(kind))
