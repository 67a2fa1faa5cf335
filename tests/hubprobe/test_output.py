import csv
import io
import json

from hubprobe.output import render

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
