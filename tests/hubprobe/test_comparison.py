"""Models side by side: matches, agreement and differences are what a plain look at the numbers says."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

import hubprobe
from hubprobe import comparison
from hubprobe.cli.app import cli
from hubprobe.comparison import one_to_one
from tests.search.conftest import make, write_descriptors
from workspace import QueryError
from workspace.files import write_table

N = 300


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two models: b's outputs 0, 1, 2 answer as a's 2, 0, 1 do, but for ten probes; each has one more of its own."""
    made = make(tmp_path_factory.mktemp("two"))
    random = np.random.default_rng(0)
    raw = random.standard_normal((5, N)).astype(np.float32)
    shown, answered = np.arange(0, N, 5), random.integers(0, 3, N)
    raw[answered[shown], shown] += 8
    other = raw[[2, 0, 1]].copy()
    unlike = random.permutation(shown)[:10]
    other[[(1, 2, 0)[i] for i in answered[unlike]], unlike] -= 8
    other[[(2, 0, 1)[i] for i in answered[unlike]], unlike] += 8
    rows = []
    for repo, outputs in (("x/a", raw[:4]), ("x/b", np.concatenate([other, raw[4:]]))):
        for logit, values in enumerate(outputs):
            mean, std = float(values.mean()), float(values.std())
            rows.append({"repo_id": repo, "sha": "f" * 40, "logit": logit, "label": f"{repo[-1]}{logit}", "mean": mean,
                         "std": std, "variance": 0.0, "vector": (values - mean) / std})  # fmt: skip
    write_descriptors(made.workspace, rows, N, "two")
    made.index()
    return made, set(unlike.tolist())


def test_outputs_are_matched_whatever_they_are_called(two):
    found = hubprobe.compare(two[0].workspace, ["x/a", "x/b"])
    assert [m["repo_id"] for m in found.models] == ["x/a", "x/b"]
    matches = {row["logit"]: row["matches"][0] and row["matches"][0]["logit"] for row in found.outputs}
    assert matches == {0: 1, 1: 2, 2: 0, 3: None}
    assert found.outputs[0]["matches"][0]["label"] == "b1"


def test_agreement_and_differences_are_counted_on_the_probes_that_an_output_answers(two):
    made, unlike = two
    found = hubprobe.compare(made.workspace, ["x/a", "x/b"])
    (pair,) = found.pairs
    assert (pair["a"], pair["b"], pair["same"]) == (0, 1, 3)
    assert N / 5 - 5 <= pair["probes"] <= N / 5 + 5  # every fifth shows something, and some noise stands out
    assert 1 - 14 / pair["probes"] <= pair["agreement"] <= 1 - 10 / pair["probes"]
    assert {row["probe_id"] for row in found.differences} <= unlike
    assert found.differences
    sure = [min(row["a_z"], row["b_z"]) for row in found.differences]
    assert sure == sorted(sure, reverse=True)
    assert sure[-1] >= 2


def test_a_model_agrees_with_itself_at_another_name_and_order(two):
    made, _ = two
    one, other = (hubprobe.compare(made.workspace, models).pairs[0] for models in (["x/a", "x/b"], ["x/b", "x/a"]))
    assert one == other
    models = ["owner0/model-000", "owner1/model-001", "x/a"]
    assert [(p["a"], p["b"]) for p in hubprobe.compare(made.workspace, models).pairs] == [(0, 1), (0, 2), (1, 2)]


@pytest.mark.parametrize(("models", "why"), [(["x/a"], "two to"), (["x/a", "x/a"], "two to"), (["x/a", "x/c"], "x/c"),
                                             (["x/a", "x/b@" + "0" * 40], "not at")])  # fmt: skip
def test_what_cannot_be_compared_is_a_sentence(two, models, why):
    with pytest.raises(QueryError, match=why):
        hubprobe.compare(two[0].workspace, models)


def test_the_verb_prints_tables_and_json(two):
    asked = ["compare", "x/a", "x/b", "-w", str(two[0].workspace.root)]
    table = CliRunner().invoke(cli, asked)
    assert table.exit_code == 0, table.output
    assert "b1 (" in table.output
    (found,) = json.loads(CliRunner().invoke(cli, [*asked, "--format", "json"]).stdout)
    assert found["pairs"][0]["same"] == 3


def test_the_most_similar_go_first():
    assert one_to_one(np.array([[0.9, 0.8], [0.95, 0.2]])) == [(1, 0), (0, 1)]
    assert one_to_one(np.zeros((3, 1))) == [(0, 0)]


def test_models_that_share_nothing_do_not_agree(two):
    made, _ = two
    found = hubprobe.compare(made.workspace, ["x/a", "owner0/model-000"])
    (pair,) = found.pairs
    assert (pair["same"], pair["similarity"], pair["probes"], pair["agreement"]) == (0, None, 0, None)
    assert not found.differences
    assert all(row["matches"] == [None] for row in found.outputs)


def test_what_picks_found_is_told_of_the_models_they_ran(two, monkeypatch):
    made, _ = two
    said = {"accuracy": 0.75, "low": 0.5, "high": 0.9, "basis": "labels"}
    of = pa.array([[("dog", 1.0)]], pa.map_(pa.string(), pa.float64()))
    for name, repo in (("mine", "x/a"), ("older", "x/z")):
        table = pa.Table.from_pylist([{"repo_id": repo, **said}]).append_column("per_concept", of)
        write_table(made.workspace.root / "picks" / name / "models.parquet", table)
    a, b = hubprobe.compare(made.workspace, ["x/a", "x/b"]).models
    assert a["picked"] == [{"pick": "mine", **said, "concepts": ["dog"]}]
    assert b["picked"] == []
    monkeypatch.setattr(comparison, "MOST_OUTPUTS", 3)
    with pytest.raises(QueryError, match="x/a has 4 outputs; models of at most 3 are compared"):
        hubprobe.compare(made.workspace, ["x/a", "x/b"])
