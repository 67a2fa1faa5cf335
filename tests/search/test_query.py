"""A query as Python reads it: once run, iterable, with a length, a frame, and a picture for notebooks."""

import re
from dataclasses import replace

import pytest

from search.query import Query
from workspace import QueryError, Workspace


def test_a_query_is_read_like_a_list_and_runs_once(opened, monkeypatch):
    runs = []
    run = Query._run
    monkeypatch.setattr(Query, "_run", lambda self, trace: runs.append(self) or run(self, trace))
    query = opened.search("dog").limit(4)
    assert (len(query), list(query), bool(query)) == (4, query.to_dicts(), True)
    assert query.arrow().equals(query.to_arrow())
    assert query.df().equals(query.to_pandas())
    assert query.df()["repo_id"].tolist() == [hit["repo_id"] for hit in query]
    assert len(runs) == 1
    nothing = query.where("downloads > 1e9")
    assert (len(nothing), list(nothing)) == (0, [])
    assert nothing
    assert len(runs) == 2


def test_a_notebook_shows_hits_with_their_evidence(opened):
    shown = opened.search("dog").limit(12)._repr_html_()
    assert shown.count("<tr>") == 11
    assert "and 2 more" in shown
    sources = re.findall(r'src="(data:image/jpeg;base64,[^"]+)"', shown)
    assert len(sources) == 60
    assert 'title="a dog (+' in shown
    assert opened.search("dog").where("downloads > 1e9")._repr_html_().count("no hit") == 1
    assert "<img" not in replace(opened.search("dog"), workspace=None)._repr_html_()


def test_strangers_text_in_a_notebook_is_text(opened, monkeypatch):
    query = opened.search("<script>alert(1)</script>").limit(1)
    table = query.to_arrow()
    at = table.column_names.index("label")
    evil = table.set_column(at, "label", [["<img src=x onerror=alert(1)>"]])
    monkeypatch.setattr(Query, "_run", lambda *_: evil)
    shown = replace(query)._repr_html_()
    assert "<script" not in shown
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        lambda index: index.search("dog").limit("3"), lambda index: index.search("dog").limit(True),
        lambda index: index.search("dog").where(3), lambda index: index.similar("owner1/model-001", "0"),
        lambda index: index.similar(1, 0), lambda index: index.similar("owner1/model-001", 1.5),
        lambda index: index.describe(3), lambda index: index.sql(3), lambda index: index.coverage(3),
        lambda index: index.search("dog", k="x"), lambda index: index.search(all_of="dog"),
        lambda index: index.search_many("dog"), lambda index: index.similar_models(3), lambda _: Workspace.open(3),
    ],
)  # fmt: skip
def test_wrong_types_are_said_in_words(opened, wrong):
    with pytest.raises(TypeError, match=r", not (str|bool|int|float)$"):
        wrong(opened)


def test_the_name_of_a_picture_is_no_concept(opened):
    with pytest.raises(QueryError, match=r"'my cat.JPG' reads like the name of a picture.*--image"):
        opened.search("my cat.JPG")


def test_what_is_done_can_be_read_along(fresh, caplog):
    fresh.index()
    with caplog.at_level("INFO", logger="search"):
        found = fresh.open().search("dog").to_dicts()
    assert len(found) == 10
    for said in ("50 logits of 5 models", "1 of 1 texts", "dog, scoring", "10 hits"):
        assert said in caplog.text
