"""What a logit's question needs of every other logit, against its definition, and that it stays as the index grows."""

import numpy as np

from search.scan.peers import BANK, LENGTH, NEAREST, SHARE, Peers, measure, own_weights
from search.scan.scoring import OWN_POWER
from search.scan.whitening import SHARE as WHITENED


def test_length_and_nearness_are_as_defined(opened):
    gallery = opened.gallery
    found = Peers.load(gallery.folder)
    rows = np.arange(len(gallery))
    positive = np.maximum(gallery.vectors(rows).astype(np.float64), 0.0)
    length = (positive ** (2 * LENGTH)).sum(axis=1) ** (1 / LENGTH)
    np.testing.assert_allclose(found.length, length, rtol=1e-4)
    assert len(found.bank) == min(BANK, len(gallery))
    asked = positive[found.bank] ** OWN_POWER
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    for row in (0, len(gallery) // 2, len(gallery) - 1):
        others = gallery.model_of[found.bank] != gallery.model_of[row]
        scores = asked @ positive[row] ** 2 / length[row]
        np.testing.assert_allclose(found.hubness[row], np.sort(scores[others])[-NEAREST:].mean(), rtol=1e-3)


def test_a_logit_asks_with_them_and_the_scan_answers_exactly(opened):
    gallery, found = opened.gallery, Peers.load(opened.gallery.folder)
    repo_id, sha, logit = gallery.keys(np.array([3]))[0]
    comparison = gallery.compile(opened.logit(repo_id, logit, sha=sha), "bridged")
    vectors = gallery.vectors(np.arange(len(gallery)))
    scores = (np.maximum(vectors, 0.0) ** 2) @ own_weights(vectors[3:4])[0] / found.length
    codes = gallery.whitened.codes.astype(np.float64)
    cosines = codes @ codes[3] / np.linalg.norm(codes, axis=1) / np.linalg.norm(codes[3])
    expected = (1 - WHITENED) * (1.0 + SHARE * found.hubness - scores) + WHITENED * (1.0 - cosines)
    np.testing.assert_allclose(gallery.distances(comparison), expected, atol=2e-3)
    rows, distances = gallery.nearest(comparison, 10, None)
    exact = gallery.nearest(comparison, 10, None, exact=True)
    np.testing.assert_array_equal(rows, exact[0])
    np.testing.assert_array_equal(distances, exact[1])


def test_what_was_measured_is_kept_when_the_index_grows(opened):
    whole = measure(opened.gallery.vectors, opened.gallery.model_of)
    first = Peers(whole.bank, whole.length[:7] + 1, whole.hubness[:7])
    grown = measure(opened.gallery.vectors, opened.gallery.model_of, first)
    np.testing.assert_array_equal(grown.length[:7], first.length)
    np.testing.assert_array_equal(grown.length[7:], whole.length[7:])
    np.testing.assert_allclose(
        grown.hubness[7:], whole.hubness[7:], rtol=1e-6
    )  # a product of other rows rounds otherwise
