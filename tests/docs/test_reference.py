"""The generated pages are what the generator writes, and say all there is."""

from __future__ import annotations

from dataclasses import fields

import pytest

from tests.docs import reference
from tests.docs.pages import DOCS
from workspace import Config, Status, records
from workspace.status import MEANING


@pytest.mark.parametrize("name", sorted(reference.PAGES))
def test_a_generated_page_is_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == reference.PAGES[name](), f"docs/{name} is out of date: run '{reference.COMMAND}'"


def test_every_field_has_a_meaning() -> None:
    for schema in (*records.TABLES.values(), records.descriptors(8)):
        assert [f.name for f in schema if not (f.metadata or {}).get(b"doc")] == []


def test_every_setting_is_explained() -> None:
    text = reference.configuration_page()
    for section in fields(Config):
        value = getattr(Config(), section.name)
        names = [f.name for f in fields(value)] if hasattr(value, "__dataclass_fields__") else [section.name]
        for name in names:
            rows = [line for line in text.splitlines() if line.startswith(f"| `{name}` |")]
            assert rows, name
            assert all(len(row.split("|")[3].strip()) > 3 for row in rows), f"workspace/config.py: meaning of '{name}'"


def test_every_status_is_listed() -> None:
    text = reference.records_page()
    assert [s.value for s in Status if f"| `{s.value}` |" not in text] == ["eligible"]
    ends = {
        (m.stage in ("list", "config", "weights"), m.outcome.value) for s, m in MEANING.items() if s is not Status.OK
    }
    assert ends <= {(True, "skipped"), (False, "failed")}, "the page says that the stage tells the outcome"
