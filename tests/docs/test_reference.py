"""What the site makes from the code says all there is, and every page that needs it asks for it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import click
import pytest

from hubprobe.cli.app import cli
from tests.docs.pages import DOCS
from workspace import Config, Status, records
from workspace.status import LabelQuality


def _hook() -> Any:
    spec = spec_from_file_location("site_reference", DOCS / "site_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = _hook()


def _page(name: str) -> tuple[str, str]:
    """Return a page as it is kept, and as the site shows it."""
    text = (DOCS / name).read_text(encoding="utf-8")
    return text, site.filled(text)


@pytest.mark.parametrize("name", [*records.TABLES, "descriptors"])
def test_every_column_has_a_meaning_and_a_row(name: str) -> None:
    kept, shown = _page("records.md")
    assert f"## {name}\n" in kept
    section = shown.split(f"## {name}\n")[1].split("\n## ")[0]
    for field in records.TABLES.get(name, records.descriptors(8)):
        assert len((field.metadata or {}).get(b"doc", b"")) > 3, field.name
        assert f"| `{field.name}` |" in section, "docs/records.md has lost a mark"


def test_every_setting_is_explained() -> None:
    _, shown = _page("configuration.md")
    for section in fields(Config):
        value = getattr(Config(), section.name)
        part = shown.split(f"## [{section.name}]\n")[1] if is_dataclass(value) else shown
        for name in [f.name for f in fields(value)] if is_dataclass(value) else [section.name]:
            (row,) = [line for line in part.split("\n## ")[0].splitlines() if line.startswith(f"| `{name}` |")]
            assert len(row.split("|")[3].strip()) > 3, f"workspace/config.py: meaning of '{name}'"


def test_every_status_and_label_quality_is_listed() -> None:
    kept, shown = _page("records.md")
    assert [s.value for s in Status if f"| `{s.value}` |" not in shown] == ["eligible"]
    assert [q.value for q in LabelQuality if f"| `{q.value}` |" not in kept] == []
    left = [s for s in Status if s not in (Status.OK, Status.ELIGIBLE)]
    ends = {(s.stage in ("list", "config", "weights"), s.outcome.value) for s in left}
    assert ends <= {(True, "skipped"), (False, "failed")}, "the page says that the stage tells the outcome"


@pytest.mark.parametrize("verb", cli.list_commands(click.Context(cli)))
def test_every_option_is_explained(verb: str) -> None:
    """``--help`` is where an option is explained; the site's page of the verb says the same, and ours need not."""
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    shown = site.options_of(verb)
    for name, found, _ in site.commands(command, verb):
        section = shown.split(f"hubprobe {name} ")[1].split("\n```\nhubprobe ")[0]
        for option in (p for p in found.params if isinstance(p, click.Option) and not p.hidden):
            assert len(option.help or "") > 3, f"{name} {option.opts}"
            assert all(o in section for o in (*option.opts, *option.secondary_opts)), f"{name} {option.opts}"
