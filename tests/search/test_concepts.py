"""The list of concepts says what asking for each of them says."""

from __future__ import annotations

import numpy as np
import pytest

from search import concepts
from search.concepts import STANDS_OUT
from search.text import bank
from search.views import attach, read_view
from tests.search.conftest import make
from workspace import MissingStepError


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    made = make(tmp_path_factory.mktemp("concepts"))
    made.index(names=True)
    return made


def test_every_concept_of_the_bank_is_there_once(counted):
    table = counted.open().concepts()
    assert table.column("concept").to_pylist() == [c.name for c in bank.bank()]
    assert table.equals(read_view(counted.workspace, "concepts"))


@pytest.mark.parametrize("concept", ["dog", "cat", "pizza", "zebra", "volcano"])
def test_a_concept_is_what_its_search_says(counted, concept):
    index = counted.open()
    (row,) = [r for r in index.concepts().to_pylist() if r["concept"] == concept]
    (hit,) = index.search(concept, scoring="bridged").limit(1).to_dicts()
    assert (row["repo_id"], row["sha"], row["logit"]) == (hit["repo_id"], hit["sha"], hit["logit"])
    assert row["score"] == pytest.approx(hit["score"], abs=1e-4)
    coverage = index.coverage(concept)
    assert row["probability"] == pytest.approx(coverage.probability, abs=1e-3)
    assert row["covered"] == coverage.covered
    every = np.arange(len(index))
    scores = 1.0 - index.gallery.distances(index.gallery.compile(index.descriptor(concept), "bridged"), every)
    stand = (scores - scores.mean()) / scores.std()
    assert row["models"] == len({index.gallery.model_of[i] for i in every[stand >= STANDS_OUT]})


@pytest.mark.parametrize("step", [1, -1, 7])
def test_a_model_counts_once_wherever_its_outputs_lie(counted, monkeypatch, step):
    index = counted.open()
    apart = index.gallery.model_of[np.argsort(np.arange(len(index)) * step % len(index), kind="stable")]
    monkeypatch.setattr(index.gallery, "model_of", apart)
    at_once = concepts.concepts_table(index.gallery, index.texts, progress=False).column("models").to_pylist()
    assert max(at_once) > 1
    monkeypatch.setattr(concepts, "_ROWS", 7)  # an output is in another batch than its model's last
    split = concepts.concepts_table(index.gallery, index.texts, progress=False)
    assert split.column("models").to_pylist() == at_once
    for name in ("dog", "zebra"):
        found = index.gallery.distances(index.gallery.compile(index.descriptor(name), "bridged"), np.arange(len(index)))
        stand = (found.mean() - found) / found.std() >= STANDS_OUT
        assert at_once[split.column("concept").to_pylist().index(name)] == len(set(apart[stand].tolist()))


def test_some_concepts_are_answered_and_others_by_nobody(counted):
    answered = counted.open().sql("SELECT concept FROM concepts WHERE models > 0").column("concept").to_pylist()
    assert 0 < len(answered) < len(bank.bank()) / 2
    assert {"dog", "cat"} & set(answered)


def test_an_index_without_the_list_says_how_to_make_one(fresh, tmp_path):
    fresh.index()  # names are left out
    with pytest.raises(MissingStepError, match="hubprobe index"):
        fresh.open().concepts()
    assert "models" in attach(fresh.workspace, tmp_path / "all.duckdb")  # the other tables are there all the same
