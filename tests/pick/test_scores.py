"""How good models are, with few labels or none: against what is known of simulated models."""

from __future__ import annotations

import numpy as np
import pytest

from hubprobe.pick.scores import UNKNOWN, answers, believe, concept_scores, interval, worth_asking


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


def test_accuracies_are_estimated_from_what_the_models_say_together():
    accuracies = [0.9, 0.8, 0.65, 0.5, 0.4]
    truth, votes = _simulated(accuracies, 2_000, 5)
    belief = believe(votes, np.full(2_000, UNKNOWN), 5)
    np.testing.assert_allclose(belief.accuracy, accuracies, atol=0.03)
    assert (belief.images.argmax(axis=1) == truth).mean() > max(accuracies)  # together they are better than the best
    assert belief.best().argmax() == 0


def test_a_known_label_is_believed_whatever_the_models_say():
    _, votes = _simulated([0.9, 0.9, 0.9], 50, 4)
    labels = np.full(50, UNKNOWN)
    labels[7] = (votes[:, 7].max() + 1) % 4
    belief = believe(votes, labels, 4)
    assert belief.images[7, labels[7]] == 1.0
    without = believe(votes, np.full(50, UNKNOWN), 4)
    assert (belief.accuracy < without.accuracy).all()


def test_labels_tell_a_clique_of_wrong_models_from_the_right_one():
    truth, votes = _simulated([0.95], 60, 3)
    wrong = (truth + 1) % 3
    votes = np.stack([votes[0], wrong, wrong, wrong])  # three copies outvote the right one
    labels = np.full(60, UNKNOWN)
    assert believe(votes, labels, 3).accuracy.argmax() != 0
    for _ in range(20):
        belief = believe(votes, labels, 3)
        image = worth_asking(votes, labels, belief)
        if image == UNKNOWN:
            break
        labels[image] = truth[image]
    assert believe(votes, labels, 3).accuracy.argmax() == 0
    assert (labels != UNKNOWN).sum() <= 20


def test_copies_share_one_voice():
    truth, votes = _simulated([0.9, 0.8], 200, 3)
    wrong = (truth + 1) % 3
    votes = np.stack([*votes, wrong, wrong, wrong])
    alone = believe(votes, np.full(200, UNKNOWN), 3, np.array([1, 1, 1 / 3, 1 / 3, 1 / 3]))
    assert alone.accuracy.argmax() == 0


def test_no_label_is_asked_for_where_all_agree():
    votes = np.tile(np.arange(10) % 2, (3, 1))
    labels = np.full(10, UNKNOWN)
    assert worth_asking(votes, labels, believe(votes, labels, 2)) == UNKNOWN
    votes[1, 4] = 1 - votes[1, 4]
    assert worth_asking(votes, labels, believe(votes, labels, 2)) == 4


def test_asking_where_leaders_disagree_beats_asking_anywhere():
    """Ten models within a few points that often make the same mistake, on images of which some are hard; 25 labels."""
    accuracies = np.linspace(0.6, 0.87, 10)
    gaps = {"asked": [], "anywhere": []}
    for seed in range(8):
        rng = np.random.default_rng(seed)
        truth, hard = rng.integers(0, 6, 100), rng.beta(0.5, 0.5, 100)
        common = (truth + rng.integers(1, 6, 100)) % 6
        chance = np.clip(accuracies[:, None] + 0.8 * (0.5 - hard), 0.02, 0.99)
        other = np.where(rng.random((10, 100)) < 0.6, common, (truth + rng.integers(1, 6, (10, 100))) % 6)
        votes = np.where(rng.random((10, 100)) < chance, truth, other)
        right = (votes == truth).mean(axis=1)
        places = rng.permutation(100)
        for way, found in gaps.items():
            labels = np.full(100, UNKNOWN)
            for i in range(25):
                place = worth_asking(votes, labels, believe(votes, labels, 6)) if way == "asked" else places[i]
                if place == UNKNOWN:
                    break
                labels[place] = truth[place]
            found.append(right.max() - right[believe(votes, labels, 6).accuracy.argmax()])
    assert np.mean(gaps["asked"]) < 0.01
    assert np.mean(gaps["asked"]) < np.mean(gaps["anywhere"])


@pytest.mark.parametrize(("right", "count"), [(0, 0), (0, 7), (7, 7), (90, 100)])
def test_an_interval_holds_its_share(right, count):
    low, high = interval(right, count)
    assert 0 <= low <= (right / count if count else 0.5) <= high <= 1
    assert high - low > 0
