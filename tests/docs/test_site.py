"""The documentation as a site: it builds without a warning, has every page, and asks nobody else for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import DOCS, ROOT

pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install '.[dev]'")


def test_the_site_is_whole(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    assert built.returncode == 0, built.stdout + built.stderr
    names = {"README": "index", "index": "index_verb"}
    missing = [p.stem for p in DOCS.glob("*.md") if not (tmp_path / f"site/{names.get(p.stem, p.stem)}.html").exists()]
    assert missing == []
    for page, made in (("crawl", "--restart"), ("records", "seconds_preprocess"), ("configuration", "SFconvertbot")):
        text = (tmp_path / f"site/{page}.html").read_text("utf-8")
        assert made in text, f"{page}: the site has lost a table"
        assert "\\|" not in text, f"{page}: a bar in a table shows its backslash"
    html = (tmp_path / "site/index.html").read_text("utf-8")
    assert "hubprobe" in html
    asked = re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=\"?(https?:[^\"\s>]+)", html)
    assert [a for a in asked if "canonical" not in a] == []
