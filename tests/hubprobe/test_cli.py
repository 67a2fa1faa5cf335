import json
import subprocess
import sys
from dataclasses import dataclass, field

import click
import pytest

from hubprobe.cli.app import _Verbs
from hubprobe.cli.options import show_summary
from hubprobe.machine import TerminatedError
from tests.seconds import children_seconds
from tests.typed import hubprobe

GATHER = ["crawl", "probes", "probe", "complete"]
VERBS = [
    *GATHER, "index", "search", "similar", "describe", "audit", "sql", "evaluate", "serve", "plot", "release", "import",
    "status", "run", "demo", "doctor",
]  # fmt: skip


def test_help_answers_in_under_a_second():
    with children_seconds() as took:  # of processors: a busy machine is not our slowness
        done = subprocess.run(
            [sys.executable, "-m", "hubprobe", "--help"], capture_output=True, text=True, check=False, timeout=300
        )
    assert done.returncode == 0
    assert all(f"  {verb}" in done.stdout for verb in VERBS)
    assert took() < 1.0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example_and_takes_a_workspace(verb):
    done = hubprobe(verb, *(["build"] if verb == "probes" else []), "--help")
    assert done.returncode == 0, done.stderr
    assert "--workspace" in done.stdout
    assert "Example" in done.stdout


def test_errors_are_one_line_that_says_what_to_do(tmp_path):
    done = hubprobe("search", "--workspace", str(tmp_path / "none"), "dog")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "hubprobe crawl" in done.stderr


def test_outside_a_workspace_it_says_what_one_is_and_where_it_looked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = hubprobe("search", "dog")
    assert done.returncode == 1
    assert f"{tmp_path} is not a hubprobe workspace, a folder that holds hubprobe.toml" in done.stderr
    assert "--workspace" in done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("serch dog", "'search'"),
        ("craw", "'crawl'"),
        ("Search dog", "'search'"),
        ("imprt x", "'import'"),
        ("plot fnnel", "'funnel'"),
        ("probes biuld", "'build'"),
        ("index infos", "'info'"),
        ("search --limt 3", "'--limit'"),
    ],
)
def test_near_names_are_proposed(typed, meant):
    done = hubprobe(*typed.split())
    assert done.returncode == 2
    assert "Did you mean" in done.stderr
    assert meant in done.stderr


def test_what_is_like_no_verb_proposes_nothing():
    done = hubprobe("x\x1b[31mzzzzz")
    assert done.returncode == 2
    assert "Did you mean" not in done.stderr
    assert "\x1b" not in done.stderr


def test_a_summary_reads_as_people_read_it(capsys):
    @dataclass
    class Summary:
        bytes_fetched: int = 1_234_567
        seconds: float = 5_400.0
        would_take_hours: float = 0.01
        by_status: dict = field(default_factory=lambda: {"ok": 3, "gated": 1})
        nothing: dict = field(default_factory=dict)
        models: int = 1_000

    show_summary(Summary(), "table")
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[2:])
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert shown == {
        "bytes fetched": "1.23 MB", "seconds": "1.5 hours", "would take hours": "36 seconds",
        "by status": "ok 3, gated 1", "models": "1000",
    }  # fmt: skip
    show_summary(Summary(), "json")
    assert json.loads(capsys.readouterr().out)[0]["by_status"] == {"ok": 3, "gated": 1}


def test_wrong_usage_is_exit_code_two(tmp_path):
    assert hubprobe("search", "--workspace", str(tmp_path)).returncode == 2
    assert hubprobe("fetch").returncode == 2


def test_verbose_stands_before_a_verb_or_after_it(tmp_path):
    """Also below a group; what it adds is a traceback, and what the rooms say while they work."""
    where = ["-w", str(tmp_path / "none")]
    for line in (["-v", "status", *where], ["status", "-v", *where], ["status", *where, "--verbose"], [
        "index", "info", *where, "-v",
    ]):  # fmt: skip
        done = hubprobe(*line)
        assert done.returncode == 1, line
        assert "Traceback" in done.stderr, line
        assert "is not a hubprobe workspace" in done.stderr.splitlines()[-1]
    assert "Traceback" not in hubprobe("status", *where).stderr
    assert "--verbose" in hubprobe("probes", "build", "--help").stdout


def test_whatever_ends_a_verb_ends_it_with_a_sentence_and_a_code(monkeypatch):
    broken = {
        KeyboardInterrupt(): (130, "interrupted: run the same command again"),
        TerminatedError(): (143, "interrupted: run the same command again"),
        OSError(28, "No space left on device", "/somewhere/x"): (1, "hubprobe: /somewhere/x: No space left on device"),
        OSError(5, "Input/output error"): (1, "hubprobe: Input/output error"),
    }
    for error, (code, said) in broken.items():

        def status(raised=error):
            raise raised

        verb = click.Command("status", callback=status)
        monkeypatch.setattr(_Verbs, "get_command", lambda *_, verb=verb: verb)
        done = hubprobe("status")
        assert (done.returncode, said in done.stderr) == (code, True), (error, done)
        told = json.loads(hubprobe("--log-format", "json", "status").stderr.splitlines()[-1])
        assert (told["event"], told["code"]) == ("end", code)


@pytest.mark.parametrize("line", [["plot", "map", "--out"], ["status", "--plot"]])
def test_a_picture_makes_no_folder(tmp_path, line):
    done = hubprobe(*line, str(tmp_path / "nodir" / "x.png"))
    assert done.returncode == 2
    assert "make it first" in done.stderr
    assert not (tmp_path / "nodir").exists()
