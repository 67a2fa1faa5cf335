"""One run of the demo for all tests that want a finished one: from the built wheel, as a user would run it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.built import Built
from tests.once import once

_TOGETHER = """
import contextlib, io, json, sys
from hubprobe.cli import main
answers = []
for asked in json.loads(sys.argv[1]):
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if isinstance(asked, str):
                exec(asked, {})
            else:
                sys.argv = ["hubprobe", *asked]
                main()
        except SystemExit as end:
            code = end.code or 0
    answers.append([code, *(stream.flush() or stream.buffer.getvalue().decode() for stream in (out, err))])
print(json.dumps(answers))
"""


class Installed:
    """The wheel, unpacked where pip puts it, and the commands a user would type, run in an empty folder."""

    def __init__(self, site: Path, cwd: Path) -> None:
        self.site, self.cwd = site, cwd
        cwd.mkdir(exist_ok=True)

    def python(self, *args: str, timeout: float = 1_200, **env: str) -> subprocess.CompletedProcess[str]:
        # What other tests, or the machine, set for Hugging Face's libraries is not for a new user
        theirs = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
        # PYTHONPATH goes before the checkout that `make test` installed in editable mode
        environment |= {"PYTHONPATH": str(self.site), "COLUMNS": "120"} | env
        return subprocess.run(
            [sys.executable, *args],
            cwd=self.cwd, env=environment, capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip

    def hubprobe(self, *args: str, timeout: float = 1_200, **env: str) -> subprocess.CompletedProcess[str]:
        return self.python("-m", "hubprobe", *args, timeout=timeout, **env)

    def together(self, *asked: str | list[str], **env: str) -> list[subprocess.CompletedProcess[str]]:
        """Run code, and the words behind ``hubprobe``, one after the other in one process: its imports are dear."""
        done = self.python("-c", _TOGETHER, json.dumps(asked), **env)
        assert done.returncode == 0, done.stderr[-4000:]
        return [subprocess.CompletedProcess([], *answer) for answer in json.loads(done.stdout)]

    def json(self, *args: str) -> Any:
        done = self.hubprobe(*args, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="session")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    base = once(tmp_path_factory, "wheel", lambda folder: _install(built.wheel, folder / "site"))
    return Installed(base / "site", base / "empty")


def _install(wheel: Path, site: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)


@pytest.fixture(scope="session")
def ran(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the demo ran, that holds ``demo-index`` and the demo's ``report.json``; nobody changes it."""

    def run(_folder: Path) -> None:
        done = installed.hubprobe("demo", "--quiet", "--format", "json", timeout=3_000)
        assert done.returncode == 0, done.stderr[-4000:]
        (installed.cwd / "report.json").write_text(done.stdout, encoding="utf-8")

    once(tmp_path_factory, "demo", run)
    return installed.cwd


@pytest.fixture(scope="module")
def demo(ran: Path, installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The wheel, with a finished ``demo-index`` in its working folder, for one file of tests."""
    folder = tmp_path_factory.mktemp("demo")
    shutil.copytree(ran, folder, copy_function=linked, dirs_exist_ok=True)
    return Installed(installed.site, folder)


@pytest.fixture(scope="session")
def report(ran: Path) -> dict[str, Any]:
    return json.loads((ran / "report.json").read_text(encoding="utf-8"))[0]


def linked(source: str, target: str) -> None:
    """Link a file; copy a lock, which those that run at once would share, and what is changed in place."""
    name = os.path.basename(source)  # noqa: PTH119 - as copytree hands it
    if "lock" in name or ".sqlite" in name:
        shutil.copy2(source, target)
    else:
        os.link(source, target)
