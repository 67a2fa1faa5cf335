"""What the completion room makes of the prober's files, and the prober of its factors: they meet in the workspace."""

from __future__ import annotations

import pytest

import completion
import probing
from probing import responses, subset
from tests.probing.conftest import Repos
from workspace import Workspace

MODELS = 8


@pytest.mark.slow
def test_descriptors_of_shards_are_those_of_single_files(workspace: Workspace, repos: Repos) -> None:
    for i in range(MODELS):
        repos.vit(f"model-{i}", seed=i)
    repos.write_catalog(workspace)
    probing.probe(workspace, repos.fetch, progress=False, isolate=False)
    first = completion.complete(workspace, progress=False)
    folder = workspace.descriptors_dir(workspace.probe_set)
    assert responses.compact_responses(workspace, workspace.probe_set, least=2) == MODELS
    second = completion.complete(workspace, progress=False)
    assert (second.models, second.logits) == (first.models, first.logits) == (MODELS, MODELS * 5)
    (shard,) = folder.glob("*.parquet")
    assert shard.name.startswith("compacted-"), "the single files' descriptors are gone"


@pytest.mark.slow
def test_probes_are_chosen_by_the_factors_that_completion_leaves(workspace: Workspace, repos: Repos) -> None:
    for i in range(MODELS):
        repos.vit(f"model-{i}", seed=i)
    repos.write_catalog(workspace)
    probing.probe(workspace, repos.fetch, progress=False, isolate=False, fraction=0.6)
    completion.complete(workspace, progress=False)
    path = workspace.factors_path(workspace.probe_set)
    assert subset.read_factors(path, workspace.probe_set, 70) is not None
    repos.vit("new", seed=99)
    repos.write_catalog(workspace)
    summary = probing.probe(workspace, repos.fetch, progress=False, isolate=False, adaptive=True, fraction=0.5)
    assert (summary.selection, summary.images) == ("adaptive", 35)
    completed = completion.complete(workspace, progress=False)
    assert completed.models == MODELS + 1
