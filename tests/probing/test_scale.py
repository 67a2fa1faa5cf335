"""The simulation of a large crawl, small: late and dead machines hold nothing up, and what that costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.scale.simulation import Cluster, run

CLUSTER = Cluster(workers=20, dead=3, late=3, late_seconds=1200)


@pytest.mark.parametrize(("way", "over", "repeated"), [("shards", 1.15, 0.06), ("ray", 1.1, 0.0)])
def test_a_crawl_ends_near_the_bound_whoever_dies(way: str, over: float, repeated: float) -> None:
    found = run(CLUSTER, 2000, way)
    assert 1.0 <= found.makespan / found.bound < over
    assert found.repeated / found.busy <= repeated
    assert found.idle < 0.05


def test_a_split_without_help_never_ends_when_one_dies() -> None:
    assert run(CLUSTER, 4000, "fixed").makespan == float("inf")
    assert run(replace(CLUSTER, dead=0), 4000, "fixed").makespan < float("inf")
