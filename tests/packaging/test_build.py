"""What is in the wheel and in the sdist, and that there is one version."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.built import ROOT, Built
from workspace import Workspace, __version__
from workspace.files import read_json
from workspace.runs import versions

PACKAGES = {"completion", "crawler", "hubprobe", "probing", "search", "workspace"}
DATA = {
    "hubprobe/demo/probes.parquet", "hubprobe/demo/truth.json", "hubprobe/demo/NOTICE", "search/data/bank.tsv",
    "search/data/BANK_NOTICE.md",
}  # fmt: skip
LARGEST = 25_000_000  # bytes; docs/install.md says 20 MB, nearly all of it the demo hub

pytestmark = pytest.mark.slow


def contents(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


def about(wheel: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        message = Parser().parsestr(archive.read(name).decode())
    return {key: message.get_all(key) or [] for key in set(message.keys())}


def test_there_is_one_version(built: Built, tmp_path: Path) -> None:
    assert built.wheel.name == f"hubprobe-{__version__}-py3-none-any.whl"
    assert built.sdist.name == f"hubprobe-{__version__}.tar.gz"
    assert about(built.wheel)["Version"] == [__version__]
    said = subprocess.run(
        [sys.executable, "-m", "hubprobe", "--version"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert said.stdout.split()[-1] == __version__
    workspace = Workspace.create(tmp_path / "w")
    workspace.manifest("a-run", {"versions": versions()})
    assert read_json(workspace.runs_dir / "a-run.json")["versions"]["hubprobe"] == __version__
    lines = [p for p in ROOT.glob("[!.]*/**/*.py") if re.search(r"^__version__ = ", p.read_text("utf-8"), re.MULTILINE)]
    assert [str(p.relative_to(ROOT)) for p in lines if ".venv" not in p.parts] == ["workspace/version.py"]


def test_the_wheel_holds_the_packages_and_nothing_else(built: Built) -> None:
    names = set(contents(built.wheel))
    info = f"hubprobe-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {*PACKAGES, info}
    assert names >= {f"{package}/py.typed" for package in PACKAGES}
    assert names >= DATA
    assert {n for n in names if "/licenses/" in n} == {
        f"{info}/licenses/{n}" for n in ("LICENSE", "hubprobe/demo/NOTICE", "search/data/BANK_NOTICE.md")
    }
    assert not [n for n in names if n.endswith((".pyc", ".nbc", ".nbi", ".so")) or "__pycache__" in n]
    tracked = {
        str(p.relative_to(ROOT))
        for package in PACKAGES
        for p in (ROOT / package).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert {n for n in names if not n.startswith(info)} == tracked
    assert len([n for n in names if n.startswith("hubprobe/demo/hub/")]) > 100


def test_the_sdist_builds_the_same_wheel(built: Built) -> None:
    assert contents(built.wheel_of_sdist) == contents(built.wheel)
    assert built.wheel_of_sdist.read_bytes() == built.wheel.read_bytes()


def test_the_sdist_holds_what_tests_need_and_no_rubbish(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"pyproject.toml", "README.md", "LICENSE", "Makefile", "Dockerfile", "examples/slurm.sh"}
    assert names >= {"tests/conftest.py", "requirements/lowest.txt", "docs/install.md"}
    assert not [n for n in names if n.startswith((".git/", ".venv", ".ci", "dist/")) or "__pycache__" in n]


def test_they_are_small(built: Built) -> None:
    assert built.wheel.stat().st_size < LARGEST
    assert built.sdist.stat().st_size < 1.5 * LARGEST


def test_the_metadata_says_what_pip_must_know(built: Built) -> None:
    stated = about(built.wheel)
    assert stated["Requires-Python"] == [">=3.10"]
    assert stated["License-Expression"] == ["Apache-2.0"]
    assert set(stated["Provides-Extra"]) == {"page", "plots", "ray", "remote", "dev"}
    pythons = {c.rpartition(" ")[2] for c in stated["Classifier"] if "Python :: 3." in c}
    assert pythons == {"3.10", "3.11", "3.12", "3.13"}
