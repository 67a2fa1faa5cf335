"""Probes chosen by factors, against a dense Gaussian: what follows for each output, and whose turn it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from probing import subset

N, RANK = 40, 3


def _drawn(logits: int, seed: int = 0) -> tuple[subset.Factors, npt.NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    made = 0.3 * random.normal(size=N), random.normal(size=(N, RANK)), random.uniform(0.1, 1.0, N)
    factors = subset.Factors(*(torch.tensor(part, dtype=torch.float32) for part in made))
    raw = made[0][:, None] + made[1] @ random.normal(size=(RANK, logits)) + random.normal(size=(N, logits))
    return factors, (raw * random.uniform(0.5, 5, logits) + 10 * random.normal(size=logits)).astype(np.float32)


def _asked(factors: subset.Factors, raw: Any, ids: Any, random: Any) -> npt.NDArray[np.float64]:
    """Return the prediction plus twice its deviation, [probes, logits], -inf where a probe was run."""
    mean, basis, noise = (t.double().numpy() for t in (factors.mean, factors.basis, factors.noise))
    drawn = raw[random].astype(np.float64)
    z = (raw[ids] - drawn.mean(0)) / drawn.std(0)
    whole = basis @ basis.T + np.diag(noise)
    gain = whole[:, ids] @ np.linalg.inv(whole[np.ix_(ids, ids)])
    found = mean[:, None] + gain @ (z - mean[ids, None])
    found += 2 * np.sqrt(np.maximum(np.diag(whole - gain @ whole[ids]), 0))[:, None]
    found[ids] = -np.inf
    return found


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("chunk", [2, 1024])
@pytest.mark.parametrize("refused", [[], [5, 6, 7, 30]])
def test_outputs_get_in_turn_what_they_probably_answer_most(
    count: int, chunk: int, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "_CHUNK", chunk)
    factors, raw = _drawn(5, count)
    random = np.sort(np.random.default_rng(count).permutation(N)[:8])
    ids = np.unique([*random, 0, 11, 12])
    asked = _asked(factors, raw, ids, random)
    asked[refused] = -np.inf
    order = np.argsort(-asked, axis=0)
    wanted: list[int] = []
    for turn in range(N):
        left = {int(place) for place in order[turn] if place not in wanted}
        strongest = {place: max(asked[place, j] for j in range(5) if order[turn, j] == place) for place in left}
        wanted += sorted(left, key=lambda place: -strongest[place])[: count - len(wanted)]
    found = subset.choose_next(factors, raw[ids], _ids(ids), _ids(random), count, _ids(refused))
    assert found.tolist() == sorted(wanted)
    assert found.dtype == np.int32


def _ids(values: Any) -> npt.NDArray[np.int32]:
    return np.asarray(values, np.int32)


def test_no_more_are_chosen_than_are_left() -> None:
    factors, raw = _drawn(4)
    ids = _ids(range(0, N, 2))
    refused = _ids(range(1, N - 5, 2))
    left = sorted(set(range(N)) - set(ids.tolist()) - set(refused.tolist()))
    for count in (len(left), len(left) + 1, 100):
        assert subset.choose_next(factors, raw[ids], ids, ids, count, refused).tolist() == left
    assert subset.choose_next(factors, raw[ids], ids, ids, 0).tolist() == []


@pytest.mark.parametrize("most", [1, 3, 7, 100])
def test_responses_are_standardised_over_the_random_probes(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subset, "MAX_LOGITS", most)
    _, raw = _drawn(7)
    random = np.arange(N) % 3 == 0
    kept = sorted({int(i) for i in np.linspace(0, 6, min(most, 7))})
    drawn = raw[random].astype(np.float64)
    wanted = ((raw - drawn.mean(0)) / drawn.std(0))[:, kept]
    np.testing.assert_allclose(subset._standardised(raw, random), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("column", "asks"),
    [
        (lambda at: 1.0 + at / N * 2.0**-18, True), (lambda at: 1.0 + at / N * 2.0**-21, False),
        (lambda at: np.where(at == 3, np.nan, at), False), (lambda at: np.where(at == 4, np.inf, at), False),
        (lambda at: np.where(at % 3 == 0, 2.0, at), False),  # constant over the random ones
    ],
)  # fmt: skip
def test_an_output_that_does_not_vary_or_is_not_finite_asks_for_nothing(column: Any, asks: bool) -> None:
    at = np.arange(N, dtype=np.float64)
    raw = np.stack([column(at), np.sin(at)], axis=1).astype(np.float32)
    assert subset._standardised(raw, at % 3 == 0).shape[1] == 1 + asks


@pytest.mark.parametrize("budget", [0, 1, 3, 4, 21, 22, 23, 400])
def test_rounds_share_a_budget_evenly(budget: int) -> None:
    parts = subset.rounds(budget)
    assert (len(parts), sum(parts)) == (4, budget)
    assert max(parts) - min(parts) <= 1
