"""Probes chosen by the completion's factors: what they find, and that every process chooses the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from safetensors.torch import save_file

import probing
from probing import subset
from tests.probing.conftest import Repos
from workspace import ConfigError, Workspace, WorkspaceError

ROOT = Path(__file__).parents[2]
N, RANK, LOGITS, TOP = 2000, 24, 12, 32
Floats = npt.NDArray[np.float32]


def _factors(n: int = N, rank: int = RANK, seed: int = 0, explained: float = 0.6) -> tuple[subset.Factors, Any]:
    """Return a basis that explains that share of the variance, and a way to draw responses from it."""
    random = np.random.default_rng(seed)
    basis = random.normal(size=(n, rank)) * math.sqrt(explained / rank)
    noise = np.full(n, 1 - explained)
    factors = subset.Factors(*(torch.from_numpy(a.astype(np.float32)) for a in (np.zeros(n), basis, noise)))

    def draw(logits: int) -> Floats:
        z = random.normal(size=(rank, logits))
        made = basis @ z + random.normal(size=(n, logits)) * np.sqrt(noise)[:, None]
        return (made * random.uniform(0.5, 5, logits) + random.normal(size=logits) * 10).astype(np.float32)

    return factors, draw


def _run(factors: subset.Factors, raw: Floats, budget: int, model: str = "a/b") -> npt.NDArray[np.int32]:
    """Return the probes that are run, in the order of `single.execute`."""
    n = len(raw)
    random = subset.choose(n, subset.at_random(n, budget, subset.WIDE), model, "c", "p")
    ids = random
    for count in subset.rounds(budget - len(random)):
        new = subset.choose_next(factors, raw[ids], ids, random, count)
        assert len(new) == count
        assert not set(new) & set(ids)
        ids = np.sort(np.concatenate([ids, new]))
    return ids


def _found(raw: Floats, ids: npt.NDArray[np.int32]) -> float:
    """Return the share of the logits' strongest probes that were run."""
    best = np.argsort(-raw, axis=0)[:TOP]
    return float(np.isin(best, ids).mean())


@pytest.mark.parametrize("fraction", [1 / 3, 1 / 6])
def test_more_of_the_strongest_probes_are_found_than_at_random(fraction: float) -> None:
    factors, draw = _factors()
    raw, budget = draw(LOGITS), int(fraction * N)
    chosen, drawn = _run(factors, raw, budget), subset.choose(N, budget, "a/b", "c", "p")
    assert len(chosen) == budget
    assert abs(_found(raw, drawn) - fraction) < 0.1
    assert _found(raw, chosen) > 1.8 * _found(raw, drawn)


def test_of_few_outputs_more_is_drawn_at_random() -> None:
    assert subset.at_random(3_000, 1_000, subset.WIDE) == 300
    assert subset.at_random(3_000, 1_000, subset.WIDE - 1) == 600
    assert subset.at_random(3_000, 400, 10) == 300, "never less than of many outputs"
    assert subset.at_random(3_000, 200, 10) == subset.at_random(3_000, 200, 1_000) == 200, "nor more than are run"


def test_each_output_gets_its_strongest_in_turn() -> None:
    places = np.array([[0, 1, 0], [2, 3, 4], [5, 6, 7]])
    values = np.array([[9.0, 8.0, 7.0], [1.0, 3.0, 2.0], [0.5, 0.4, 0.3]])
    assert np.flatnonzero(subset._in_turn(places, values, 8, 2)).tolist() == [0, 1]
    assert np.flatnonzero(subset._in_turn(places, values, 8, 4)).tolist() == [0, 1, 3, 4], "of a turn, the strongest"
    assert np.flatnonzero(subset._in_turn(places, values, 8, 5)).tolist() == [0, 1, 2, 3, 4]


def test_threads_and_useless_outputs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    factors, draw = _factors()
    raw = draw(LOGITS)
    wanted = _run(factors, raw, 400)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            assert np.array_equal(_run(factors, raw, 400), wanted)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    odd = np.concatenate([raw, np.full((N, 1), 3.0), np.full((N, 1), np.nan)], axis=1).astype(np.float32)
    assert np.array_equal(_run(factors, odd, 400), wanted)
    nothing = subset.choose_next(
        factors, odd[:10, -2:], np.arange(10, dtype=np.int32), np.arange(10, dtype=np.int32), 5
    )
    assert nothing.tolist() == [10, 11, 12, 13, 14], "no output asks for anything"
    monkeypatch.setattr(subset, "_CHUNK", 5)
    assert _found(raw, _run(factors, raw, 400)) > 0.4


def test_outputs_beyond_number_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    factors, draw = _factors(n=300, rank=8)
    raw = draw(500)
    monkeypatch.setattr(subset, "MAX_LOGITS", 40)
    assert len(_run(factors, raw, 90)) == 90


def write_factors(workspace: Workspace, n: int = 70, rank: int = 6, **metadata: str) -> Path:
    """Leave factors as completion does."""
    factors, _ = _factors(n, rank, seed=1)
    path = workspace.factors_path(workspace.probe_set)
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"mean": factors.mean, "basis": factors.basis.contiguous(), "noise": factors.noise}
    save_file(tensors, path, {"version": "1", "probe_set": workspace.probe_set} | metadata)
    return path


def _ids(workspace: Workspace) -> dict[str, tuple[list[int], list[int] | None]]:
    rows = workspace.responses(["repo_id", "probe_ids", "random_ids"]).to_pylist()
    return {r["repo_id"]: (r["probe_ids"], r["random_ids"]) for r in rows if r["probe_ids"] is not None}


def test_the_verb(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    repos.vit("two", seed=1)
    repos.write_catalog(workspace)

    def probe(**options: Any) -> probing.ProbeSummary:
        return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)

    with pytest.raises(ConfigError, match="fraction"):
        probe(adaptive=True)
    summary = probe(adaptive=True, fraction=0.3)
    assert summary.selection.startswith("random, because there were no factors")
    assert all(drawn is None for _, drawn in _ids(workspace).values())
    write_factors(workspace)
    summary = probe(adaptive=True, fraction=0.3, retry=["ok"])
    assert (summary.selection, summary.run, summary.images) == ("adaptive", 2, 2 * 21)
    assert "Probes: adaptive." in summary.manifest.with_suffix(".md").read_text()
    first = _ids(workspace)
    for name, (ids, drawn) in first.items():
        assert len(ids) == 21
        assert drawn == subset.choose(70, 13, name, "a" * 40, workspace.probe_set).tolist()
        assert set(drawn) < set(ids)
    assert first["one"][0] != first["two"][0]
    assert probe(adaptive=True, fraction=0.5).run == 2
    for name, (ids, drawn) in _ids(workspace).items():
        assert len(ids) == 35
        assert set(first[name][0]) < set(ids), "what was run is kept"
        assert drawn == subset.choose(70, 21, name, "a" * 40, workspace.probe_set).tolist(), "and more are drawn"
    second = _ids(workspace)
    probe(fraction=0.6)
    assert all(set(second[name][1] or ()) == set(drawn or ()) for name, (_, drawn) in _ids(workspace).items())
    assert probe().run == 2
    assert all(v == (list(range(70)), None) for v in _ids(workspace).values()), "all were run: nothing is biased"


@pytest.mark.parametrize("damage", [{"version": "2"}, {"probe_set": "other"}, {"n": 60}, {"cut": True}])
def test_factors_that_do_not_fit_end_the_run(workspace: Workspace, repos: Repos, damage: dict[str, Any]) -> None:
    repos.vit("one")
    repos.write_catalog(workspace)
    cut = damage.pop("cut", False)
    path = write_factors(workspace, **damage)
    if cut:
        path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WorkspaceError, match="hubprobe complete"):
        probing.probe(workspace, repos.fetch, progress=False, isolate=False, adaptive=True, fraction=0.3)
    assert workspace.attempts().num_rows == 0
