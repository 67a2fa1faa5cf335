"""Numbers that the documentation states and the code holds are the same."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from tests.docs.pages import DOCS

_UNITS = {"KiB": 2**10, "Mi": 2**20, "MiB": 2**20, "GiB": 2**30}
_ROW = re.compile(r"^\| (.+?) \| ([\d,]+)(?: (\w+))? \| `([\w.]+)` \|$", re.MULTILINE)
CAPS = _ROW.findall((DOCS / "security.md").read_text(encoding="utf-8"))


def test_the_table_of_caps_is_read() -> None:
    assert len(CAPS) > 20


@pytest.mark.parametrize(("number", "unit", "where"), [row[1:] for row in CAPS], ids=[row[3] for row in CAPS])
def test_a_cap_is_what_security_says(number: str, unit: str, where: str) -> None:
    *path, name = where.split(".")
    home = import_module(".".join(p for p in path if p.islower()))
    for part in (p for p in path if not p.islower()):
        home = getattr(home, part)
    assert getattr(home, name) == int(number.replace(",", "")) * (_UNITS[unit] if unit else 1)


def test_there_are_fifteen_questions() -> None:
    questions = re.findall(r"### (\d+)\. .*?\n\n```sql\n", (DOCS / "sql.md").read_text(encoding="utf-8"))
    assert [int(number) for number in questions] == list(range(1, 16))


def test_the_page_is_bounded_as_security_says() -> None:
    limits = import_module("hubprobe.page.limits").Limits()
    said = (DOCS / "security.md").read_text(encoding="utf-8")
    assert f"By client {limits.rate:.0f} searches a minute\nafter {limits.burst} at once" in said
    assert f"{limits.body_bytes // 2**20} MiB a request, {limits.at_once} requests at once" in said
