"""Whitened descriptors against their definition, as the index grows; and that many questions share a scan."""

import numpy as np
import pytest

from search.scan import nearest
from search.scan.scoring import OWN_POWER
from search.scan.whitening import LOGITS_EACH, Whitened, whiten
from workspace.errors import DamagedFileError


@pytest.fixture
def vectors():
    rng = np.random.default_rng(5)
    shared = rng.standard_normal((12, 40)) * np.array([9.0, 5.0] + [1.0] * 10)[:, None]
    found = rng.standard_normal((800, 12)) @ shared + rng.standard_normal((800, 40))
    return ((found - found.mean(1, keepdims=True)) / found.std(1, keepdims=True)).astype(np.float32)


def test_directions_are_divided_by_their_strength(vectors):
    found = whiten(lambda rows: vectors[rows], 800)
    strong = np.maximum(vectors.astype(np.float64), 0) ** OWN_POWER
    strong /= np.linalg.norm(strong, axis=1, keepdims=True)
    _, strength, right = np.linalg.svd(strong, full_matrices=False)
    rank = min(40, 800 // LOGITS_EACH)
    turned = strong @ right[:rank].T / np.sqrt(strength[:rank] ** 2 + strength[rank // 4] ** 2)
    turned /= np.linalg.norm(turned, axis=1, keepdims=True)
    assert found.codes.shape == (800, rank)
    assert found.codes.dtype == np.int8
    np.testing.assert_allclose(found.cosines(found.codes[7]), turned @ turned[7], atol=0.02)


def test_a_cosine_does_not_depend_on_what_else_is_asked_for(vectors):
    found = whiten(lambda rows: vectors[rows], 800)
    every = found.cosines(found.codes[3])
    some = np.array([799, 3, 5])
    np.testing.assert_array_equal(found.cosines(found.codes[3], some), every[some])
    assert every[3] == 1.0
    nothing = Whitened(found.basis, np.zeros_like(found.codes), 800)
    assert not nothing.cosines(found.codes[3]).any()


def test_directions_stay_until_the_gallery_supports_more(vectors):
    def read(rows):
        return vectors[rows]

    first = whiten(read, 200)
    grown = whiten(read, 700, first)
    assert grown.basis is first.basis
    np.testing.assert_array_equal(grown.codes[:200], first.codes)
    np.testing.assert_array_equal(grown.codes[200:], first.of(vectors[200:700]))
    more = whiten(read, 800, grown)
    assert more.basis.shape[1] == min(40, 800 // LOGITS_EACH) > first.basis.shape[1]
    assert more.found_from == 800


@pytest.mark.parametrize("count", [0, 1, LOGITS_EACH - 1, LOGITS_EACH])
def test_few_logits_have_few_directions_or_none(vectors, count, tmp_path):
    found = whiten(lambda rows: vectors[rows], count)
    assert found.codes.shape == (count, count // LOGITS_EACH)
    found.save(tmp_path)
    again = Whitened.load(tmp_path, 40, count)
    np.testing.assert_array_equal(again.codes, found.codes)
    with pytest.raises(DamagedFileError):
        Whitened.load(tmp_path, 40, count + 1)


def test_many_questions_by_logits_are_answered_as_one_by_one(opened, monkeypatch):
    monkeypatch.setattr(nearest, "_FEW", 0)  # scanned, not read whole
    gallery = opened.gallery
    rows = np.arange(0, len(gallery), 7)
    asked = [gallery.compile(opened.logit(repo, logit, sha=sha), "bridged") for repo, sha, logit in gallery.keys(rows)]
    for found, comparison in zip(gallery.nearest_many(asked, 5, [None] * len(asked)), asked, strict=True):
        exact = gallery.nearest(comparison, 5, None, exact=True)
        np.testing.assert_array_equal(found[0], exact[0])
        np.testing.assert_array_equal(found[1], exact[1])


def test_directions_that_are_no_numbers_are_refused(vectors, tmp_path):
    found = whiten(lambda rows: vectors[rows], 800)
    found.basis[3, 2] = np.nan
    found.save(tmp_path)
    with pytest.raises(DamagedFileError):
        Whitened.load(tmp_path, 40, 800)
