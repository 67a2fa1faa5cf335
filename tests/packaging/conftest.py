"""The wheel and the sdist, built once from a clean copy of the tree, and the wheel that the sdist builds."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Built:
    """Paths of what was built."""

    wheel: Path
    sdist: Path
    wheel_of_sdist: Path


def build(tree: Path, out: Path, *what: str) -> None:
    command = [sys.executable, "-m", "build", *what, "--no-isolation", "--outdir", str(out), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    base = tmp_path_factory.mktemp("built")
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
        shutil.copytree(ROOT, base / "tree", ignore=shutil.ignore_patterns(".venv*", "build", "dist", "__pycache__"))
    build(base / "tree", base / "dist", "--wheel", "--sdist")
    (wheel,), (sdist,) = (base / "dist").glob("*.whl"), (base / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(base / "unpacked", filter="data")
    (unpacked,) = (base / "unpacked").iterdir()
    build(unpacked, base / "again", "--wheel")
    (again,) = (base / "again").glob("*.whl")
    return Built(wheel, sdist, again)
