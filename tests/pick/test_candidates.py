"""Which outputs of a model stand for a concept."""

from __future__ import annotations

import numpy as np

from hubprobe.pick.candidates import Candidate


def _candidate(evidence):
    evidence = np.asarray(evidence, np.float64)
    return Candidate("owner/name", "0" * 40, "family", np.arange(evidence.shape[1]), evidence)


def test_each_concept_has_an_output_of_its_own():
    # output 0 is the best for both, by far for the second
    chosen = _candidate([[0.9, 0.8, 0.1, 0.1], [0.95, 0.2, 0.1, 0.1]]).outputs()
    assert [own.tolist() for own in chosen] == [[1], [0]]


def test_outputs_nearly_as_good_stand_for_the_concept_too():
    breeds = _candidate([[0.9, 0.88, 0.86, 0.1, 0.1], [0.1, 0.1, 0.1, 0.9, 0.2]]).outputs()
    assert sorted(breeds[0].tolist()) == [0, 1, 2]
    assert breeds[1].tolist() == [3]


def test_a_model_with_too_few_outputs_shares_them():
    chosen = _candidate([[0.9, 0.1], [0.2, 0.8], [0.3, 0.4]]).outputs()
    assert [own.tolist() for own in chosen] == [[0], [1], [1]]


def test_labels_correct_what_the_search_got_wrong():
    rng = np.random.default_rng(0)
    labels = np.arange(24) % 2
    z = rng.normal(0, 0.3, (24, 4)).astype(np.float32)
    z[:, 2] += np.where(labels == 0, 2.0, -2.0)  # output 2 answers concept 0, output 3 concept 1
    z[:, 3] += np.where(labels == 1, 2.0, -2.0)
    wrong = _candidate([[0.6, 0.5, 0.4, 0.3], [0.5, 0.6, 0.3, 0.4]])
    assert [own.tolist() for own in wrong.outputs()] == [[0], [1]]
    assert [own.tolist()[0] for own in wrong.outputs(z, labels)] == [2, 3]
