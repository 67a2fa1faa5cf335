"""What an answer promises: stated shares come true, few wrong answers where nothing is named, and each hit's own."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from search.text.calibration import RISK, Certainty, isotonic
from tests.search.conftest import CONCEPTS, make
from tests.search.test_bridge import Blind


def cases(seed, n=1_200):
    """Queries whose chance depends on their signs in a way that no logistic regression has, half of them hidden."""
    rng = np.random.default_rng(seed)
    hidden = np.arange(n) % 2 == 0
    signs = np.column_stack([rng.standard_normal(n), np.where(hidden, 0.05, 0.9) * rng.random(n), rng.normal(5, 2, n)])
    chance = np.clip(0.1 + 0.5 * (signs[:, 0] > 0) + 0.4 * (signs[:, 1] > 0.4) - 0.05, 0, 1)
    answered = rng.random(n) < chance
    lag = np.sort(rng.exponential(1.0, (n, 10)), axis=1)
    lag -= lag[:, :1]
    right = answered[:, None] & (np.arange(10) == rng.geometric(0.6, n).clip(1, 10)[:, None] - 1)
    hits = lag, signs[:, 2:] - lag, right, np.ones((n, 10), bool)
    return signs, answered, hidden, hits


def test_what_is_stated_comes_true():
    learned = Certainty.learn(*cases(0))
    signs, answered, _, (lag, above, right, _) = cases(1, 20_000)
    stated = learned.of(signs)
    for low in np.arange(0.1, 0.9, 0.2):
        band = (stated >= low) & (stated < low + 0.2)
        if band.sum() > 200:
            assert answered[band].mean() == pytest.approx(stated[band].mean(), abs=0.08)
    says = learned.of_hits(stated[:, None], lag, above)
    assert (says <= stated[:, None]).all()
    assert right.mean() == pytest.approx(says.mean(), abs=0.02)
    sure = says > 0.5
    assert right[sure].mean() == pytest.approx(says[sure].mean(), abs=0.08)


def test_few_of_the_answered_are_wrong_where_nothing_is_named():
    signs, answered, hidden, _ = cases(2, 20_000)
    wrong = []
    for seed in range(5):
        learned = Certainty.learn(*cases(10 + seed))
        reached = hidden & (learned.of(signs) >= learned.answer)
        wrong.append((~answered[reached]).mean() if reached.any() else 0.0)
    always = (~answered[hidden]).mean()
    assert always > 0.5
    assert np.mean(wrong) < always - 0.1 or np.mean(wrong) <= RISK


def test_isotonic_is_the_nearest_ascending_function():
    rng = np.random.default_rng(3)
    stated = rng.random(4_000)
    right = rng.random(4_000) < stated**2
    points, shares = isotonic(stated, right)
    assert list(points) == sorted(points)
    assert list(shares) == sorted(shares)
    assert np.abs(np.interp(stated, points, shares) - stated**2).mean() < 0.04
    assert 0 < shares[0] <= shares[-1] < 1


def test_it_survives_json_and_older_indexes_have_weights_only():
    learned = Certainty.learn(*cases(4))
    assert Certainty.of_json(json.loads(json.dumps(asdict(learned)))) == learned
    assert Certainty.of_json({"weights": [1, 2, 3, 4]}) == Certainty((1.0, 2.0, 3.0, 4.0))


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
        assert shares == sorted(shares, reverse=True)
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
