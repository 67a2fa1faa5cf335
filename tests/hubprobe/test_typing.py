"""Verbs as they are typed: what they print, and what they ask back in a terminal."""

import json
import sys

import pyarrow as pa
import pytest
from click.testing import CliRunner

from hubprobe.cli.use import _ask
from hubprobe.pick.images import FOREIGN
from tests.search.conftest import make
from tests.typed import hubprobe


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    made = make(tmp_path_factory.mktemp("typed") / "w", models=4, n=60)
    made.index()
    made.open().prepare(["dog"])
    return str(made.workspace.root)


MODEL = "owner1/model-001"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["search"], 2, "one of the three"),
        (["search", "dog", "--all-of", "cat"], 2, "one of the three"),
        (["search", "dog", "--where", "downloads > 10000"], 0, "no logit passes the filter"),
        (["search", "dog", "--exact", "--explain"], 0, "40 logits x 60 probes, fp16, all of them"),
        (["similar", MODEL, "--whole"], 2, "need a LOGIT"),
        (["sql", "SELECT 1", "--attach", "x.duckdb"], 2, "one of the three"),
        (["index", "--verify"], 0, ""),
        (["index", "info"], 0, ""),
        (["audit", "--repo", "owner0/model-000"], 1, "no logit with a label that the concept bank knows"),
    ],
)
def test_verbs_that_ask_an_index(root, words, code, said):
    done = hubprobe(
        words[0], *(words[1:2] if words[1:2] == ["info"] else []), "-w", root, *words[1:][words[1:2] == ["info"] :]
    )
    assert done.returncode == code, done.stderr
    assert said in done.stderr


def test_models_like_a_model_are_a_table_or_records(root):
    rows = json.loads(hubprobe("similar", "-w", root, MODEL, "--format", "json").stdout)
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    assert MODEL not in {row["repo_id"] for row in rows}
    table = hubprobe("similar", "-w", root, MODEL).stdout
    assert all(row["repo_id"] in table for row in rows)


def at_a_terminal(monkeypatch, lines):
    """Have lines typed at a terminal; an exception in place of one is what a key makes."""
    left = iter(lines)

    def typed(_prompt):
        line = next(left, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(type(sys.stdin), "isatty", lambda _: True, raising=False)
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda _: True})())


def test_sql_asks_line_by_line_and_goes_on_after_an_error(root, monkeypatch):
    at_a_terminal(
        monkeypatch,
        [
            "",
            "SELECT 40 + 2",
            "AS answer;",
            "SELECT nonsense;",
            "SELECT 1 AS",
            KeyboardInterrupt(),
            "SELECT 7 AS x; SELECT 8 AS y;",
        ],
    )
    done = hubprobe("sql", "-w", root, "--format", "csv")
    assert done.returncode == 0
    assert done.stdout.split() == ["answer", "42", "x", "7", "y", "8"]
    assert "end a statement with ;" in done.stderr
    assert "nonsense" in done.stderr


def test_sql_from_a_file_to_a_file(root, tmp_path):
    script, out = tmp_path / "two.sql", tmp_path / "rows.csv"
    script.write_text("SELECT 1 AS a; SELECT 2 AS b;")
    assert hubprobe("sql", "-w", root, "-f", str(script), "--format", "csv").stdout.split() == ["a", "1", "b", "2"]
    done = hubprobe("sql", "-w", root, "-f", str(script), "--out", str(out))
    assert done.returncode == 2
    assert "one statement, not of 2" in done.stderr
    script.write_text("SELECT range AS n FROM range(3)")
    done = hubprobe("sql", "-w", root, "-f", str(script), "--out", str(out))
    assert (done.returncode, out.read_text().split()) == (0, ["n", "0", "1", "2"])
    assert f"3 rows: {out}" in done.stderr


def test_what_an_image_shows_is_asked_until_the_answer_is_one():
    for typed, wanted in {"7\nx\n2\n": 1, "0\n": FOREIGN, "q\n": None}.items():
        with CliRunner().isolation(input=typed) as (_, err, *_):
            assert _ask("photo\x1b.png", b"RIFF", ["dog", "cat"]) == wanted
            said = err.getvalue().decode()
        assert "1 dog  2 cat  0 none of these  q enough" in said
        assert "\x1b" not in said
        assert said.count("a number from 0 to 2, or q") == (2 if wanted == 1 else 0)


def test_a_table_with_no_rows_is_written_too(root, tmp_path):
    out = tmp_path / "none.arrow"
    assert hubprobe("sql", "-w", root, "SELECT 1 AS a WHERE false", "--out", str(out)).returncode == 0
    with pa.memory_map(str(out)) as file:
        assert pa.ipc.open_file(file).read_all().num_rows == 0
