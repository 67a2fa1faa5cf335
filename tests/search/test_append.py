"""Appending: the same answers as a build from nothing, for the price of what is new."""

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import search


def answers(made, k=32):
    index = made.open()
    tables = [index.search(c, k=k).limit(40).to_arrow() for c in ("dog", "pizza", "cup")]
    return [t.select(["rank", "distance", "repo_id", "sha", "logit", "label", "downloads"]).to_pylist() for t in tables]


def test_appending_answers_as_a_build_from_nothing(fresh):
    assert fresh.index().mode == "built"
    for numbers in (range(5, 6), range(6, 9), range(9, 10), range(10, 17)):
        fresh.add(numbers)
        summary = fresh.index()
        assert (summary.mode, summary.added, summary.models) == ("appended", 10 * len(numbers), numbers.stop)
    appended = answers(fresh)
    assert fresh.index(rebuild=True).mode == "built"
    assert answers(fresh) == appended
    tiles = list((fresh.workspace.index_dir / "versions").glob("*/tiles/*.u8"))
    assert len(tiles) <= 8


def test_nothing_new_refreshes_the_metadata(fresh):
    first = fresh.index()
    second = fresh.index()
    assert (second.mode, second.added, second.logits) == ("appended", 0, first.logits)
    assert len(fresh.open()) == first.logits


def test_what_an_index_was_built_from_is_known_without_loading_the_encoder(fresh, siglip2, monkeypatch):
    import os

    from workspace import Workspace

    def at(encoder: str) -> Workspace:
        config = fresh.workspace.config
        return Workspace(fresh.workspace.root, replace(config, search=replace(config.search, encoder=encoder)))

    named = at(f"clip:{siglip2}")
    assert search.unchanged(named) is None  # there is no index
    built = search.index(named, progress=False)
    with monkeypatch.context() as changed:
        changed.setattr("search.text.encoders.MODELS", {})
        same = search.unchanged(named)
        assert search.unchanged(at("none")) is None
    assert same is not None
    assert (same.version, same.mode, same.logits, same.encoder) == (
        built.version,
        "unchanged",
        built.logits,
        built.encoder,
    )
    row = next(named.attempts_dir.glob("*.parquet"))
    os.utime(row, ns=(1, 1))  # written again
    assert search.unchanged(named) is None
    again = search.index(named, names=False, progress=False)
    assert again.mode == "appended"
    assert search.unchanged(named) is None  # `run` would add the list of concepts
    search.index(named, progress=False)
    assert search.unchanged(named) is not None


def test_a_descriptor_file_written_again_makes_a_build_from_nothing(fresh):
    fresh.index()
    fresh.add(range(4, 5))
    assert fresh.index().mode == "built"


def test_a_model_that_is_already_there_is_not_added_twice(fresh):
    fresh.index()
    (repo, sha, logit), vector = next(iter(fresh.vectors.items()))
    fresh.write("again", [{"repo_id": repo, "sha": sha, "logit": logit, "vector": vector}])
    summary = fresh.index()
    assert (summary.added, summary.repeated) == (0, 1)


def test_tiles_are_shared_between_versions(fresh):
    a = fresh.index()
    old = fresh.open()
    b = fresh.index()
    files = [
        next((fresh.workspace.index_dir / "versions" / v / "tiles").glob("*.f16")).stat().st_ino
        for v in (a.version, b.version)
    ]
    assert files[0] == files[1]
    assert len(old) == a.logits


def test_whole_descriptor_recall_is_measured(fresh):
    import json

    summary = fresh.index()
    manifest = json.loads((fresh.workspace.index_dir / "versions" / summary.version / "manifest.json").read_text())
    assert manifest["recall"]["similar_whole@10"] == 1.0
    assert np.isfinite(manifest["n_probes"])
    assert isinstance(summary, search.IndexSummary)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux shows them")
def test_an_append_leaves_no_file_open(fresh):
    """Whatever a build opens is closed when it ends, not whenever the garbage collector runs."""
    fresh.index()
    counts = []
    gc.disable()
    try:
        for number in range(5, 9):
            fresh.add(range(number, number + 1))
            fresh.index()
            counts.append(len(list(Path("/proc/self/fd").iterdir())))
    finally:
        gc.enable()
    assert counts[-1] == counts[0]


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads memory as Linux shows it")
def test_a_vector_index_is_built_extended_and_answers(fresh, monkeypatch):
    """As a gallery of many thousand logits has one, here of 50 and then 70."""
    monkeypatch.setattr("search.store.tables.ANN_ROWS", 50)
    fresh.index()
    index = fresh.open()
    assert index.info()["vector_index"] == "IVF_RQ"
    fresh.add(range(5, 7))
    assert fresh.index().mode == "appended"
    index = fresh.open()
    assert index.info()["vector_index"] == "IVF_RQ"
    for key in list(fresh.vectors)[::9]:
        expected = [k for _, k in fresh.distances(fresh.vectors[key], 120) if k[0] != key[0]]
        hits = index.similar(key[0], key[2], whole=True).limit(5).to_dicts()
        assert [(hit["repo_id"], hit["sha"], hit["logit"]) for hit in hits] == expected[:5]


def test_memory_is_flat_while_threads_ask(fresh):
    """Private memory after many queries is what it was after few; mapped tiles belong to the page cache."""
    fresh.index()
    index = fresh.open()

    def ask(i):
        return index.search("dog").where(f"likes >= {i % 3}").limit(5).to_arrow().num_rows

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(150)))
        before = private_bytes()
        list(pool.map(ask, range(600)))
        assert private_bytes() < before + 8e6


def private_bytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
