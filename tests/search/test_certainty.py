"""What an answer promises: stated shares come true, few wrong answers where nothing is named, and each hit's own."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from pydantic import TypeAdapter

from search.text.calibration import FIRST, RISK, Certainty, Learned, hit_signs, logistic_fit, venn_abers
from tests.search.conftest import CONCEPTS, make
from tests.search.test_bridge import Blind


def cases(seed, n=600):
    """Queries among 26 models' wrong logits and eight right ones that score higher; a filter leaves all, or a tenth."""
    rng = np.random.default_rng(seed)
    hidden, part = np.arange(n) % 2 == 0, np.arange(n) % 4 < 2
    scores = rng.standard_normal((n, 208))
    right = np.arange(208) < 8
    scores[:, right] += np.where(hidden, 4.0, 6.0)[:, None] + 0.5 * rng.standard_normal((n, 1))
    about = scores.mean(axis=1), scores.std(axis=1), scores.max(axis=1)
    left = np.where(part[:, None] | (rng.random(scores.shape) < 0.1), scores, -np.inf)
    first = np.argsort(-left, axis=1)[:, :FIRST]
    there = np.isfinite(np.take_along_axis(left, first, axis=1))
    found = np.where(there, np.take_along_axis(left, first, axis=1), 0)
    signs = hit_signs(found, about, rng.standard_normal(n), first % 26)
    return signs, right[first] & there, there, np.where(hidden, 0.05, 0.95), np.where(hidden, part, -1)


def test_what_is_stated_comes_true_with_and_without_a_filter():
    learned = Certainty.learn(*cases(0))
    signs, right, there, trust, setting = cases(1, 8_000)
    hits, stated = learned.of_hits(signs, trust), learned.of(signs, trust, there)
    answered = right.any(axis=1)
    assert (stated >= np.where(there, hits, 0).max(axis=1)).all()
    for part in (setting >= 0, setting == -1):
        for low in np.arange(0.0, 1.0, 0.2):
            band = part & (stated >= low) & (stated < low + 0.2)
            if band.sum() > 200:
                assert answered[band].mean() == pytest.approx(stated[band].mean(), abs=0.12)
            some = part[:, None] & there & (hits >= low) & (hits < low + 0.2)
            if some.sum() > 400:
                assert right[some].mean() == pytest.approx(hits[some].mean(), abs=0.12)
    for part in (setting == 0, setting == 1):  # a filter that leaves nothing right is seen to
        assert answered[part].mean() == pytest.approx(stated[part].mean(), abs=0.1)
    assert answered[setting == 0].mean() < answered[setting == 1].mean() - 0.2


def test_no_hits_are_no_answer():
    learned = Certainty.learn(*cases(2))
    signs, _, there, trust, _ = cases(3)
    assert not learned.of(signs, trust, np.zeros_like(there)).any()
    assert learned.of(np.empty((0, 5)), 0.9, np.ones(0, bool)) == 0.0


def test_few_of_the_answered_are_wrong_where_nothing_is_named_whatever_the_filter():
    signs, right, there, trust, setting = cases(4, 8_000)
    for seed in range(3):
        learned = Certainty.learn(*cases(10 + seed))
        assert learned.answer >= 0.5
        covered = learned.covers(learned.of(signs, trust, there), trust)
        for part in (setting == 0, setting == 1):
            assert (~right.any(axis=1))[covered & part].mean() <= RISK + 0.05
    assert (~right.any(axis=1))[setting == 0].mean() > 2 * RISK  # had all been answered


def test_where_nothing_hidden_is_ever_found_what_is_named_still_counts_as_answered():
    signs, right, there, trust, setting = cases(6)
    right[setting >= 0] = False
    learned = Certainty.learn(signs, right, there, trust, setting)
    covered = learned.covers(learned.of(signs, trust, there), trust)
    assert not covered[setting >= 0].any()
    assert covered[(setting < 0) & right.any(axis=1)].mean() > 0.9


def test_a_second_hit_of_a_model_is_known_as_one():
    scores = np.array([[4.0, 3.0, 2.0, 1.0], [4.0, 3.0, 2.0, 1.0]])
    signs = hit_signs(
        scores, (np.zeros(2), np.ones(2), np.full(2, 4.0)), np.zeros(2), np.array([[7, 3, 7, 7], [1, 0, 2, 3]])
    )
    assert signs[..., 4].tolist() == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert signs[..., 1].tolist() == scores.tolist()
    assert signs[..., 2].tolist() == (4 - scores).tolist()


def test_where_one_output_of_a_model_can_be_right_its_second_hit_says_so():
    rng = np.random.default_rng(7)
    again = rng.random((400, FIRST)) < 0.5
    signs = np.stack(
        [np.ones(again.shape), rng.uniform(1, 6, again.shape), np.zeros(again.shape), *2 * [again]], axis=-1
    )
    signs[..., 3] = 0
    right = ~again & (rng.random(again.shape) < signs[..., 1] / 8)
    learned = Learned.learn(signs, right, np.ones_like(right), prior=(0.0, 1.0, 0.0, 0.0, 0.0))
    hits = learned.of_hits(signs)
    assert hits[again].max() < 0.1
    assert hits[~again].mean() == pytest.approx(right[~again].mean(), abs=0.02)


def test_venn_abers_states_what_came_and_with_few_cases_nothing_for_certain():
    rng = np.random.default_rng(3)
    stated = rng.random(4_000)
    right = rng.random(4_000) < stated**2
    points, shares = venn_abers(stated, right)
    assert list(points) == sorted(points)
    assert list(shares) == sorted(shares)
    assert np.abs(np.interp(stated, points, shares) - stated**2).mean() < 0.04
    for n in (2, 10, 40):
        shares = venn_abers(np.linspace(0, 1, n), np.arange(n) >= n // 2)[1]
        assert 1 / (n + 2) < shares[0] < 0.5 < shares[-1] < 1 - 1 / (n + 2)
        assert shares[0] == pytest.approx(1 - shares[-1])


def test_a_fit_ends_where_the_cases_and_the_prior_pull_alike():
    rng = np.random.default_rng(6)
    inputs, prior = np.c_[np.ones(300), rng.standard_normal((300, 3))], np.array([2.0, -1.0, 3.0, 0.5])
    right = rng.random(300) < 1 / (1 + np.exp(-inputs @ [-1.0, 2.0, 0.0, 0.5]))
    for n in (300, 20):
        weights = np.array(logistic_fit(inputs[:n], right[:n], tuple(prior)))
        pulled, back = inputs[:n].T @ (right[:n] - 1 / (1 + np.exp(-inputs[:n] @ weights))), weights - prior
        assert pulled @ back == pytest.approx(np.linalg.norm(pulled) * np.linalg.norm(back), rel=1e-6)
        assert np.linalg.norm(back) > 0.1


def test_it_survives_json():
    learned = Certainty.learn(*cases(4))
    assert TypeAdapter(Certainty).validate_json(json.dumps(asdict(learned))) == learned
    few = Learned.learn(*(part[:2] for part in cases(5)[:3]), prior=(-2.0, 1.5, -2.0, 0.1, -1.0))
    assert few.weights[1] > 0  # a few cases do not turn a sign around


def test_every_hit_of_a_text_has_a_probability_and_a_filter_counts(tmp_path):
    made = make(tmp_path / "workspace", models=24)
    made.encoder = Blind()
    made.index()
    index = made.open()
    said, came = [], []
    for concept in CONCEPTS:
        query = index.search(concept, scoring="bridged").limit(5)
        hits = query.to_dicts()
        shares = [hit["probability"] for hit in hits]
        again = [hit["repo_id"] in {better["repo_id"] for better in hits[:i]} for i, hit in enumerate(hits)]
        for one in (False, True):
            alike = [share for share, second in zip(shares, again, strict=True) if second is one]
            assert alike == sorted(alike, reverse=True)
        assert max(shares) <= query.coverage().probability + 1e-9
        said += shares
        came += [made.truth["models"][hit["repo_id"]]["logits"][hit["logit"]] == concept for hit in hits]
    assert np.mean(came) > np.mean(said) - 0.1  # of an easy gallery it states too little rather than too much
    assert np.mean(said) > 0.5
    assert "probability" not in index.search("dog", scoring="probelog").limit(1).to_arrow().column_names
    nobody = index.search("dog", scoring="bridged").where("downloads < 0")
    assert (nobody.coverage().probability, len(nobody)) == (0.0, 0)


def test_a_sample_stands_for_all_logits_in_runs_of_neighbours(made, monkeypatch):
    gallery = made.open().gallery
    assert gallery.sample.tolist() == list(range(len(gallery)))
    monkeypatch.setattr("search.scan.gallery._SAMPLE", 16)
    monkeypatch.setattr("search.scan.gallery._RUN", 4)
    del gallery.sample
    assert gallery.sample.size == 16
    assert (np.diff(gallery.sample) > 0).all()
    assert gallery.sample[0] == 0
    assert gallery.sample[-1] == len(gallery) - 1
    assert (np.diff(gallery.sample) == 1).sum() >= 12
