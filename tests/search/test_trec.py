"""TREC runs and qrels: what we write, an independent reader of the format can score."""

import pytest

import search
from search.evaluation import read_qrels, write_trec
from workspace import QueryError


def test_runs_and_qrels_give_the_ranks_of_evaluate(made, tmp_path):
    files = write_trec(made.workspace, made.truth, tmp_path, scorings=["probelog"], k=15, encoder=made.encoder)
    assert sorted(path.name for path in files) == ["probelog.run", "truth.qrels"]
    relevant = {}
    for line in (tmp_path / "truth.qrels").read_text().splitlines():
        query, _, document, _ = line.split()
        relevant.setdefault(query, set()).add(document)
    first = {}
    for line in (tmp_path / "probelog.run").read_text().splitlines():
        query, literal, document, rank, score, tag = line.split()
        assert (literal, tag) == ("Q0", "hubprobe-probelog")
        float(score)
        if document in relevant[query]:
            first.setdefault(query, int(rank))
    ranks = search.evaluate(
        made.workspace, made.truth, scorings=["probelog"], k=15, encoder=made.encoder, progress=False
    )
    rows = [r for r in ranks.ranks.to_pylist() if r["task"] == "text"]
    assert {r["concept"]: r["rank"] for r in rows} == first


def test_qrels_are_read_as_a_truth(made, tmp_path):
    write_trec(made.workspace, made.truth, tmp_path, scorings=[], encoder=made.encoder)
    truth = read_qrels((tmp_path / "truth.qrels").read_text())
    assert truth["models"] == made.truth["models"]
    assert truth["concepts"]["dog"]["name"] == "dog"


@pytest.mark.parametrize("line", ["dog 0 owner/model 1", "dog owner/model#1 1", "dog 0 owner/model#x 1"])
def test_a_line_of_another_shape_is_named(line):
    with pytest.raises(QueryError, match="line 2"):
        read_qrels(f"cat 0 a/b#0 1\n{line}\n")
