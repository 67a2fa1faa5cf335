from dataclasses import replace

import numpy as np
import pytest
import torch

from completion import train
from completion.factors import Factors, load
from completion.fit import _iterate, fit, subspace
from completion.validation import Split, calibrated
from tests.completion.conftest import N, blocks, truth
from workspace import WorkspaceError


def prepared(made):
    split = Split({b.key: len(b.observed) for b in made}, N)
    return (lambda: iter(made)), split, split.cases(lambda: iter(made), "cpu")


def true_r2(factors, made, responses):
    """On all that was not run."""
    error = power = ratio = count = 0.0
    for block, values in zip(made, responses, strict=True):
        filled, variance = factors.complete(block)
        gone = np.setdiff1d(np.arange(values.shape[1]), block.observed.numpy())
        wrong = (values[:, gone] - filled.numpy()[:, gone]) ** 2
        error, power = error + wrong.sum(), power + (values[:, gone] ** 2).sum()
        if len(gone):
            ratio, count = ratio + (wrong / variance.numpy()[gone]).sum(), count + wrong.size
    return 1 - error / power, ratio / max(count, 1)


@pytest.fixture(scope="module")
def world():
    responses = truth()
    made = blocks(responses, full=6)
    return responses, made, *prepared(made)


@pytest.fixture(scope="module")
def em(world):
    _, _, gallery, split, cases = world
    return fit(gallery, split, cases, rank=None, largest=32, anchors=True)


def test_em_beats_the_baselines_and_knows_its_own_quality(world, em):
    responses, made, gallery, split, cases = world
    r2, calibration = true_r2(em.factors, made, responses)
    mean = train.probe_mean(gallery, split, cases, device="cpu")
    soft = train.soft_impute(gallery, split, cases, rank=32, seed=0, device="cpu")
    anchors = train.anchor_ridge(gallery, split, cases, rank=16, seed=0, device="cpu")
    assert r2 > 0.27  # noise is 0.6 of the variance, so 0.4 is what there is to predict
    assert r2 > true_r2(mean.factors, made, responses)[0] + 0.2
    assert r2 >= true_r2(soft.factors, made, responses)[0]
    assert r2 >= true_r2(anchors.factors, made, responses)[0]
    assert abs(em.measured.r2 - r2) < 0.06  # what it measures on hidden entries is what it gets on the others
    assert 0.8 < calibration < 1.25
    assert em.history[-1] <= max(em.history) + 1e-9


def test_observed_entries_stay_and_have_no_variance(world, em):
    _, made, *_ = world
    values, variance = em.factors.complete(made[-1])
    assert torch.equal(values[:, made[-1].observed], made[-1].values)
    assert torch.equal(variance[made[-1].observed], torch.zeros(len(made[-1].observed)))
    assert (variance >= 0).all()


def test_nothing_but_partial_models_is_enough():
    responses = truth(models=60)
    made = blocks(responses, share=0.3)
    found = fit(*prepared(made), rank=5, largest=5, iterations=12)
    assert true_r2(found.factors, made, responses)[0] > 0.25
    assert found.history[-1] > found.history[0]


def test_many_sets_of_probes_give_what_few_do(world, monkeypatch):
    *_, gallery, split, cases = world
    few = fit(gallery, split, cases, rank=5, largest=5, iterations=2)
    monkeypatch.setattr("completion.fit._BATCH", 3)
    monkeypatch.setattr("completion.fit._held_masks", lambda n: 3)
    many = fit(gallery, split, cases, rank=5, largest=5, iterations=2)
    assert torch.allclose(few.factors.basis, many.factors.basis, atol=1e-3)


def test_a_warm_start_goes_on_from_where_it_was(world):
    *_, gallery, split, cases = world
    first = fit(gallery, split, cases, rank=5, largest=5, iterations=8)
    again = fit(gallery, split, cases, rank=5, largest=5, iterations=8, warm=first.factors)
    assert again.measured.r2 >= first.measured.r2 - 1e-6
    assert len(again.history) <= len(first.history)
    assert any("earlier factors" in line for line in again.log)


def test_saved_factors_are_read_back_and_damage_is_told(tmp_path, em):
    path = tmp_path / "f.safetensors"
    em.factors.save(path, "set0", {"method": "em"})
    found = load(path, "set0", 200)
    assert found is not None
    factors, metadata = found
    assert torch.equal(factors.basis, em.factors.basis)
    assert torch.equal(factors.noise, em.factors.noise)
    assert factors.digest() == em.factors.digest() != em.factors.cautious(2.0).digest()
    assert (metadata["version"], metadata["rank"]) == ("1", str(em.factors.rank))
    assert load(path, "another", 200) is None
    assert load(tmp_path / "none", "set0", 200) is None
    with pytest.raises(WorkspaceError, match="is not about 3 probes"):
        load(path, "set0", 3)
    path.write_bytes(b"x")
    with pytest.raises(WorkspaceError, match="damaged"):
        load(path, "set0", 200)


def test_no_basis_is_the_probe_mean():
    factors = Factors(torch.arange(4.0), torch.zeros(4, 0), torch.ones(4))
    from completion.factors import Block

    values, variance = factors.complete(Block(("a", "b"), torch.tensor([1]), torch.tensor([[2.0]])))
    assert values.tolist() == [[0.0, 2.0, 2.0, 3.0]]
    assert variance.tolist() == [1.0, 0.0, 1.0, 1.0]


def test_soft_impute_refuses_what_it_cannot_hold(world, monkeypatch):
    _, _, gallery, split, cases = world
    held = sum(len(block.values) for block in gallery()) * N
    monkeypatch.setattr(train, "SOFT_IMPUTE_ENTRIES", held)
    train.soft_impute(gallery, split, cases, rank=4, seed=0, device="cpu")
    monkeypatch.setattr(train, "SOFT_IMPUTE_ENTRIES", held - 1)
    with pytest.raises(WorkspaceError, match="--method em"):
        train.soft_impute(gallery, split, cases, rank=4, seed=0, device="cpu")


def test_a_wide_basis_that_knows_how_unsure_it_is_does_not_follow_the_noise():
    responses = truth(models=60, noise=0.2)
    made = blocks(responses, share=0.1)
    gallery, split, cases = prepared(made)
    known = blind = subspace(gallery, split, 20, seed=0, device="cpu")
    for _ in range(30):
        known = _iterate(gallery, split, known, 1.0, "cpu")
        blind = _iterate(gallery, split, replace(blind, doubt=None), 1.0, "cpu")
    reached = {name: true_r2(calibrated(f, cases)[0], made, responses)[0] for name, f in (("k", known), ("b", blind))}
    assert reached["k"] > reached["b"] + 0.02
