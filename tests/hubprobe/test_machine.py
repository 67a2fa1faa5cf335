"""What programs rely on: exit codes as the documentation has them, JSON lines on stderr, totals on stdout."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from hubprobe.cli import cli
from hubprobe.cli.options import as_done
from hubprobe.machine import LOG_FORMAT, Exit, Lines
from tests.built import ROOT
from tests.hubprobe.test_status import fill
from workspace import Workspace


def _run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hubprobe", *words]
    return subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=False)


def _lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE) == [(str(int(e)), e.meaning) for e in Exit]


@pytest.mark.parametrize("chosen", [("--log-format", "json"), ()])
def test_a_failure_and_wrong_usage_are_lines_with_their_codes(tmp_path: Path, chosen: tuple[str, ...]) -> None:
    variables = {} if chosen else {LOG_FORMAT: "json"}
    failed = _run(*chosen, "status", "--workspace", str(tmp_path / "none"), **variables)
    assert failed.returncode == Exit.FAILED
    assert [(line["event"], line["code"]) for line in _lines(failed.stderr)] == [("end", 1)]
    assert "is not a hubprobe workspace" in _lines(failed.stderr)[-1]["message"]
    wrong = _run(*chosen, "statsu", **variables)
    assert (wrong.returncode, _lines(wrong.stderr)[-1]["code"]) == (Exit.USAGE, 2)


def test_bars_are_lines_and_nothing_else_is_written() -> None:
    code = """
from hubprobe import machine
machine.bars_as_lines()
from tqdm import tqdm
for hidden in (None, False, True):
    with tqdm(total=3, desc=f"hidden {hidden}", unit="file", disable=hidden, leave=False) as bar:
        bar.update(3)
        bar.set_postfix_str("2 ok")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = _lines(done.stderr)
    assert [(x["event"], x["what"], x["done"], x["total"], x["unit"], x["note"]) for x in lines if x["done"]] == [
        ("progress", f"hidden {hidden}", 3, 3, "file", "2 ok") for hidden in (None, False) for _ in (0, 1)
    ]  # fmt: skip
    assert all(line["time"].endswith("+00:00") for line in lines)


def test_sigterm_is_a_line_and_its_code(tmp_path: Path) -> None:
    waiting = tmp_path / "waits.py"
    waiting.write_text(
        "import click, time\nfrom hubprobe.cli import app\n"
        "def wait():\n    print(1, flush=True)\n    time.sleep(60)\n"
        "app.cli.get_command = lambda *_: click.Command('status', callback=wait)\n"
        "import sys\nsys.argv = ['hubprobe', '--log-format', 'json', 'status']\napp.main()\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(waiting)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == Exit.TERMINATED
    assert _lines(said)[-1]["code"] == 143


def test_status_as_json_has_the_totals(tmp_path: Path) -> None:
    workspace = Workspace.create(tmp_path / "w")
    fill(workspace, {"a/ok": ("eligible", "ok"), "a/gated": ("gated", "gated"), "a/waits": ("eligible", None)})
    said = CliRunner().invoke(cli, ["status", "--workspace", str(workspace.root), "--format", "json"])
    (report,) = json.loads(said.stdout)
    assert (report["listed"], report["attempted"], report["ok"], report["skipped"], report["failed"]) == (3, 2, 1, 1, 0)
    assert report["waiting"] == 1
    assert {row["status"]: row["repositories"] for row in report["by_status"]} == {"ok": 1, "gated": 1, "eligible": 1}


def test_a_real_crawl_says_nothing_of_a_dry_one() -> None:
    from crawler import CrawlSummary

    real, dry = CrawlSummary("c", listed=3), CrawlSummary("c", listed=3, undecided=2, would_request={"api": 4})
    assert not [name for name in as_done(real) if name.startswith("would") or name == "undecided"]
    assert as_done(dry)["would_request"] == {"api": 4}
    assert as_done(dry)["undecided"] == 2


def test_what_is_logged_is_a_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.Logger("hubprobe.x")
    logger.addHandler(Lines())
    logger.warning("%d models", 3)
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("it failed")
    first, second = _lines(capsys.readouterr().err)
    assert (first["event"], first["level"], first["message"]) == ("log", "warning", "3 models")
    assert "traceback" not in first
    assert second["traceback"].endswith("ValueError: no")
