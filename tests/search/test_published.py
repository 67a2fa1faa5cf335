"""An index that is opened where it lies: the same answers as here, of a part of the bytes, each read once."""

import shutil

import numpy as np
import pytest

import hubprobe
import search
from benchmarks.search.data import World, write_workspace
from hubprobe.sync import sync
from workspace.published import Published

PROBES, ROWS = 400, 6_000


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A workspace with an index, and the address of its remote."""
    folder = tmp_path_factory.mktemp("published")
    workspace = write_workspace(folder / "work", World.make(PROBES), 0, ROWS)
    search.index(workspace, encoder="none", progress=False)
    address = f"file://{folder}/remote"
    sync(workspace.root, remote=address, progress=False)
    shutil.rmtree(folder / "remote" / "descriptors")  # nothing but the index is read
    return workspace, address


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def answers(index, queries):
    return [index.search(q, scoring="probelog", k=16).limit(10).to_arrow() for q in queries]


def test_the_same_answers_of_a_part_of_the_bytes(published):
    workspace, address = published
    here = search.open(workspace)
    queries = World.make(PROBES).queries(4)
    there = Published(address)
    index = search.open(there.workspace, source=there)
    assert there.bytes_read == 0
    wanted = answers(here, queries)
    assert answers(index, queries[:1])[0].equals(wanted[0])
    assert 16 * ROWS <= there.bytes_read < 0.15 * 3 * PROBES * ROWS  # codes and values
    assert [a.equals(w) for a, w in zip(answers(index, queries), wanted, strict=True)] == [True] * 4
    read = there.bytes_read
    answers(index, queries)
    assert there.bytes_read == read
    row = here.gallery.keys(np.array([17]))[0]
    assert index.similar(row[0], row[2]).limit(5).to_arrow().equals(here.similar(row[0], row[2]).limit(5).to_arrow())
    again = Published(address)  # another process finds what was read
    answers(search.open(again.workspace, source=again), queries)
    assert again.bytes_read == 0


def test_words_and_whole_descriptors_bring_their_tables(published):
    workspace, address = published
    here, there = search.open(workspace), hubprobe.open(address)
    key = here.gallery.keys(np.array([17]))[0]
    one, other = (i.similar(key[0], key[2], whole=True).limit(5).to_arrow() for i in (here, there))
    assert one.equals(other)


def test_models_like_a_model_read_all_that_they_compare(published):
    workspace, address = published
    here, there = search.open(workspace), hubprobe.open(address)
    repo = here.gallery.keys(np.array([17]))[0][0]
    assert there.similar_models(repo).equals(here.similar_models(repo))


def test_what_is_cut_or_forged_is_refused(published, tmp_path):
    _, address = published
    copy = tmp_path / "remote"
    shutil.copytree(address.removeprefix("file://"), copy)
    for path in (copy / "index").glob("*.u8"):
        path.write_bytes(path.read_bytes()[:1000])
    index = hubprobe.open(f"file://{copy}")
    with pytest.raises(hubprobe.WorkspaceError, match=r"its list says|file://"):
        answers(index, World.make(PROBES).queries(1))
    for path in (copy / "index").glob("*.parquet"):
        path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(hubprobe.WorkspaceError, match="is not what its list says"):
        hubprobe.open(f"file://{copy}")
