"""How good models are, with few labels or none: against what is known of simulated models."""

from __future__ import annotations

import numpy as np
import pytest

from hubprobe.pick.scores import UNKNOWN, answers, believe, concept_scores, interval


def _scores(votes, concepts, sure=2.0):
    """Return scores of models that are equally sure of every answer, float32 [models, images, concepts]."""
    return (sure * np.eye(concepts)[votes]).astype(np.float32)


def _believe(votes, labels, concepts, weights=None):
    return believe(_scores(votes, concepts), votes, labels, weights)


def _simulated(accuracies, images, concepts, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, concepts, images)
    votes = np.empty((len(accuracies), images), np.int64)
    for m, accuracy in enumerate(accuracies):
        wrong = (truth + rng.integers(1, concepts, images)) % concepts
        votes[m] = np.where(rng.random(images) < accuracy, truth, wrong)
    return truth, votes


def test_a_concept_gets_the_probability_of_all_its_outputs():
    raw = np.random.default_rng(1).normal(0, 3, (5, 7)).astype(np.float32)
    outputs = [np.array([0]), np.array([2, 5]), np.array([3, 4, 6])]
    shares = np.exp(raw.astype(np.float64))
    shares /= shares.sum(axis=1, keepdims=True)
    found = concept_scores(raw, outputs).astype(np.float64)
    for i, own in enumerate(outputs):
        for j, other in enumerate(outputs):  # ratios of probabilities: the term that all share falls out
            expected = np.log(shares[:, own].sum(axis=1)) - np.log(shares[:, other].sum(axis=1))
            np.testing.assert_allclose(found[:, i] - found[:, j], expected, atol=1e-5)


def test_outputs_that_are_not_finite_answer_nothing():
    raw = np.array([[np.nan, np.nan], [np.nan, 1.0]], np.float32)
    assert answers(concept_scores(raw, [np.array([0]), np.array([1])])).tolist() == [UNKNOWN, 1]


def test_models_are_ranked_by_what_they_say_together():
    accuracies = [0.9, 0.8, 0.65, 0.5, 0.4]
    truth, votes = _simulated(accuracies, 2_000, 5)
    belief = _believe(votes, np.full(2_000, UNKNOWN), 5)
    assert (np.diff(belief.accuracy) < 0).all()
    assert (belief.images.argmax(axis=1) == truth).mean() > 0.85
    assert belief.best.argmax() == 0


def test_a_model_that_favours_a_concept_says_little_by_naming_it():
    """Four models of five name concept 0 whatever they see, and are a little less sure where it is another."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 4, 400)
    biased = 3.0 * np.eye(4)[0] + 1.0 * np.eye(4)[truth] + rng.normal(0, 0.3, (4, 400, 4))
    good = 4.0 * np.eye(4)[np.where(rng.random(400) < 0.8, truth, rng.integers(0, 4, 400))]
    scores = np.concatenate([biased, good[None]]).astype(np.float32)
    votes = np.stack([answers(s) for s in scores])
    assert (votes[:4] == 0).mean() > 0.9
    belief = believe(scores, votes, np.full(400, UNKNOWN))
    assert belief.accuracy.argmax() == 4
    assert (belief.images.argmax(axis=1) == truth).mean() > 0.9


def test_a_known_label_is_believed_whatever_the_models_say():
    _, votes = _simulated([0.9, 0.9, 0.9], 50, 4)
    labels = np.full(50, UNKNOWN)
    labels[7] = (votes[:, 7].max() + 1) % 4
    belief = _believe(votes, labels, 4)
    assert belief.images[7, labels[7]] == 1.0
    without = _believe(votes, np.full(50, UNKNOWN), 4)
    assert (belief.accuracy < without.accuracy).all()


def test_copies_share_one_voice():
    truth, votes = _simulated([0.9, 0.8], 200, 3)
    wrong = (truth + 1) % 3
    votes = np.stack([*votes, wrong, wrong, wrong])
    alone = _believe(votes, np.full(200, UNKNOWN), 3, np.array([1, 1, 1 / 3, 1 / 3, 1 / 3]))
    assert alone.accuracy.argmax() in (0, 1)
    assert _believe(votes, np.full(200, UNKNOWN), 3).accuracy.argmax() >= 2  # three voices would win


def test_models_that_were_not_asked_say_nothing():
    truth, votes = _simulated([0.9, 0.8, 0.7], 60, 3)
    scores = _scores(votes, 3)
    votes[2, 30:] = UNKNOWN
    scores[2, 30:] = np.nan
    belief = believe(scores, votes, np.full(60, UNKNOWN))
    assert np.isfinite(belief.images).all()
    assert belief.right[2] + belief.wrong[2] == pytest.approx(30 + 3)
    assert (belief.images.argmax(axis=1) == truth).mean() > 0.8


@pytest.mark.parametrize(("right", "count"), [(0, 0), (0, 7), (7, 7), (90, 100)])
def test_an_interval_holds_its_share(right, count):
    low, high = interval(right, count)
    assert 0 <= low <= (right / count if count else 0.5) <= high <= 1
    assert high - low > 0
