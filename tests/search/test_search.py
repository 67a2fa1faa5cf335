"""Searching a small workspace: against the definition, by every kind of query."""

import re

import numpy as np
import pytest

import search
from search.scan.scoring import Descriptor
from workspace import MissingStepError, QueryError


def keys(table):
    return [(r["repo_id"], r["sha"], r["logit"]) for r in table.to_pylist()]


@pytest.mark.parametrize("k", [1, 7, 64, 300, 5000])
def test_hits_are_the_nearest_by_definition(made, opened, k):
    query = opened.descriptor("dog")
    expected = made.distances(query.vector, k)[:25]
    for ask in (opened.search("dog", k=k).limit(25), opened.search("dog", k=k).limit(25).exact()):
        table = ask.to_arrow()
        assert keys(table) == [key for _, key in expected]
        np.testing.assert_allclose(table.column("distance").to_numpy(), [d for d, _ in expected], rtol=1e-6)


def test_text_finds_the_concept(made, opened):
    for hit in opened.search("guitar", k=10).limit(3).to_dicts():
        assert made.truth["models"][hit["repo_id"]]["logits"][hit["logit"]] == "guitar"


def test_columns_scores_and_ranks(opened):
    table = opened.search("dog").limit(5).to_arrow()
    assert table.column_names[:7] == ["rank", "score", "distance", "repo_id", "sha", "logit", "label"]
    assert table.column("rank").to_pylist() == [1, 2, 3, 4, 5]
    scores = table.column("score").to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert {"downloads", "license", "tags", "parameters"} <= set(table.column_names)
    assert list(opened.search("dog").limit(5).to_pandas().columns) == table.column_names


def test_similar_leaves_out_its_own_model(made, opened):
    repo, sha, logit = next(iter(made.vectors))
    concept = made.truth["models"][repo]["logits"][logit]
    hits = opened.similar(repo, logit).limit(3).to_dicts()
    assert all(h["repo_id"] != repo for h in hits)
    assert made.truth["models"][hits[0]["repo_id"]]["logits"][hits[0]["logit"]] == concept
    own = opened.similar(repo, logit, sha=sha, other_models_only=False).limit(1).to_dicts()[0]
    assert (own["repo_id"], own["logit"], own["distance"]) == (repo, logit, 0.0)


def test_by_model_ranks_models_by_their_nearest_logit(made, opened):
    every = [key[:2] for _, key in made.distances(opened.descriptor("dog").vector, 64)]
    expected = list(dict.fromkeys(every))
    table = opened.search("dog").by("model").limit(100).to_arrow()
    assert [key[:2] for key in keys(table)] == expected
    assert [key[:2] for key in keys(opened.search("dog").by("model").limit(3).to_arrow())] == expected[:3]


def test_full_ranks_as_correlation_does(made, opened):
    query = opened.descriptor("dog")
    table = opened.search("dog", scoring="full").limit(20).to_arrow()
    correlation = {k: np.corrcoef(query.vector, v.astype(np.float64))[0, 1] for k, v in made.vectors.items()}
    assert keys(table) == sorted(correlation, key=lambda k: -correlation[k])[:20]


@pytest.mark.parametrize("k", [8, 64, 300])
def test_strong_is_the_cosine_of_squared_positive_responses(made, opened, k):
    q = opened.descriptor("dog").vector.astype(np.float64)
    left_out = np.argsort(-q, kind="stable")[k:]
    a = np.maximum(q, 0) ** 2
    a[left_out] = 0
    squares = {key: np.maximum(g.astype(np.float64), 0) ** 2 for key, g in made.vectors.items()}
    exact = {key: 1 - a @ g / np.linalg.norm(a) / np.linalg.norm(g) for key, g in squares.items()}
    table = opened.search("dog", scoring="strong", k=k).limit(20).to_arrow()
    assert keys(table) == sorted(exact, key=lambda key: (exact[key], key))[:20]
    np.testing.assert_allclose(table.column("distance").to_numpy(), sorted(exact.values())[:20], rtol=1e-5, atol=1e-6)


def test_an_example_image_finds_its_concept(made, opened):
    from PIL import Image

    grey = np.zeros((1, 20, 3), np.uint8)
    grey[0, 7] = 255
    hit = opened.search(Image.fromarray(grey), k=10).limit(1).to_dicts()[0]
    assert made.truth["models"][hit["repo_id"]]["logits"][hit["logit"]] == "apple"


def test_one_number_per_probe_is_a_query(opened):
    vector = opened.descriptor("cat").vector
    a, b = (opened.search(q).limit(5).to_arrow() for q in (vector * 3 + 1, Descriptor(vector)))
    assert keys(a) == keys(b) == keys(opened.search("cat").limit(5).to_arrow())


def test_ties_go_to_the_lower_key(fresh):
    vector = next(iter(fresh.vectors.values()))
    fresh.write("twins", [{"repo_id": r, "logit": i, "vector": vector} for r in ("z/twin", "a/twin") for i in (1, 0)])
    fresh.index()
    hits = fresh.open().search(vector.astype(np.float32)).limit(5).to_dicts()
    first = [("a/twin", 0), ("a/twin", 1), ("owner0/model-000", 0), ("z/twin", 0)]
    assert [(h["repo_id"], h["logit"]) for h in hits[:4]] == first


@pytest.mark.parametrize("text", ["", "   ", "\x00", "x" * 100_000])
def test_texts_that_are_no_concept(opened, text):
    with pytest.raises(QueryError):
        opened.search(text)


@pytest.mark.parametrize("text", ["a", "🐶", "собака", "犬", "dog'; DROP TABLE models; --", "\ud800 dog", "dog " * 200])
def test_texts_that_are_odd_but_answered(opened, text):
    assert opened.search(text).limit(3).to_arrow().num_rows == 3


def test_queries_that_cannot_be_compared(opened):
    with pytest.raises(QueryError, match="values"):
        opened.search(np.arange(7.0))
    with pytest.raises(QueryError, match="finite"):
        opened.search(np.full(300, np.nan))
    with pytest.raises(QueryError, match="alike"):
        opened.search(np.ones(300))
    with pytest.raises(QueryError, match="unknown scoring"):
        opened.search("dog", scoring="magic").to_arrow()
    with pytest.raises(QueryError, match="at least 1"):
        opened.search("dog", k=0).to_arrow()
    with pytest.raises(QueryError, match="limit"):
        opened.search("dog").limit(0)
    with pytest.raises(QueryError, match="not in the index"):
        opened.similar("no/body", 0)
    with pytest.raises(QueryError, match="no searchable logit"):
        opened.similar("owner0/model-000", 99)


@pytest.mark.parametrize("asked", ["model-001", "somebody/MODEL-001", "owner1/modell-001"])
def test_a_repository_that_is_unknown_is_answered_with_near_names(opened, asked):
    with pytest.raises(QueryError, match="did you mean owner1/model-001"):
        opened.similar(asked, 0)


def test_more_hits_asked_than_there_are(made, opened):
    assert opened.search("dog").limit(10_000).to_arrow().num_rows == len(made.vectors)


def test_no_index_yet(fresh):
    with pytest.raises(MissingStepError, match="hubprobe index"):
        search.open(fresh.workspace)


def test_what_is_not_in_the_index_is_named_with_what_is(opened):
    for ask, advice in (
        (lambda: opened.similar("owner1/model-01", 0), "owner1/model-001"),
        (lambda: opened.similar("owner1/model-001", 999), "10 are searchable"),
        (lambda: opened.similar("owner1/model-001", 0, sha="0" * 40), "is in the index at"),
        (lambda: opened.similar("zzz", 0), "SELECT repo_id FROM models"),
    ):
        with pytest.raises(QueryError, match=re.escape(advice)):
            ask()


def test_coverage_takes_a_filter(opened):
    assert opened.coverage("dog", where="downloads < 0").probability == 0.0
    assert opened.coverage("dog", where="downloads >= 0") == opened.coverage("dog")
