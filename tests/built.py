"""The wheel and the sdist, built once for all tests from a clean copy of the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.once import once

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Built:
    """Paths of what was built, and of the wheel that the sdist builds."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    base = once(tmp_path_factory, "built", _build_all)
    (wheel,), (sdist,) = (base / "dist").glob("*.whl"), (base / "dist").glob("*.tar.gz")
    (again,) = (base / "again").glob("*.whl")
    return Built(wheel, sdist, again)


def _build_all(base: Path) -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:  # a clone
        for name in listed.stdout.splitlines():
            if (ROOT / name).is_file():
                (base / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, base / "tree" / name)
    else:  # an unpacked sdist
        ignored = shutil.ignore_patterns(
            ".venv*", "build", "dist", "demo-index", "*.egg-info", "__pycache__", ".*_cache"
        )
        shutil.copytree(ROOT, base / "tree", ignore=ignored)
    _build(base / "tree", base / "dist", "--wheel", "--sdist")
    (sdist,) = (base / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(base / "unpacked", filter="data")
    (unpacked,) = (base / "unpacked").iterdir()
    _build(unpacked, base / "again", "--wheel")


def _build(tree: Path, out: Path, *what: str) -> None:
    command = [sys.executable, "-m", "build", *what, "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
