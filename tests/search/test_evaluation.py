"""Accuracy against a known truth, and the contact sheet."""

import numpy as np
import pytest
from PIL import Image

import search
from search import SCORINGS
from search.evaluation import BASELINES, auprc
from workspace import QueryError


@pytest.fixture(scope="module")
def evaluation(made):
    return search.evaluate(made.workspace, made.truth, k=15, encoder=made.encoder, progress=False)


def test_both_tasks_and_all_scorings_are_measured(evaluation):
    rows = {(r["task"], r["scoring"]): r for r in evaluation.rows()}
    assert set(rows) == {(t, s) for t in ("text", "text, unlabelled", "logit") for s in SCORINGS}
    assert rows["text", "probelog"]["queries"] == evaluation.concepts == 20
    assert rows["text", "probelog"]["top1"] > 0.9
    assert rows["logit", "probelog"]["top5"] > 0.9
    assert rows["text", "probelog"]["mrr"] > 3 * rows["text", "unnormalised"]["mrr"]
    for row in rows.values():
        assert 0 <= row["top1_low"] <= row["top1"] <= row["top1_high"] <= 1
        assert row["top1"] <= row["top5"] <= row["top10"]
        assert 0 < row["chance"] < 0.2


def test_published_baselines_answer_texts(made, opened):
    measured = search.evaluate(
        made.workspace, made.truth, scorings=["semanticlens", "auprc"], k=15, encoder=made.encoder, progress=False
    )
    rows = {(r["task"], r["scoring"]): r for r in measured.rows()}
    assert {task for task, _ in rows} == {"text", "text, unlabelled"}
    assert rows["text", "semanticlens"]["k"] == 15
    for name in BASELINES:
        assert rows["text", name]["top5"] > 0.8
    texts = opened.texts.embedded(["dog"], "asked")
    positives = np.argsort(-(opened.probe_embeddings @ texts[0]))[:15]
    for row in (0, len(opened) - 1):  # the area by hand
        order = np.argsort(-opened.gallery.vector(row).astype(np.float64), kind="stable")
        hits = np.isin(order, positives)
        area = (np.cumsum(hits)[hits] / (np.flatnonzero(hits) + 1)).mean()
        assert auprc(opened.gallery, opened.probe_embeddings, texts, 15)[0, row] == pytest.approx(area, abs=0.02)


def test_ranks_hold_every_query(evaluation):
    ranks = evaluation.ranks.to_pandas()
    text = ranks[(ranks.task == "text") & (ranks.scoring == "probelog")]
    row = next(r for r in evaluation.rows() if (r["task"], r["scoring"]) == ("text", "probelog"))
    assert (text["rank"] <= 1).mean() == row["top1"]
    assert (1 / text["rank"]).mean() == pytest.approx(row["mrr"])


@pytest.mark.parametrize(
    "truth", [{}, {"concepts": [], "models": {}}, {"concepts": {}, "models": {"a/b": {"logits": [None]}}}]
)
def test_a_truth_of_another_shape_is_refused(made, truth):
    with pytest.raises(QueryError):
        search.evaluate(made.workspace, truth, encoder=made.encoder, progress=False)


def test_a_contact_sheet_is_drawn(opened, tmp_path):
    path = opened.contact_sheet(opened.search("dog").limit(3), tmp_path / "deep" / "dog.png", probes_per_hit=5)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width > 900
    hostile = [{**h, "label": "\x1b[31m" + "long " * 99} for h in opened.search("cat").limit(2).to_dicts()]
    search.contact_sheet(opened, hostile, tmp_path / "cat.png")
    with pytest.raises(QueryError, match="no hit"):
        search.contact_sheet(opened, [], tmp_path / "none.png")
