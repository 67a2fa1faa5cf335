"""The formulas against their definitions, written out densely: no function under test says what is expected of it."""

import math
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from completion import responses, settings, train
from completion.factors import MULTIPLES, Block, Factors, load
from completion.fit import GAIN, WIDE, _Sums, affordable_rank, fit, largest_rank, subspace, truncated
from completion.responses import RANDOM_LEAST, ModelResponses, models_in
from completion.validation import ENOUGH, MODELS, Case, Split, calibrated, measure
from tests.completion.conftest import N, blocks, rows_of, subset, truth
from workspace import ConfigError, DamagedFileError, WorkspaceError, records
from workspace.files import write_table

PROBES, RANK = 14, 3


@pytest.fixture
def factors():
    rng = np.random.default_rng(3)
    made = rng.normal(size=PROBES) * 0.2, rng.normal(size=(PROBES, RANK)), rng.uniform(0.2, 1.5, PROBES)
    return Factors(*(torch.tensor(part, dtype=torch.float32) for part in made))


def dense(factors):
    return tuple(part.double().numpy() for part in (factors.mean, factors.basis, factors.noise))


def drawn(factors, logits, times, seed=0):
    """Responses of a model whose noise is ``times`` the gallery's, float64 [logits, PROBES]."""
    mean, basis, noise = dense(factors)
    rng = np.random.default_rng(seed)
    clean = mean + rng.normal(size=(logits, RANK)) @ basis.T
    return clean + rng.normal(size=clean.shape) * np.sqrt(times * noise)


def block(values, observed):
    return Block(("a/b", "c"), torch.tensor(observed), torch.tensor(values[:, observed], dtype=torch.float32))


def log_density(factors, values, observed, times):
    """Sum over logits of the log density of what was observed under N(mean, W W' + times D)."""
    mean, basis, noise = dense(factors)
    covariance = basis[observed] @ basis[observed].T + times * np.diag(noise[observed])
    away = values[:, observed] - mean[observed]
    quadratic = np.einsum("ij,jk,ik->", away, np.linalg.inv(covariance), away)
    sign, volume = np.linalg.slogdet(covariance)
    assert sign == 1
    return -0.5 * (len(away) * (volume + len(observed) * np.log(2 * np.pi)) + quadratic)


OBSERVED = [0, 1, 3, 4, 7, 8, 9, 12]


@pytest.mark.parametrize("times", [0.25, 1.0, 4.0, 32.0])
def test_completing_is_conditioning_a_gaussian_with_the_noise_of_the_model(factors, times):
    values = drawn(factors, 6, 0.01)  # so quiet that its own evidence asks for the smallest multiple
    cautious = factors.cautious(times)
    assert cautious.caution == times
    filled, variance = cautious.complete(block(values, OBSERVED))
    mean, basis, noise = dense(factors)
    gone = [i for i in range(PROBES) if i not in OBSERVED]
    whole = basis @ basis.T + times * np.diag(noise)
    gain = whole[np.ix_(gone, OBSERVED)] @ np.linalg.inv(whole[np.ix_(OBSERVED, OBSERVED)])
    expected = mean[gone] + (values[:, OBSERVED] - mean[OBSERVED]) @ gain.T
    left = np.diag(whole[np.ix_(gone, gone)] - gain @ whole[np.ix_(OBSERVED, gone)])
    np.testing.assert_allclose(filled[:, gone].numpy(), expected, rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(variance[gone].numpy(), left, rtol=2e-3)


def test_evidence_is_the_log_density_but_for_a_constant(factors):
    values = drawn(factors, 5, 4.0)
    solved = factors.solve(block(values, OBSERVED))
    for times in (0.125, 0.5, 2.0, 8.0, 64.0):
        expected = log_density(factors, values, OBSERVED, times) - log_density(factors, values, OBSERVED, 1.0)
        assert solved.evidence(times) - solved.evidence(1.0) == pytest.approx(expected, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("times", [0.25, 1.0, 4.0, 16.0])
def test_the_noise_is_the_multiple_that_a_model_was_drawn_with(factors, times):
    values = drawn(factors, 400, times)
    solved = factors.solve(block(values, list(range(PROBES))))
    best = max(MULTIPLES, key=lambda c: log_density(factors, values, list(range(PROBES)), c))
    assert solved.noise() == best
    assert 0.7 < solved.noise() / times < 1.5


def test_what_a_noisy_model_says_counts_less(factors):
    values = drawn(factors, 300, 16.0)
    filled, variance = factors.complete(block(values, OBSERVED))
    quiet, sure = factors.complete(block(drawn(factors, 300, 0.25), OBSERVED))
    gone = [i for i in range(PROBES) if i not in OBSERVED]
    wrong = ((filled.numpy() - drawn(factors, 300, 16.0)) ** 2)[:, gone].mean(0)
    assert (variance[gone] > 4 * sure[gone]).all()
    np.testing.assert_allclose(variance[gone].numpy(), wrong, rtol=0.35)
    assert float(filled[:, gone].std()) < float(quiet[:, gone].std())


@pytest.mark.parametrize("doubtful", [0.0, 0.05])
def test_the_m_step_is_a_ridge_regression_on_expected_latents(factors, doubtful):
    rng = np.random.default_rng(5)
    mean, basis, noise = dense(factors)
    half = rng.normal(size=(RANK, RANK))
    doubt = doubtful * half @ half.T
    factors = replace(factors, doubt=torch.from_numpy(doubt).float() if doubtful else None)
    sums, ridge = _Sums(factors, "cpu"), 2.0
    gram = np.zeros((PROBES, RANK + 1, RANK + 1))
    right = np.zeros((PROBES, RANK + 1))
    squares, count = np.zeros(PROBES), np.zeros(PROBES)
    latents = np.zeros((RANK + 1, RANK + 1))
    for model in range(4):
        observed = np.sort(rng.permutation(PROBES)[: 8 + model])
        values = drawn(factors, 7, 1.0, seed=model)
        sums.add(block(values, observed.tolist()))
        weight = basis[observed] / noise[observed, None]
        posterior = np.linalg.inv(np.eye(RANK) + basis[observed].T @ weight + len(observed) * doubt)
        for row in values:
            z = np.append(posterior @ weight.T @ (row[observed] - mean[observed]), 1.0)
            second = np.outer(z, z)
            second[:RANK, :RANK] += posterior
            latents += second
            for probe in observed:
                gram[probe] += second
                right[probe] += row[probe] * z
                squares[probe] += row[probe] ** 2
                count[probe] += 1
    prior = np.append(ridge * PROBES / ((basis**2).sum(0) + noise.sum() * doubt.diagonal()), 1.0)
    unsure = np.stack([np.linalg.inv(gram[j] + noise[j] * np.diag(prior)) for j in range(PROBES)])
    solved = np.stack([np.linalg.solve(gram[j] + noise[j] * np.diag(prior), right[j]) for j in range(PROBES)])
    # the expected squared error of each probe's regression, E (r - w z)^2, term by term; w has a covariance, too
    residual = np.array([
        squares[j] - 2 * solved[j] @ right[j] + solved[j] @ gram[j] @ solved[j]
        + noise[j] * np.trace(gram[j] @ unsure[j]) for j in range(PROBES)
    ])  # fmt: skip
    assert (residual > 0).all()
    expected = (residual + 50.0 * residual.sum() / count.sum()) / (count + 50.0)
    found = sums.maximised(ridge)
    np.testing.assert_allclose(found.noise.numpy(), expected, rtol=1e-3)
    latents /= latents[-1, -1]
    centre, spread = latents[:RANK, -1], latents[:RANK, :RANK] - np.outer(latents[:RANK, -1], latents[:RANK, -1])
    turned = found.basis.double().numpy()
    root = np.linalg.cholesky(spread + 1e-6 * np.eye(RANK))
    np.testing.assert_allclose(found.doubt, root.T @ unsure.mean(0)[:RANK, :RANK] @ root, rtol=2e-3, atol=1e-5)
    np.testing.assert_allclose(found.mean.numpy(), solved[:, -1] + solved[:, :RANK] @ centre, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(turned @ turned.T, solved[:, :RANK] @ spread @ solved[:, :RANK].T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("probes", "masks", "rank"),
    [
        (400, 3, 512),
        (4000, 2, 256),
        (4000, 1000, 128),
        (4000, 100_000, 128),
        (1000, 20, 512),
        (2000, 300, 128),
        (17_881, 0, 256),
        (17_882, 0, 128),
        (1000, 360, 256),
        (1000, 361, 128),
    ],
)
def test_the_affordable_rank_is_the_largest_whose_pass_takes_seconds(probes, masks, rank):
    # 4 masks n r^2 multiply-adds for the Gram matrices and n r^3 / 3 for the solves, 1e11 at most; 128 is always tried
    assert affordable_rank(probes, masks) == rank


@pytest.mark.parametrize("off", [1 / 8, 1.0])
def test_caution_makes_deviations_right_where_the_noise_is_too_small(factors, off):
    """The cases' own evidence cannot show it here: their observed entries are as quiet as the factors say."""
    wrong = Factors(factors.mean, factors.basis, factors.noise * off)
    cases = []
    for i in range(40):
        values, order = drawn(factors, 8, 1.0, seed=i), np.random.default_rng(i).permutation(PROBES)
        seen, hidden = np.sort(order[:8]), np.sort(order[8:])
        quiet = drawn(wrong, 8, 1.0, seed=i)
        quiet[:, hidden] = values[:, hidden]
        given = Block((f"m{i}", ""), torch.tensor(seen), torch.tensor(quiet[:, seen], dtype=torch.float32))
        cases.append(Case(given, torch.tensor(hidden), torch.tensor(values[:, hidden], dtype=torch.float32)))
    found, measured = calibrated(wrong, cases)
    assert 0.6 < measured.calibration < 1.6
    if off < 1:
        assert found.caution > 2
    else:
        assert 0.5 < found.caution < 2


def test_caution_falls_where_the_noise_is_too_large(factors):
    wrong = Factors(factors.mean, factors.basis, factors.noise * 8)
    cases = []
    for i in range(40):
        values, order = drawn(factors, 8, 1.0, seed=i), np.random.default_rng(i).permutation(PROBES)
        seen, hidden = np.sort(order[:8]), np.sort(order[8:])
        given = Block((f"m{i}", ""), torch.tensor(seen), torch.tensor(values[:, seen], dtype=torch.float32))
        cases.append(Case(given, torch.tensor(hidden), torch.tensor(values[:, hidden], dtype=torch.float32)))
    found, measured = calibrated(wrong, cases)
    assert found.caution < 0.5
    assert 0.6 < measured.calibration < 1.6


def test_errors_on_hidden_entries_are_what_they_are_called():
    """Two cases against sums written out; a probe counts by itself only when it was hidden 16 times."""
    rng = np.random.default_rng(2)
    hidden = [[1, 4], [4, 6]]
    truths = [rng.normal(size=(logits, 2)) for logits in (9, 8)]
    answers = {f"m{i}": rng.normal(size=(len(truth), PROBES)) for i, truth in enumerate(truths)}
    variance = rng.uniform(0.5, 2.0, PROBES)
    cases = [
        Case(
            Block((f"m{i}", ""), torch.tensor([0]), torch.zeros(len(truth), 1)),
            torch.tensor(at), torch.tensor(truth, dtype=torch.float32),
        )
        for i, (truth, at) in enumerate(zip(truths, hidden, strict=True))
    ]  # fmt: skip

    def complete(given):
        filled = torch.tensor(answers[given.key[0]], dtype=torch.float32)
        return filled, torch.tensor(variance, dtype=torch.float32)

    found = measure(complete, cases, PROBES)
    wrong = [(truth - answers[f"m{i}"][:, hidden[i]]) ** 2 for i, truth in enumerate(truths)]
    powers = [truth**2 for truth in truths]
    by_model = [1 - w.sum() / p.sum() for w, p in zip(wrong, powers, strict=True)]
    np.testing.assert_allclose(found.by_model, by_model, rtol=1e-4)
    assert found.r2 == pytest.approx(1 - sum(w.sum() for w in wrong) / sum(p.sum() for p in powers), rel=1e-4)
    often = 1 - (wrong[0][:, 1].sum() + wrong[1][:, 0].sum()) / (powers[0][:, 1].sum() + powers[1][:, 0].sum())
    np.testing.assert_allclose(found.by_probe, [often], rtol=1e-4)  # probe 4, hidden in 17 logits
    scaled = [w / variance[at] for w, at in zip(wrong, hidden, strict=True)]
    assert found.calibration == pytest.approx(np.mean(np.concatenate(scaled)), rel=1e-4)
    logs = [s + np.log(2 * np.pi * variance[at]) for s, at in zip(scaled, hidden, strict=True)]
    assert found.log_likelihood == pytest.approx(-0.5 * np.mean(np.concatenate(logs)), rel=1e-4)


@pytest.mark.parametrize(("models", "measured"), [(1, 1), (2, 1), (3, 1), (5, 1), (9, 3), (100, 33), (9_000, MODELS)])
def test_a_third_of_a_gallery_is_measured_on_partial_models_first(models, measured):
    partial = {(f"p{i}", ""): 5 for i in range(min(measured, models))}
    whole = {(f"w{i}", ""): 10 for i in range(models - len(partial))}
    assert Split({**whole, **partial}, 10).measured == set(partial)


@pytest.mark.parametrize(("sizes", "alone"), [([ENOUGH], True), ([ENOUGH - 1], False), ([3] * 10 + [2], True)])
def test_models_run_in_full_are_measured_only_where_partial_ones_have_too_few_logits(sizes, alone):
    partial = {(f"p{i}", ""): 5 for i in range(len(sizes))}
    whole = {(f"w{i}", ""): 10 for i in range(60)}
    logits = {**dict.fromkeys(whole, 7), **dict(zip(partial, sizes, strict=True))}
    found = Split({**whole, **partial}, 10, logits).measured
    assert set(partial) <= found
    assert len(found) == (len(partial) if alone else (60 + len(partial)) // 3)


def test_the_rank_is_what_the_partial_model_needs_not_what_most_models_do():
    few, many = truth(models=40, rank=1, noise=0.3), truth(models=2, logits=200, rank=5, noise=0.1, seed=9)
    made = [*blocks(few, full=40), blocks(many[:1], full=1)[0], blocks(many[1:])[0]]
    named = [Block((f"o/m{i:03d}", ""), b.observed, b.values) for i, b in enumerate(made)]
    seen, logits = {b.key: len(b.observed) for b in named}, {b.key: len(b.values) for b in named}
    split = Split(seen, N, logits)
    assert split.measured == {named[-1].key}
    found = fit(
        lambda: iter(named), split, split.cases(lambda: iter(named), "cpu"), rank=None, largest=32, anchors=True,
        iterations=0,
    )  # fmt: skip
    of_most = Split(seen, N, {**logits, named[-1].key: 0})  # as if it had too few logits to go by
    other = fit(
        lambda: iter(named), of_most, of_most.cases(lambda: iter(named), "cpu"), rank=None, largest=32, anchors=True,
        iterations=0,
    )  # fmt: skip
    assert found.factors.rank > other.factors.rank


@pytest.mark.parametrize("wide", [False, True])
def test_wide_models_run_in_full_are_a_start_of_their_own(wide):
    small, large = truth(models=30, noise=0.1), truth(models=3, logits=WIDE, rank=4, noise=0.3, seed=9)
    made = [*blocks(small, full=30), *blocks(large, full=2)]
    made = [Block((f"o/m{i:03d}", ""), b.observed, b.values) for i, b in enumerate(made)]
    split = Split({b.key: len(b.observed) for b in made}, N)
    cases = split.cases(lambda: iter(made), "cpu")
    found = fit(lambda: iter(made), split, cases, rank=4, largest=4, anchors=True, wide=wide, iterations=0)
    starts = {line.split(",")[0]: float(line.split()[-1]) for line in found.log if line.startswith("start")}
    assert ("start from wide ones of these" in starts) == wide
    if wide:
        assert max(starts, key=starts.get) == "start from wide ones of these"
        assert found.measured.r2 == pytest.approx(max(starts.values()), abs=1e-4)


def test_noise_of_zero_is_damage(factors, tmp_path):
    factors.save(tmp_path / "whole", "p", {})
    assert load(tmp_path / "whole", "p", PROBES) is not None
    noise = factors.noise.clone()
    noise[3] = 0.0
    Factors(factors.mean, factors.basis, noise).save(tmp_path / "zero", "p", {})
    with pytest.raises(WorkspaceError, match="noise is not positive"):
        load(tmp_path / "zero", "p", PROBES)


@pytest.mark.parametrize("random", [RANDOM_LEAST - 1, RANDOM_LEAST, 30])
def test_responses_are_measured_from_the_probes_that_were_drawn_at_random(random):
    (values,) = truth(models=1)
    ids = subset(0, 0.3)
    chance = np.sort(np.random.default_rng(1).permutation(ids)[:random])
    model = ModelResponses(("o/m000", "0" * 40), rows_of(0, values, ids, chance.tolist()), ids, chance)
    of = values[:, chance].astype(np.float64)
    scaled = (values[:, ids] - of.mean(1, keepdims=True)) / of.std(1, keepdims=True)
    if random < RANDOM_LEAST:  # too few to go by
        assert [part.tolist() for part in responses.moments(model)] == [[[0.0]] * len(values), [[1.0]] * len(values)]
        scaled = model.matrix()
    np.testing.assert_allclose(responses.block(model).values.numpy(), scaled, atol=5e-3)
    values[:, chance] = 1.0  # the random ones are answered alike: what they vary by is no deviation to divide by
    model = ModelResponses(model.key, rows_of(0, values, ids, chance.tolist()), ids, chance)
    if random >= RANDOM_LEAST:
        assert (responses.moments(model)[1] == np.float32(1e-3)).all()


@pytest.mark.parametrize("full", [None, 0, 8])
def test_a_probes_mean_is_drawn_to_nothing_by_as_much_as_few_logits_saw_it(full):
    made = blocks(truth(models=12) + np.float32(2.0), full=3)
    made[0] = replace(made[0], values=made[0].values[:7])
    split = Split({b.key: len(b.observed) for b in made}, N)
    found = subspace(lambda: iter(made), split, 3, seed=0, device="cpu", full=full).mean.numpy()
    total, count = np.zeros(N), np.zeros(N)
    used = [b for b in made if full is None or (len(b.observed) == N and len(b.values) >= full)]
    assert len(used) == {None: 12, 0: 3, 8: 2}[full]
    for kept in map(split.kept, used):
        total[kept.observed] += kept.values.double().numpy().sum(0)
        count[kept.observed] += len(kept.values)
    drawn = total / found - count  # as many logits more, of which each said nothing
    np.testing.assert_allclose(drawn, np.median(drawn), rtol=1e-3)
    assert np.median(drawn) > 0


@pytest.mark.parametrize(
    ("row", "column", "value", "why"),
    [
        (0, "probe_ids", lambda ids: [-1, *ids[1:]], "not in ascending order"),
        (0, "probe_ids", lambda ids: [*ids[:5], ids[4], *ids[6:]], "not in ascending order"),
        (0, "probe_ids", lambda ids: None, "does not list the probes"),
        (3, "response", lambda found: None, "one value for each probe"),
        (3, "response", lambda found: found[1:], "one value for each probe"),
        (3, "response", lambda found: [*found[:7], math.nan, *found[8:]], "not all finite"),
        (3, "logit", lambda _: 2, "a logit twice"),
    ],
)
def test_responses_that_cannot_be_are_damage(tmp_path, row, column, value, why):
    rows = rows_of(0, truth(models=1)[0], subset(0, 0.3)).to_pylist()
    path = tmp_path / "responses" / "a.parquet"
    write_table(path, pa.Table.from_pylist(rows, records.RESPONSES))
    assert [len(model.rows) for model in models_in(path)] == [len(rows)]
    rows[row][column] = value(rows[row][column])
    write_table(path, pa.Table.from_pylist(rows, records.RESPONSES))
    with pytest.raises(DamagedFileError, match=why):
        list(models_in(path))


@pytest.mark.parametrize("share", [1.0, 0.6])
def test_a_start_is_the_leading_directions_of_a_covariance_that_zeros_have_shrunk(share):
    """Against all of the covariance at once, its shrinking undone: c = (power - s (1 - s) d) / s^2."""
    made = blocks(truth(models=30, noise=0.1), share=share, full=30 if share == 1 else 0)
    split = Split({b.key: len(b.observed) for b in made}, N)
    found = subspace(lambda: iter(made), split, 3, seed=1, device="cpu")
    filled, seen = [], []
    for kept in map(split.kept, made):
        rows, mask = np.zeros((len(kept.values), N)), np.zeros((len(kept.values), N))
        rows[:, kept.observed], mask[:, kept.observed] = kept.values.double().numpy(), 1
        filled.append(rows)
        seen.append(mask)
    filled, seen = np.concatenate(filled), np.concatenate(seen)
    count = seen.sum(0)
    mean = filled.sum(0) / (count + 10)
    variance = np.maximum((filled**2).sum(0) / count - mean**2, 1e-3)
    centred = (filled - mean) * seen
    power, directions = np.linalg.eigh(centred.T @ centred / count.max())
    power, directions = power[::-1][:3], directions[:, ::-1][:, :3]
    s, diagonal = count.mean() / count.max(), variance.mean()
    basis = directions * np.sqrt((power - s * (1 - s) * diagonal) / s**2)
    np.testing.assert_allclose(found.mean.numpy(), mean, atol=1e-4)
    lengths = np.linalg.norm(found.basis.double().numpy(), axis=0)
    np.testing.assert_allclose(lengths, np.linalg.norm(basis, axis=0), rtol=2e-2)
    turned = found.basis.double().numpy() / lengths
    np.testing.assert_allclose(np.abs(np.diag(turned.T @ directions)), 1, atol=2e-2)
    wanted = np.maximum(variance - (found.basis.double().numpy() ** 2).sum(1), 0.05 * diagonal)
    np.testing.assert_allclose(found.noise.numpy(), wanted, rtol=1e-3)
    fewer = truncated(found, 2)
    assert torch.equal(fewer.basis, found.basis[:, :2])
    np.testing.assert_allclose(fewer.noise, found.noise + found.basis[:, 2] ** 2)


@pytest.mark.parametrize("n", [7, 30, N])
def test_what_is_hidden_of_a_model_and_what_it_is_completed_from(n):
    rng = np.random.default_rng(n)
    sizes = {("a/b", "1"): (n, 3), ("a/c", "2"): (max(n // 2, 5), 150), ("b/a", "3"): (n, 64)}
    made = [
        Block(
            key, torch.from_numpy(np.sort(rng.permutation(n)[:run])), torch.from_numpy(rng.normal(size=(logits, run)))
        )
        for key, (run, logits) in sizes.items()
    ]
    split = Split({b.key: len(b.observed) for b in made}, n)
    split.measured = set(sizes)
    for whole, case in zip(made, split.cases(lambda: iter(made), "cpu"), strict=True):
        kept, run = split.kept(whole), len(whole.observed)
        assert case.given.key == kept.key == whole.key
        assert sorted([*kept.observed.tolist(), *case.hidden.tolist()]) == whole.observed.tolist()
        assert len(case.hidden) == math.ceil(run / 10)
        given = case.given.observed.tolist()
        assert set(given) <= set(kept.observed.tolist())
        assert given == sorted(given)
        assert len(given) == min(len(kept.observed), max(2, math.ceil(n / 3)))
        rows = np.linspace(0, len(whole.values) - 1, min(len(whole.values), 64)).astype(int)
        at = {probe: column for column, probe in enumerate(whole.observed.tolist())}
        for part, ids, logits in (
            (kept.values, kept.observed, range(len(whole.values))), (case.given.values, case.given.observed, rows),
            (case.truth, case.hidden, rows),
        ):  # fmt: skip
            assert torch.equal(part, whole.values[list(logits)][:, [at[i] for i in ids.tolist()]])
        assert split.kept(whole).observed.tolist() == kept.observed.tolist()
    split.measured = set()
    assert split.kept(made[0]) is made[0]
    assert split.cases(lambda: iter(made), "cpu") == []


@pytest.mark.parametrize(
    ("rank", "largest", "warm", "widths"),
    [(None, 32, None, [4, 8, 16, 32]), (None, 200, None, [32, 64, 128, 200]), (None, 4, 5, [4, 5]), (5, 64, 5, [5, 5]),
     (5, 64, 4, [5])],
)  # fmt: skip
def test_which_starts_are_tried_and_when_a_fit_ends(rank, largest, warm, widths):
    made = blocks(truth(models=12), full=4)
    split = Split({b.key: len(b.observed) for b in made}, N)
    cases = split.cases(lambda: iter(made), "cpu")
    earlier = warm and subspace(lambda: iter(made), split, warm, seed=3, device="cpu")
    found = fit(lambda: iter(made), split, cases, rank=rank, largest=largest, affordable=16, iterations=3, warm=earlier)
    starts = [line for line in found.log if line.startswith("start")]
    *passes, last = found.log[len(starts) :]
    assert [int(re.search(r"rank (\d+)", line)[1]) for line in starts] == widths
    begun = [float(line.split()[-1]) for line in starts]
    cheap = {w: r2 for r2, w in zip(begun, widths, strict=True) if rank or w <= 16}
    both = sorted({max(cheap, key=cheap.get), max(cheap)}) if cheap else [widths[int(np.argmax(begun))]]
    tried = [re.fullmatch(r"iterated at rank (\d+): R2 ([\d.-]+)", line) for line in passes]
    assert [int(one[1]) for one in tried] == both  # the best start, and the widest
    rises = np.diff(found.history)
    assert (rises[:-1] > GAIN).all()  # it goes on only while it rises
    assert rises[-1] <= GAIN or len(rises) == 3
    reached = [float(one[2]) for one in tried]
    assert max(*begun, *reached) - 2 * GAIN - 1e-4 <= found.measured.r2 <= max(*begun, *reached) + 1e-4
    kept = re.fullmatch(r"kept rank (\d+): R2 ([\d.-]+)", last)
    assert (int(kept[1]), float(kept[2])) == (found.factors.rank, pytest.approx(found.measured.r2, abs=1e-4))
    assert found.measured == measure(found.factors.complete, cases, N)
    none = fit(lambda: iter(made), split, cases, rank=rank, largest=largest, affordable=16, iterations=0)
    assert len(none.history) == 1


def test_multiples_of_the_noise_are_an_eighth_to_64_by_roots_of_two():
    assert MULTIPLES[0] == 1 / 8
    assert MULTIPLES[-1] == 64
    np.testing.assert_allclose(np.divide(MULTIPLES[1:], MULTIPLES[:-1]), 2**0.5)


def test_a_soft_impute_step_shrinks_singular_values_and_its_factors_complete_by_ridge_regression():
    rng = np.random.default_rng(4)
    full = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 20)) + 0.1 * rng.normal(size=(30, 20))
    mask = rng.random(full.shape) < 0.7
    directions = np.linalg.qr(rng.normal(size=(20, 20)))[0]  # of full rank: one step is exact
    left = rng.normal(size=(30, 20)) * 0.1
    given = [torch.tensor(part, dtype=torch.float64) for part in (full, left, directions)]
    shrunk, values, turned = train._step(given[0], torch.tensor(mask), given[1], given[2], 3.0)
    filled = np.where(mask, full, left @ directions.T)
    u, s, vh = np.linalg.svd(filled, full_matrices=False)
    np.testing.assert_allclose(values.numpy(), np.maximum(s - 3.0, 0), atol=1e-6)
    np.testing.assert_allclose((shrunk @ turned.T).numpy(), u * np.maximum(s - 3.0, 0) @ vh, atol=1e-6)


def test_fixed_noise_completes_by_ridge_regression_whatever_the_model_says(factors):
    mean, basis, noise = dense(factors)
    values = drawn(factors, 6, 30.0)
    filled, variance = train.Fixed(factors.mean, factors.basis, factors.noise).complete(block(values, OBSERVED))
    gone = [i for i in range(PROBES) if i not in OBSERVED]
    weighted = basis[OBSERVED].T / noise[OBSERVED]
    posterior = np.linalg.inv(np.eye(RANK) + weighted @ basis[OBSERVED])
    latent = (values[:, OBSERVED] - mean[OBSERVED]) @ weighted.T @ posterior
    np.testing.assert_allclose(filled[:, gone].numpy(), (mean + latent @ basis.T)[:, gone], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(variance[gone], (noise + np.diag(basis @ posterior @ basis.T))[gone], rtol=1e-3)
    np.testing.assert_allclose(filled[:, OBSERVED].numpy(), values[:, OBSERVED], rtol=1e-6)
    assert not variance[OBSERVED].any()


@pytest.mark.parametrize(
    ("logits", "rank"), [(1, 1), (7, 1), (8, 4), (15, 4), (16, 8), (63, 16), (64, 32), (1023, 256), (10**6, 512)]
)
def test_the_largest_rank_is_half_the_logits(logits, rank):
    assert largest_rank(logits) == rank


def test_what_a_fit_says_of_itself():
    assert train._quantiles([]) == []
    values = np.random.default_rng(0).random(41).tolist()
    wanted = [np.sort(values)[round(40 * q)] for q in (0, 0.1, 0.25, 0.5, 0.75, 0.9, 1)]
    assert train._quantiles(values) == pytest.approx(wanted, abs=1e-4)
    assert [settings.least_probes(n) for n in (100, 2133, 2134, 4000)] == [32, 32, 33, 60]
    assert settings.Settings().fit_key() == "em:None:1.0:8:0:doubt"
    for wrong in ({"rank": 0}, {"ridge": 0.0}, {"ridge": math.inf}, {"iterations": -1}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            settings.Settings(**wrong)
    settings.Settings(rank=1, ridge=1e-9, iterations=0)


@pytest.mark.parametrize("order", ["as written", "logits backwards", "models in turn"])
def test_models_are_read_in_order_of_their_logits_however_a_file_lies(tmp_path, order):
    rows = [row for i in range(3) for row in rows_of(i, truth(models=3)[i], subset(i, 0.2)).to_pylist()]
    written = {
        "as written": rows,
        "logits backwards": sorted(rows, key=lambda row: (row["repo_id"], -row["logit"])),
        "models in turn": sorted(rows, key=lambda row: (row["logit"], row["repo_id"])),
    }[order]
    path = tmp_path / "responses" / "a.parquet"
    write_table(path, pa.Table.from_pylist(written, records.RESPONSES))
    for wanted in (None, {("o/m001", "0" * 40)}, set()):
        found = list(models_in(path, wanted))
        names = [f"o/m{i:03d}" for i in range(3)] if wanted is None else [key[0] for key in wanted]
        assert [model.key[0] for model in found] == names
        for model in found:
            assert model.rows.to_pylist() == [row for row in rows if row["repo_id"] == model.key[0]]


def test_soft_impute_is_measured_from_the_drawn_in_mean_with_one_noise_that_is_right():
    made = blocks(truth(models=9), full=2)
    split = Split({b.key: len(b.observed) for b in made}, N)
    cases = split.cases(lambda: iter(made), "cpu")
    found = train.soft_impute(lambda: iter(made), split, cases, rank=6, seed=0, device="cpu")
    total, count = np.zeros(N), np.zeros(N)
    for kept in map(split.kept, made):
        total[kept.observed] += kept.values.double().numpy().sum(0)
        count[kept.observed] += len(kept.values)
    np.testing.assert_allclose(found.factors.mean.numpy(), total / (count + 10), atol=1e-5)
    assert len(set(found.factors.noise.tolist())) == 1
    assert found.measured == measure(found.factors.complete, cases, N)
    assert found.measured.calibration == pytest.approx(1, rel=1e-3)
    assert max(found.history) - GAIN <= found.measured.r2 <= max(found.history) + 1e-6
