"""The reduced space keeps what is strong, also when there are fewer descriptors than dimensions."""

import numpy as np
import pytest

from search.scan.neighbours import DIMENSIONS, Reduction


@pytest.mark.parametrize("rows", [20, 600])
def test_a_basis_is_orthonormal_and_keeps_the_strong_directions(tmp_path, rows):
    rng = np.random.default_rng(0)
    factors = rng.standard_normal((rows, 30)) @ rng.standard_normal((30, 500))
    vectors = (factors / factors.std() + 0.01 * rng.standard_normal((rows, 500))).astype(np.float16)
    reduction = Reduction.fit(vectors)
    gram = reduction.basis.T @ reduction.basis
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-4
    assert set(np.diag(gram).round(3)) <= {0.0, 1.0}
    reduced = reduction.reduce(vectors).astype(np.float32)
    assert reduced.shape == (rows, DIMENSIONS)
    wide = vectors.astype(np.float32)
    assert np.corrcoef((wide @ wide.T).ravel(), (reduced @ reduced.T).ravel())[0, 1] > 0.999
    reduction.save(tmp_path)
    assert (Reduction.load(tmp_path, 500).basis == reduction.basis).all()


def test_short_descriptors_are_kept_whole(tmp_path):
    vectors = np.ones((3, 40), np.float16)
    assert (Reduction.fit(vectors).reduce(vectors) == vectors).all()
    assert Reduction.load(tmp_path, 40).basis is None
