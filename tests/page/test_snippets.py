"""What the page offers for copying finds what the page found."""

import io
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from PIL import Image

from hubprobe.cli.app import cli
from hubprobe.page.question import Question, answer, snippets
from tests.page.conftest import Served
from tests.search.conftest import probe_png

QUESTIONS = [
    Question(q="dog"),
    Question(q='a "red" car\'s $HOME `x`', n=4),
    Question(q="-dog"),
    Question(q="guitar", license="mit", min_downloads=300, by="model", n=5),
    Question(q="cat", where="label_quality = 'named' OR downloads < 100 -- or so", license="mit"),
    Question(q="bus", by="family"),
    Question(like="owner1/model-001", logit=3, license="mit"),
    Question(like="owner1/model-001", logit=3, by="model", n=4),
]


@pytest.fixture
def small(served: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Beside the workspace, with its encoder at hand, as a reader of the page would be."""
    monkeypatch.chdir(served.made.workspace.root.parent)
    monkeypatch.setattr("search.texts.load_encoder", lambda *_, **__: served.made.encoder)
    monkeypatch.setattr("search.texts.load_tower", lambda *_, **__: None)
    return served


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.url()[2:42])
def test_every_snippet_finds_what_the_page_finds(small: Served, question: Question) -> None:
    expected = _keys(answer(small.current, small.current.get(), question).hits)
    assert expected
    python, sql, shell = snippets(question, small.made.workspace.root.name).values()
    assert _keys(_run(python).to_dict("records")) == expected
    assert _keys(small.made.open().sql(sql).to_pylist()) == expected
    assert _keys(_command(shell)) == expected


def test_an_example_image(small: Served, tmp_path: Path) -> None:
    data = probe_png(small.made.content[4])
    path = tmp_path / "my 'own' picture.png"
    path.write_bytes(data)
    question = Question(image=small.current.remember(data, path.name), license="mit")
    expected = _keys(answer(small.current, small.current.get(), question).hits)
    python, sql, shell = snippets(question, small.made.workspace.root.name, str(path)).values()
    assert _keys(_run(python).to_dict("records")) == expected
    assert _keys(_command(shell)) == expected
    assert sql.startswith("-- SQL reads no image")
    assert Image.open(io.BytesIO(data)).size


def test_no_path_of_the_server_is_shown(small: Served) -> None:
    for question in QUESTIONS:
        for one in snippets(question, small.made.workspace.root.name).values():
            assert str(small.made.workspace.root.parent) not in one


def _run(code: str):
    names: dict = {"print": lambda *_: None}
    exec(code, names)
    return names["hits"]


def _command(line: str) -> list[dict]:
    program, *args = shlex.split(line)
    assert program == "hubprobe"
    verb, *rest = args
    done = CliRunner().invoke(cli, [verb, "--format", "json", *rest], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def _keys(rows: list) -> list[tuple]:
    one = [row if isinstance(row, dict) else SimpleNamespace(**row).__dict__ for row in rows]
    return [(row["repo_id"], row["logit"], round(row["score"], 9)) for row in one]
