"""The query's side of a text, and each logit's hubness, against their definitions."""

import numpy as np
import pytest

from search.text.contrast import STRONGEST, TEMPERATURE, hubness, offered, strengths, unit, zero_shot


@pytest.mark.parametrize(("n", "power"), [(1_200, 3.0), (500, 1.5), (200, 1.0)])
def test_zero_shot_is_the_positive_contrast_of_the_strongest_probes_to_a_power(n, power):
    rng = np.random.default_rng(0)
    similarity, centre = rng.random((3, n)).astype(np.float32), rng.random(n).astype(np.float32)
    found = zero_shot(similarity, centre)
    for row, raw in zip(found, similarity, strict=True):
        z = raw - centre
        z = (z - z.mean()) / z.std()
        wanted = np.where(z > 0, z, 0.0) ** power
        wanted[np.argsort(-wanted)[STRONGEST:]] = 0
        np.testing.assert_allclose(row, wanted / np.linalg.norm(wanted), atol=1e-5)
        assert (row > 0).sum() == min(STRONGEST, (z > 0).sum())


def test_a_text_like_the_bank_expects_nothing():
    centre = np.linspace(0, 1, 50, dtype=np.float32)
    assert not zero_shot(centre[None].copy(), centre).any()


def test_hubness_is_the_log_mean_of_exp_scores():
    rng = np.random.default_rng(1)
    strong, bank = strengths(rng.standard_normal((40, 90)).astype(np.float32)), unit(rng.random((30, 90), np.float32))
    scores = strong.astype(np.float64) @ bank.T
    np.testing.assert_allclose(
        hubness(strong, bank), TEMPERATURE * np.log(np.exp(scores / TEMPERATURE).mean(axis=1)), rtol=1e-4
    )


def test_a_concept_that_has_its_logits_counts_less_against_them():
    rng = np.random.default_rng(3)
    strong, bank = strengths(rng.standard_normal((40, 90)).astype(np.float32)), unit(rng.random((30, 90), np.float32))
    scores = strong.astype(np.float64) @ bank.T
    soft = lambda x, axis: TEMPERATURE * np.log(np.exp(x / TEMPERATURE).mean(axis=axis))  # noqa: E731
    found = soft(scores - soft(scores, 1)[:, None], 0)
    np.testing.assert_allclose(offered(strong, bank), found, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(
        hubness(strong, bank, offered(strong, bank)), soft(scores - found, 1), rtol=1e-3, atol=1e-4
    )
    probes = np.eye(8, dtype=np.float32)
    crowd = np.concatenate([np.tile(probes[:1], (6, 1)), probes[1:2] + 0.1 * probes[0]])  # six alike, one of its own
    plain, both = hubness(unit(crowd), probes), hubness(unit(crowd), probes, offered(unit(crowd), probes))
    assert (both - plain)[0] < (both - plain)[6]


def test_hubness_takes_a_hub_from_the_top():
    # logit 0 answers every probe somewhat, logit 1 only one probe: a text for that probe must prefer logit 1
    probes = 64
    vectors = np.zeros((2, probes), np.float32)
    vectors[0] = 1.0
    vectors[0, 5] = 3.0
    vectors[1, 5] = 1.0
    strong, bank = strengths(vectors), np.eye(probes, dtype=np.float32)
    common = hubness(strong, bank)
    assert common[0] > 0
    assert (strong[:, 5] - common)[1] > (strong[:, 5] - common)[0]
