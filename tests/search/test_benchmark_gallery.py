"""The gallery that search is measured on: that it can be written, indexed and asked as the records are today."""

import search
from benchmarks.search.data import LOGITS_PER_MODEL, World, WorldEncoder, write_workspace


def test_a_gallery_of_the_benchmark_is_indexed_and_finds_its_concepts(tmp_path):
    world = World.make(60, 0)
    workspace = write_workspace(tmp_path / "w", world, 0, 2 * LOGITS_PER_MODEL)
    summary = search.index(workspace, encoder=WorldEncoder(world), names=False, progress=False)
    assert summary.logits == 2 * LOGITS_PER_MODEL
    index = search.open(workspace, encoder=WorldEncoder(world))
    for query in world.queries(3):
        best = index.search(query).limit(5)
        assert [hit["rank"] for hit in best] == [1, 2, 3, 4, 5]
        assert [hit["logit"] for hit in best.exact()] == [hit["logit"] for hit in best]
