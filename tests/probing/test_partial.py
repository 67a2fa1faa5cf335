"""Each model on its own share of the probes, and the share raised later."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import probing
from probing import subset
from tests.probing.conftest import Repos
from workspace import ConfigError, Workspace


@given(st.integers(2, 300), st.integers(2, 300), st.integers(2, 300), st.integers(0, 50))
def test_a_larger_share_contains_every_smaller_one(n: int, a: int, b: int, core: int) -> None:
    small, large = (subset.choose(n, min(k, n), "a/b", "c", "p", core) for k in sorted((a, b)))
    assert set(small) <= set(large)
    assert len(large) == min(max(max(a, b), min(core, n)), n)
    assert list(small) == sorted(set(small))
    other = subset.choose(n, min(a, n), "x/y", "c", "p", core)
    common = subset.choose(n, min(core, n), "any", "c", "p", core) if core else []
    assert set(common) <= set(small) | set(large)
    assert set(common) <= set(other) or min(a, n) < core


@pytest.mark.parametrize(
    ("n", "fraction", "probes", "expected"),
    [
        (10, None, None, 10), (10, 1.0, None, 10), (10, 0.25, None, 3), (10, 0.3, None, 3), (10, 0.31, None, 4),
        (1000, 0.0001, None, 2), (2, 0.5, None, 2), (10, None, 2, 2), (10, None, 10, 10), (10, None, 11, 10),
    ],
)  # fmt: skip
def test_how_many_probes_a_model_is_run_on(n: int, fraction: float | None, probes: int | None, expected: int) -> None:
    assert subset.size(n, fraction, probes) == expected


@pytest.mark.parametrize(
    ("fraction", "probes"), [(0.0, None), (-0.1, None), (1.0000001, None), (None, 1), (None, -5), (0.5, 5)]
)
def test_a_share_that_is_none(fraction: float | None, probes: int | None) -> None:
    with pytest.raises(ConfigError):
        subset.size(10, fraction, probes)


def test_the_core_is_common_and_counts() -> None:
    names = ("a/b", "a/c", "x/y")
    chosen = [set(subset.choose(400, 40, name, "c", "p", core=25).tolist()) for name in names]
    common = set.intersection(*chosen)
    assert [len(one) for one in chosen] == [40] * 3
    assert common >= set(subset.choose(400, 25, "any", "c", "p", core=25).tolist())
    assert 25 <= len(common) < 30
    assert len(subset.choose(400, 10, "a/b", "c", "p", core=25)) == 25
    assert subset.choose(30, 30, "a/b", "c", "p", core=25).tolist() == list(range(30))


def test_models_get_subsets_of_their_own() -> None:
    one, two = (subset.choose(4000, 400, name, "c", "p") for name in ("a/b", "a/c"))
    assert 10 < len(set(one) & set(two)) < 90, "about 40 of 400 by chance"


@pytest.mark.parametrize("bad", [{"fraction": 0.0}, {"fraction": 1.5}, {"probes_per_model": 1},
                                 {"fraction": 0.5, "probes_per_model": 9}])  # fmt: skip
def test_shares_out_of_range(bad: dict[str, Any], workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    repos.write_catalog(workspace)
    with pytest.raises(ConfigError):
        probing.probe(workspace, repos.fetch, progress=False, isolate=False, **bad)


def test_raising_the_share_runs_only_what_is_missing(workspace: Workspace, repos: Repos) -> None:
    repos.vit("one")
    repos.vit("two", seed=1)
    repos.write_catalog(workspace)

    def probe(**options: Any) -> probing.ProbeSummary:
        return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)

    def ids() -> dict[str, list[int]]:
        rows = workspace.responses(["repo_id", "probe_ids"]).to_pylist()
        return {r["repo_id"]: r["probe_ids"] for r in rows if r["probe_ids"] is not None}

    assert probe(fraction=0.3).images == 2 * 21
    first = ids()
    assert first["one"] != first["two"]
    assert probe(fraction=0.2).run == 0, "less than what is there"
    probe(probes_per_model=40)
    second = ids()
    assert all(set(first[k]) < set(second[k]) and len(second[k]) == 40 for k in first)
    summary = probe()
    assert summary.run == 2
    assert all(v == list(range(70)) for v in ids().values())
    assert probe().run == 0
    merged = np.array(workspace.responses()["response"].to_pylist(), np.float64)
    rerun = probe(retry=["ok"])
    assert rerun.run == 2
    whole = np.array(workspace.responses()["response"].to_pylist(), np.float64)
    assert np.abs(merged - whole).max() < 8e-3, "float16 rounding of what was stored, no more"
    numbers = sorted(workspace.attempts(["attempt"], history=True)["attempt"].to_pylist())
    assert numbers == [1, 1, 2, 2, 3, 3, 4, 4]
