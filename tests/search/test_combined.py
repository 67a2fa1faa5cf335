"""Combined search: words and behaviour, several concepts, near-copies, batches, explanations."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from workspace import QueryError, WorkspaceError


def test_hybrid_says_which_side_found_a_hit(made, opened):
    hits = opened.search("guitar", hybrid=True, k=10).limit(40).to_dicts()
    by_label = {(r, i) for r, m in made.truth["models"].items() for i, c in enumerate(m["logits"]) if c == "guitar"}
    named = {(h["repo_id"], h["logit"]) for h in hits if "label" in h["found_by"]}
    assert named == {(h["repo_id"], h["logit"]) for h in hits if h["label"] == "guitar"}
    assert named < by_label  # the others are called LABEL_i: only behaviour finds them
    both = [h for h in hits if h["found_by"] == ["behaviour", "label"]]
    assert hits[0] in both
    assert [h["score"] for h in hits] == sorted((h["score"] for h in hits), reverse=True)


def test_hybrid_finds_a_model_by_its_name(opened):
    hits = opened.search("model 007", hybrid=True).limit(50).to_dicts()
    assert any("name" in h["found_by"] and h["repo_id"] == "owner2/model-007" for h in hits)


def test_hybrid_finds_a_model_by_its_card(opened):
    hits = opened.search("survey7", hybrid=True).limit(100).to_dicts()
    (found,) = [h for h in hits if "card" in h["found_by"]]
    assert found["repo_id"] == "owner2/model-007"
    assert found["card_summary"] == "Sorts pictures from survey7."


def test_hybrid_keeps_to_the_filter(opened):
    hits = opened.search("dog", hybrid=True).where("downloads > 500").by("model").limit(50).to_dicts()
    assert hits
    assert all(h["downloads"] > 500 for h in hits)
    assert len({h["repo_id"] for h in hits}) == len(hits)


@pytest.mark.parametrize("text", ['"dog', "dog AND (", "label:dog^2 -x*", "'; drop", "犬 🐶", "dog " * 200])
def test_hybrid_takes_words_as_they_are(opened, text):
    assert opened.search(text, hybrid=True).limit(3).to_arrow().num_rows == 3


def knows(made, repo, concept):
    return concept in made.truth["models"][repo]["logits"]


def test_all_of_ranks_models_by_their_worst_match(made, opened):
    hits = opened.search(all_of=["dog", "pizza"], k=15).limit(3).to_dicts()
    both = [r for r in made.truth["models"] if knows(made, r, "dog") and knows(made, r, "pizza")]
    for hit in hits[: len(both)]:
        assert hit["repo_id"] in both
        assert [m["concept"] for m in hit["matches"]] == ["dog", "pizza"]
        labels = made.truth["models"][hit["repo_id"]]["logits"]
        assert [labels[m["logit"]] for m in hit["matches"]] == ["dog", "pizza"]


def test_concepts_equal_their_definition(made, opened):
    best = {}
    for concept in ("dog", "pizza", "cup"):
        for distance, (repo, sha, _) in made.distances(opened.descriptor(concept).vector, 15):
            best.setdefault((repo, sha), {}).setdefault(concept, distance)
    expected = sorted((max(d["dog"], min(d["pizza"], d["cup"])), key) for key, d in best.items())
    hits = opened.search(all_of=["dog"], any_of=["pizza", "cup"], k=15).limit(100).to_dicts()
    assert [(h["repo_id"], h["sha"]) for h in hits] == [key for _, key in expected]
    np.testing.assert_allclose([h["distance"] for h in hits], [d for d, _ in expected], rtol=1e-6)


def test_none_of_leaves_models_out(made, opened):
    hits = opened.search(any_of=["dog"], none_of=["cat"], k=15).limit(100).to_dicts()
    out = set(made.truth["models"]) - {h["repo_id"] for h in hits}
    nearest = opened.search("cat", k=15).by("model").limit(1).to_dicts()[0]["repo_id"]
    assert out == {nearest}


def test_concepts_that_ask_nothing(opened):
    with pytest.raises(QueryError, match="at least one"):
        opened.search(none_of=["dog"])
    with pytest.raises(QueryError, match="one query"):
        opened.search("dog", all_of=["cat"])
    with pytest.raises(QueryError, match="nothing to search"):
        opened.search()
    with pytest.raises(QueryError, match="models only"):
        opened.search(all_of=["dog"]).by("logit")


def test_near_copies_are_one_hit(fresh):
    rng = np.random.default_rng(0)
    original = next(iter(fresh.vectors))[0]
    rows = []
    for (repo, _, logit), vector in fresh.vectors.items():
        if repo == original:
            copy = (vector + rng.standard_normal(len(vector)) * 0.02).astype(np.float16)
            rows.append({"repo_id": "somebody/copy", "logit": logit, "vector": copy})
    fresh.write("copy", rows)
    fresh.index()
    index = fresh.open()
    concept = fresh.truth["models"][original]["logits"][0]
    models = index.search(concept, k=10).by("model").limit(10).to_dicts()
    families = index.search(concept, k=10, group="family").limit(10).to_dicts()
    assert len(models) == 6
    assert len(families) == 5
    hit = next(h for h in families if h["family"] == original)
    assert {hit["repo_id"], *hit["copies"]} == {original, "somebody/copy"}
    assert all(h["copies"] == [] for h in families if h["family"] != original)


def test_a_batch_is_many_queries(opened):
    texts = ["dog", "cat", "pizza", "something else"]
    together = opened.search_many(texts, limit=7, where="likes > 2")
    for text, table in zip(texts, together, strict=True):
        assert table.equals(opened.search(text).where("likes > 2").limit(7).to_arrow())


def test_whole_descriptors(opened):
    near = opened.similar("owner1/model-001", 0, whole=True).limit(5)
    assert near.to_dicts() == near.exact().to_dicts()
    filtered = near.where("label is not null and likes > 8")
    assert filtered.to_dicts() == filtered.exact().to_dicts()


def test_explain_names_every_step(opened):
    trace = opened.search("dog").where("likes > 1").limit(3).explain()
    assert [s.name for s in trace.steps] == ["filter", "read", "metadata"]
    assert "100 of 120" in trace.steps[0].detail
    assert "total" in str(trace)


def test_info_and_verify(fresh):
    import search
    from search.info import verify

    fresh.index()
    info = fresh.open().info()
    assert info["logits"] == 50
    assert info["recall"]["similar_whole@10"] == 1.0
    assert info["bytes"]["exact"] == 50 * 120 * 2
    assert verify(fresh.workspace)["logits"] == 50
    folder = next((fresh.workspace.index_dir / "versions").iterdir())
    for name in ("*.u8", "*.f16"):
        tile = next((folder / "tiles").glob(name))
        data = bytearray(tile.read_bytes())
        data[77] ^= 1
        tile.write_bytes(data)
        with pytest.raises(WorkspaceError, match="damaged"):
            verify(fresh.workspace)
        data[77] ^= 1
        tile.write_bytes(data)
    lance = next((folder / "lance").rglob("*.lance/data/*"))
    lance.write_bytes(lance.read_bytes()[:-1] + b"?")
    with pytest.raises(WorkspaceError, match="damaged"):
        verify(fresh.workspace)
    assert search.index(fresh.workspace, encoder=fresh.encoder, rebuild=True, progress=False).mode == "built"
    assert verify(fresh.workspace)["files"] > 3


def test_sums_hold_after_an_append_that_writes_the_models_anew(fresh):
    from search.info import verify
    from workspace import records
    from workspace.files import write_table

    fresh.index()
    rows = fresh.workspace.catalog().to_pylist()
    rows[0] |= {"downloads": 987_654, "crawled_at": rows[0]["crawled_at"] + timedelta(days=1)}
    write_table(fresh.workspace.catalog_dir / "later.parquet", pa.Table.from_pylist(rows[:1], schema=records.CATALOG))
    assert fresh.index().mode == "appended"
    assert verify(fresh.workspace)["logits"] == len(fresh.open())
    assert 987_654 in fresh.open().gallery.models.column("downloads").to_pylist()
