import csv
import io
import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubprobe.output import SUFFIXES, Guarded, output_file, render, write_batches
from workspace import HubprobeError, Workspace

ROWS = [
    {"rank": 1, "label": '=HYPERLINK("http://evil")', "score": 0.5, "tags": ["a", "b"]},
    {"rank": 10, "label": "dog\x1b[2J\nnext", "score": None, "tags": None},
]


def test_table_is_aligned_and_harmless():
    lines = render(ROWS, ["rank", "label", "score"]).splitlines()
    assert lines[0].split() == ["rank", "label", "score"]
    assert lines[2].startswith("   1  ")
    assert lines[3].startswith("  10  dog[2J next")
    assert "\x1b" not in "".join(lines)


def test_ideographs_take_two_places():
    lines = render([{"a": "目覚まし時計", "b": 1}, {"a": "clock", "b": 2}], ["a", "b"]).splitlines()
    assert lines[1].startswith("─" * 12 + "  ")
    assert lines[2:] == ["目覚まし時計  1", "clock         2"]


def test_json_and_csv_read_back():
    assert json.loads(render(ROWS, ["rank", "label"], "json")) == [
        {"rank": r["rank"], "label": r["label"]} for r in ROWS
    ]
    rows = list(csv.DictReader(io.StringIO(render(ROWS, ["rank", "label", "tags"], "csv"))))
    assert rows[0]["label"].startswith("'=")
    assert rows[1]["label"] == ROWS[1]["label"]
    assert json.loads(rows[0]["tags"]) == ["a", "b"]


def test_no_rows_is_still_a_table():
    assert render([], ["rank"]).splitlines()[0] == "rank"
    assert json.loads(render([], ["rank"], "json")) == []


HOSTILE = "\x1b[2J\x9b31m\u202egpj.exe\u2066\x07\x08\r\x00\u200b\U000e0041\u2028"


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_control_characters_and_obeys_none():
    screen = Screen()
    out = Guarded(screen, bars=False)
    assert out.write(f"犬 é\t{HOSTILE}\n") == len(HOSTILE) + 5
    shown = screen.getvalue()
    assert shown.startswith("犬 é\t\\x1b[2J")
    assert shown.endswith("\n")
    assert not set(HOSTILE) & set(shown) - set("[2J31mgpj.exe")


def test_bars_are_drawn_and_names_in_them_disarmed():
    screen = Screen()
    out = Guarded(screen, bars=True)
    out.write("\r 50%|#####     | owner/\rname\x1b[A\r")
    out.write("\x1b[A")
    assert screen.getvalue() == "\r 50%|#####     | owner/\\rname\\x1b[A\r\x1b[A"


def _command(*arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "hubprobe", *arguments], {**os.environ, **environment}


def _on_a_terminal(*arguments: str) -> str:
    """Run the command line with a terminal for stdout and stderr; return what it was sent."""
    command, environment = _command(*arguments)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # Linux: the other end is closed
        while piece := os.read(ours, 65_536):
            seen += piece
    os.close(ours)
    process.wait()
    return seen.decode()


def test_nothing_reaches_a_terminal_armed(tmp_path):
    workspace = Workspace.create(tmp_path / "w")
    statement = "SELECT chr(27) || '[31m' || chr(8238) || chr(155) || 'x' AS \"a\x1b[5m\""
    for arguments in (("--format", "csv"), ("--format", "md"), ("--bad\x1b[5m\u202e",)):
        seen = _on_a_terminal("sql", "-w", str(workspace.root), statement, *arguments)
        assert "x" in seen
        assert not {"\x1b", "\u202e", "\x9b"} & set(seen)


@pytest.mark.parametrize(("encoding", "kind"), [("ascii", "table"), ("cp1252", "csv"), ("gbk", "table")])
def test_any_encoding_of_stdout_will_do(tmp_path, encoding, kind):
    workspace = Workspace.create(tmp_path / "w")
    command, environment = _command(
        "sql", "-w", str(workspace.root), "SELECT 'ü犬🐕' AS a", "--format", kind, PYTHONIOENCODING=encoding
    )
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"a")


def _batches() -> list[pa.RecordBatch]:
    return pa.table({"n": [1, 2, 3], "label": ["=1+1", "a|b", None]}).to_batches(max_chunksize=2)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_suffix_is_written_and_read_back(tmp_path, suffix):
    path = tmp_path / f"rows{suffix}"
    sheets = pytest.importorskip("openpyxl") if suffix == ".xlsx" else None
    with output_file(path) as file:
        batches = _batches()
        assert write_batches(batches, batches[0].schema, SUFFIXES[suffix], file) == (3, 0)
    content = path.read_bytes()
    labels = ["=1+1", "a|b", None]
    if sheets is not None:
        cells = list(sheets.load_workbook(path).active.iter_rows())
        assert [row[1].value for row in cells] == ["label", *labels]
        assert cells[1][1].data_type == "s"  # a stranger's formula is text
    elif suffix == ".parquet":
        assert pq.read_table(path).column("label").to_pylist() == labels
    elif suffix == ".arrow":
        assert pa.ipc.open_file(path).read_all().column("label").to_pylist() == labels
    elif suffix == ".json":
        assert [row["label"] for row in json.loads(content)] == labels
    elif suffix == ".jsonl":
        assert [json.loads(line)["label"] for line in content.splitlines()] == labels
    elif suffix == ".csv":
        assert content == b"n,label\n1,'=1+1\n2,a|b\n3,\n"
    elif suffix == ".md":
        assert content.decode().splitlines()[3] == "| 2 | a\\|b |"
    else:
        assert len(content.decode().splitlines()) == 5
    assert list(tmp_path.iterdir()) == [path]


def test_no_rows_are_still_the_format(tmp_path):
    schema = pa.schema([("n", pa.int64())])
    for kind, expected in (("json", []), ("jsonl", None), ("csv", None)):
        file = io.BytesIO()
        assert write_batches([], schema, kind, file) == (0, 0)
        assert (json.loads(file.getvalue()) if kind == "json" else None) == expected


def _write(path: Path, content: bytes) -> None:
    with output_file(path) as file:
        file.write(content)
        if not content:
            raise ZeroDivisionError


def test_what_cannot_be_written_is_one_sentence(tmp_path):
    for path in (tmp_path / "no" / "x.csv", tmp_path, Path("/dev/full"), Path("/proc/x.csv")):
        with pytest.raises(HubprobeError, match="cannot write") as refused:
            _write(path, b"x" * 100_000)
        assert "\n" not in str(refused.value)
    old = tmp_path / "old.csv"
    old.write_text("old")
    with pytest.raises(ZeroDivisionError):
        _write(old, b"")
    assert old.read_text() == "old"
    assert list(tmp_path.iterdir()) == [old]


def test_the_suffix_names_the_format(tmp_path):
    workspace = Workspace.create(tmp_path / "w")

    def sql(*arguments: str) -> subprocess.CompletedProcess[str]:
        command, environment = _command("sql", "-w", str(workspace.root), "SELECT 1 AS one", *arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    out = tmp_path / "rows.parquet"
    assert sql("--out", str(out)).returncode == 0
    assert pq.read_table(out).to_pylist() == [{"one": 1}]
    for arguments, advice in (
        (("--out", str(out), "--format", "csv"), "give one of the two"),
        (("--out", str(tmp_path / "rows.xyz")), "End it in"),
        (("--out", str(tmp_path / "no" / "rows.csv")), "there is no folder"),
        (("--out", str(tmp_path)), "directory"),
    ):
        done = sql(*arguments)
        assert done.returncode == 2
        assert advice in " ".join(done.stderr.split())
        assert "Traceback" not in done.stderr
