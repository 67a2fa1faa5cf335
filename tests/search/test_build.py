"""Building: complete, swapped at once, and refused when something is wrong."""

import json

import numpy as np
import pytest

import search
from workspace import QueryError, WorkspaceError


def test_summary_counts(fresh):
    summary = fresh.index()
    assert (summary.models, summary.logits, summary.probes) == (5, 50, 120)
    assert summary.encoder == "clip:fake/encoder@" + "c" * 40
    index = fresh.open()
    assert len(index) == 50
    assert index.version == summary.version


def test_an_open_index_outlives_the_builds_after_it(fresh):
    fresh.index()
    old = fresh.open()
    before = old.search("dog").limit(5).to_dicts()
    vector = next(iter(fresh.vectors.values()))
    fresh.write("new", [{"repo_id": "new/one", "logit": 0, "vector": vector}])
    fresh.index()
    fresh.index()
    assert old.search("dog").limit(5).to_dicts() == before
    assert len(fresh.open()) == 51


def test_a_build_that_dies_leaves_the_old_index(fresh, monkeypatch):
    fresh.index()
    version = search.open(fresh.workspace).version

    def die(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("search.store.versions.publish", die)
    vector = next(iter(fresh.vectors.values()))
    fresh.write("new", [{"repo_id": "new/one", "logit": 0, "vector": vector}])
    with pytest.raises(KeyboardInterrupt):
        fresh.index()
    assert search.open(fresh.workspace).version == version
    monkeypatch.undo()
    fresh.index()
    folders = [p for p in (fresh.workspace.index_dir / "versions").iterdir() if p.is_dir()]
    assert len(folders) == 1


def test_repeated_and_nonfinite_rows_are_left_out(fresh):
    (repo, sha, _), vector = next(iter(fresh.vectors.items()))
    base = {"repo_id": repo, "sha": sha}
    bad = vector.copy()
    bad[3] = np.nan
    rows = [
        {**base, "logit": 0, "vector": vector},
        {**base, "logit": 77, "vector": bad},
        {**base, "logit": 78, "vector": vector},
    ]
    fresh.write("zzz", rows)
    summary = fresh.index()
    assert (summary.logits, summary.repeated, summary.nonfinite) == (51, 1, 1)


def test_an_index_of_another_format_is_refused(fresh):
    summary = fresh.index()
    path = fresh.workspace.index_dir / "versions" / summary.version / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "99"}))
    with pytest.raises(WorkspaceError, match="format"):
        search.open(fresh.workspace)
    fresh.index()
    search.open(fresh.workspace)


@pytest.mark.parametrize("change", ["truncate", "remove", "grow"])
def test_a_damaged_tile_is_refused(fresh, change):
    summary = fresh.index()
    tile = next((fresh.workspace.index_dir / "versions" / summary.version / "tiles").glob("*.f16"))
    if change == "remove":
        tile.unlink()
    else:
        tile.write_bytes(tile.read_bytes()[:-1] if change == "truncate" else tile.read_bytes() + b"x")
    with pytest.raises(WorkspaceError, match="rebuild"):
        search.open(fresh.workspace)


def test_an_index_without_an_encoder_answers_logits_only(fresh):
    search.index(fresh.workspace, encoder="none", progress=False)
    index = search.open(fresh.workspace)
    repo, _, logit = next(iter(fresh.vectors))
    assert index.similar(repo, logit).to_arrow().num_rows == 10
    with pytest.raises(QueryError, match="without an encoder"):
        index.search("dog")


def test_another_commit_of_the_encoder_is_refused(fresh):
    fresh.index()
    with pytest.raises(QueryError, match="was built with"):
        search.open(fresh.workspace, encoder=type(fresh.encoder)("d" * 40)).search("dog")
