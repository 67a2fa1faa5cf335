"""Python 3.10 to 3.13: the grammar of the oldest, and every interpreter that is here compiles every file."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.built import ROOT

FOLDERS = ("completion", "crawler", "hubprobe", "probing", "search", "workspace", "tests", "requirements", "benchmarks")
TEXT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_every_file_is_python_3_10() -> None:
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            ast.parse(path.read_text(encoding="utf-8"), str(path), feature_version=(3, 10))


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
def test_interpreters_at_hand_compile_every_file(version: str, tmp_path: Path) -> None:
    assert f"Programming Language :: Python :: {version}" in TEXT
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"no Python {version} here")
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-W", "error", "-m", "compileall", "-q", *FOLDERS],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(tmp_path.rglob("*.pyc"))


def test_the_oldest_reads_toml_without_the_standard_library() -> None:
    """``tomllib`` came with 3.11: what runs on 3.10 must ask the version first, and tomli must be a dependency."""
    assert "tomli>=" in TEXT
    users = [
        path for folder in FOLDERS if folder not in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
        if "import tomllib" in path.read_text(encoding="utf-8")
    ]  # fmt: skip
    assert users
    assert all("sys.version_info >= (3, 11)" in path.read_text(encoding="utf-8") for path in users)
    assert sys.version_info >= (3, 10)
