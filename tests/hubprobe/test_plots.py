import json
import warnings
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pytest
from click.testing import CliRunner
from PIL import Image

from hubprobe import plots
from hubprobe.cli import cli
from hubprobe.plots.style import drawable, picture, shown
from tests.docs.pages import ROOT
from workspace import ConfigError, MissingStepError, Workspace, records
from workspace.files import write_table

NOW = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
HOSTILE = [
    "$\\frac{$",
    "$\\frac{",
    "$x^2$",
    "\x1b[31mred\x1b[0m",
    "a\nb",
    "\u202eevil",
    "馬",
    "😀",
    "_{x}",
    "&<b>%d%s",
    "\ud800",
    "",
]


def attempt(name, after, status="ok", seconds=1.0, number=1, run_id="r1"):
    outcome = {"ok": "ok", "gated": "skipped"}.get(status, "failed")
    return {
        "repo_id": name, "sha": "0" * 40, "attempt": number, "outcome": outcome, "status": status, "reason": "",
        "started_at": NOW + timedelta(seconds=after), "run_id": run_id, "seconds_fetch": seconds / 4,
        "seconds_forward": seconds * 3 / 4,
    }  # fmt: skip


@pytest.fixture
def attempted(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    rows = [
        attempt("a/0", 0, seconds=2),
        attempt("a/1", 2, seconds=8),  # ends after 10 s: in the second bar of 10 s
        attempt("a/2", 3, "timeout", seconds=4),
        attempt("a/2", 12, "timeout", seconds=4, number=2, run_id="r2"),
        attempt("a/3", 14, "corrupt_file", seconds=0, run_id="r2"),
        attempt("a/4", 15, seconds=10, run_id="r2"),
        attempt("a/5", 1, "gated", seconds=0),
    ]
    write_table(workspace.attempts_dir / "a.parquet", pa.Table.from_pylist(rows, records.ATTEMPTS))
    return workspace


def test_an_attempt_counts_when_it_ended(attempted, tmp_path):
    rows = plots.throughput(attempted, tmp_path / "t.png", every=10)
    assert [(row["probed"], row["failed"], row["seconds"]) for row in rows] == [(1, 1, 10), (1, 2, 10), (1, 0, 5)]
    assert [row["probed_per_hour"] for row in rows] == [360, 360, 720]  # the last bar covers half of its width
    assert [row["failures"] for row in rows] == [{"timeout": 1}, {"timeout": 1, "corrupt_file": 1}, {}]
    assert rows[1]["from"] == "2026-01-01T12:00:10+00:00"
    assert sum(row["failed"] for row in plots.throughput(attempted, tmp_path / "t.png", run_id="r2")) == 2
    with Image.open(tmp_path / "t.png") as image:
        assert 1300 < image.width < 1400


def test_throughput_says_what_is_missing(attempted, tmp_path):
    with pytest.raises(ConfigError, match="run 'r9' ran no model"):
        plots.throughput(attempted, tmp_path / "t.png", run_id="r9")
    with pytest.raises(ConfigError, match="too many to draw"):
        plots.throughput(attempted, tmp_path / "t.png", every=0.001)
    with pytest.raises(MissingStepError, match="hubprobe probe"):
        plots.throughput(Workspace.create(tmp_path / "empty"), tmp_path / "t.png")
    assert not (tmp_path / "t.png").exists()


def test_nothing_that_a_stranger_writes_is_mathematics_or_unseen(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a missing glyph is a warning
        with picture(tmp_path / "p.svg", 4, 4) as figure:
            axes = figure.subplots()
            axes.set_yticks(range(len(HOSTILE)), [shown(text) for text in HOSTILE])
            axes.set_title(shown(" ".join(HOSTILE), 400))
    drawn = (tmp_path / "p.svg").read_text(encoding="utf-8")
    assert "$x^2$" in drawn  # a text's comment holds it as it is: mathematics would have lost its dollars
    assert "\x1b" not in drawn
    assert "\u202e" not in drawn


def test_text_is_cut_after_it_was_made_drawable(monkeypatch):
    monkeypatch.setattr("hubprobe.plots.style._drawable", lambda: frozenset(range(32, 127)) | {ord("…")})
    assert shown("horse", 5) == "horse"
    assert shown("馬") == "U+99AC"
    assert shown("馬馬馬 horse", 16) == "U+99AC U+99AC…"
    assert drawable("a cat")
    assert not drawable("a 馬")


def test_a_picture_is_the_same_again_and_only_of_known_kinds(tmp_path):
    for name in ("a.png", "b.svg", "c.pdf"):
        twice = []
        for _ in range(2):
            with picture(tmp_path / name, 2, 2) as figure:
                figure.subplots().plot([1, 2])
            twice.append((tmp_path / name).read_bytes())
        assert twice[0] == twice[1]
    with (
        pytest.raises(ConfigError, match=r"'a\.gif': name a file that ends in \.png"),
        picture(tmp_path / "a.gif", 2, 2),
    ):
        raise AssertionError("nothing is drawn that cannot be written")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.svg", "c.pdf"]


# ── the recorded curve ───────────────────────────────────────────────────────────────────────────────────────────
RECORDED = ROOT / "benchmarks" / "accuracy" / "results"


@pytest.mark.parametrize("name", ["partial_imagenet", "partial_minihub"])
def test_a_recorded_curve_is_the_record(name, tmp_path):
    rows = plots.recorded_curve(RECORDED / f"{name}.json", tmp_path / "c.png")
    recorded = [r for r in json.loads((RECORDED / f"{name}.json").read_text())["rows"] if r["part"] == "test"]
    assert [(r["mode"], r["share"], r["text_of_full"]) for r in rows] == [
        (r["mode"], r["share"], r["text_of_full"]) for r in recorded
    ]
    assert (tmp_path / "c.png").stat().st_size > 10_000


@pytest.mark.parametrize("content", ["{}", '{"rows": []}', '{"rows": [{"part": "test"}]}', "[1]", '{"rows": 3}'])
def test_what_is_no_record_is_refused(content, tmp_path):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(ConfigError, match="is no record of partial probing"):
        plots.recorded_curve(tmp_path / "r.json", tmp_path / "c.png")


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────
def test_the_numbers_are_on_stdout_and_the_rest_is_not(attempted, tmp_path):
    out = tmp_path / "t.png"
    arguments = ["plot", "throughput", "-w", str(attempted.root), "--out", str(out), "--every", "10"]
    done = CliRunner().invoke(cli, [*arguments, "--format", "json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)[0]["failures"] == {"timeout": 1}
    assert done.stderr == f"plot: {out}\n"
    table = CliRunner().invoke(cli, arguments).stdout
    assert "probed_per_hour" in table
    assert "failures" not in table


def test_shares_belong_to_what_is_measured(tmp_path):
    source = str(RECORDED / "partial_minihub.json")
    done = CliRunner().invoke(cli, ["plot", "curve", "--from", source, "--share", "0.1", "-o", str(tmp_path / "c.png")])
    assert done.exit_code == 2
    assert "--from draws what was" in done.stderr
