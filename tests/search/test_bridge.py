"""The label bridge: other models' honest labels find outputs that say nothing, and wrong ones do little harm."""

import numpy as np
import pyarrow as pa
import pytest

import search
from search.scan.scoring import BRIDGE, ZERO_SHOT
from search.text import labels_fit
from search.text.labels import Trust, counting, plain
from tests.search.conftest import CONCEPTS, FakeEncoder, make
from workspace import QueryError, records
from workspace.files import write_table
from workspace.runs import now


class Blind(FakeEncoder):
    """Knows words from each other, but sees nothing in the probes."""

    def encode_images(self, images):
        rows = np.random.default_rng(0).standard_normal((len(images), len(self.concepts))).astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def blind(tmp_path_factory):
    """An index of 24 models, every other one labelled, whose encoder cannot see."""
    made = make(tmp_path_factory.mktemp("blind") / "workspace", models=24)
    made.encoder = Blind()
    made.index()
    return made


def share_right(made, scoring):
    """Share of the concepts whose nearest logit among the unlabelled models is right."""
    index = made.open()
    right = 0
    for concept in CONCEPTS:
        hit = index.search(concept, scoring=scoring).where("label_quality = 'LABEL_i'").limit(1).to_dicts()[0]
        right += made.truth["models"][hit["repo_id"]]["logits"][hit["logit"]] == concept
    return right / len(CONCEPTS)


def test_labels_of_other_models_find_what_the_encoder_cannot_see(blind):
    assert share_right(blind, "contrastive") < 0.3
    assert share_right(blind, "bridged") > 0.85


def test_every_hit_says_which_side_found_it(blind):
    hits = blind.open().search("dog", scoring="bridged").limit(5).to_dicts()
    assert all(hit["found_by"] and set(hit["found_by"]) <= {"zero-shot", "labels", "map"} for hit in hits)
    assert hits[0]["found_by"][0] == "labels"


def test_the_answer_is_exact(blind):
    index = blind.open()
    for concept in CONCEPTS[:6]:
        for k in (None, 20):
            query = index.search(concept, k=k, scoring="bridged").limit(15)
            assert query.to_arrow().equals(query.exact().to_arrow())


def test_a_lender_can_be_left_out(blind):
    index = blind.open()
    nobody = index.without_labels_of("dog", np.zeros(len(index), bool))
    assert BRIDGE not in nobody.sides
    assert ZERO_SHOT in nobody.sides
    everybody = index.without_labels_of("dog", np.ones(len(index), bool))
    assert BRIDGE in everybody.sides


def test_wrong_labels_do_not_poison_it(tmp_path):
    made = make(tmp_path / "workspace", models=24)
    import pyarrow.parquet as pq

    folder = made.workspace.descriptors_dir(made.workspace.probe_set)
    rng = np.random.default_rng(0)
    for path in sorted(folder.glob("*.parquet")):
        table = pq.read_table(path)
        labels = table.column("label").to_pylist()
        if not labels[0].startswith("LABEL"):
            labels = [label if rng.random() > 0.25 else str(rng.choice(CONCEPTS)) for label in labels]
            at = table.column_names.index("label")
            write_table(path, table.set_column(at, table.schema.field(at), [labels]))
    made.encoder = Blind()
    made.index()
    assert share_right(made, "bridged") > 0.7


def test_labels_survive_an_append_and_a_gallery_without_any_has_none(tmp_path):
    made = make(tmp_path / "workspace", models=6)
    made.index()
    before = made.open().gallery.bridge
    made.add(range(6, 12))
    assert made.index().mode == "appended"
    after = made.open().gallery
    assert after.bridge.trust.size >= before.trust.size
    assert after.calibration.hubness.size == len(after)
    other = make(tmp_path / "other", models=1)  # model 0 shows no labels
    other.index()
    assert other.open().gallery.bridge is None
    assert other.open().search("dog", scoring="bridged").limit(3).to_arrow().num_rows == 3


def learned_of(made):
    gallery = made.open().gallery
    return gallery.bridge, Trust.load(gallery.folder)


def answers(made):
    index = made.open()
    return [
        [((h["repo_id"], h["logit"]), pytest.approx(h["score"], abs=1e-5)) for h in index.search(c).limit(5).to_dicts()]
        for c in CONCEPTS
    ]


def test_a_small_append_learns_nothing_anew_but_lists_what_is_new(tmp_path):
    made = make(tmp_path / "workspace", models=24)
    made.encoder = Blind()
    made.index()
    before, believed = learned_of(made)
    made.add(range(24, 26))  # one of them labelled: 130 named logits in place of 120
    assert made.index().mode == "appended"
    after, trust = learned_of(made)
    assert trust.learned == believed.learned == 120
    assert (after.width, after.share, after.certainty) == (before.width, before.share, before.certainty)
    np.testing.assert_array_equal(after.mapped, before.mapped)
    np.testing.assert_array_equal(trust.trust[:120], believed.trust)
    assert set(after.rows.tolist()) & set(range(240, 260))
    # each label's list is what listing all of them from the same trust gives
    lists = labels_fit._namesakes(made.open().gallery.vectors, trust, range(after.trust.size))
    np.testing.assert_array_equal(after.rows, np.concatenate([rows for rows, _ in lists]))
    np.testing.assert_array_equal(after.weights, np.concatenate([weights for _, weights in lists]))
    np.testing.assert_array_equal(np.diff(after.first), [rows.size for rows, _ in lists])
    assert share_right(made, "bridged") > 0.85


def test_a_larger_append_learns_what_a_build_would(tmp_path):
    made = make(tmp_path / "workspace", models=20)
    made.encoder = Blind()
    made.index()
    made.add(range(20, 26))
    assert made.index().mode == "appended"
    _, trust = learned_of(made)
    assert trust.learned == trust.rows.size == 130
    appended = answers(made)
    made.index(rebuild=True)
    assert answers(made) == appended  # rows are in another order, and nothing else


def test_an_append_notices_labels_that_changed_their_quality(tmp_path):
    made = make(tmp_path / "workspace", models=24)
    made.encoder = Blind()
    made.index()
    _, believed = learned_of(made)
    rows = made.workspace.catalog().to_pylist()
    changed = [{**row, "label_quality": "numeric", "crawled_at": now()} for row in rows if row["id"].endswith("-001")]
    table = pa.Table.from_pylist(changed, schema=records.CATALOG)
    write_table(made.workspace.catalog_dir / "zz.parquet", table)
    made.add(range(24, 26))
    assert made.index().mode == "appended"
    _, trust = learned_of(made)
    assert believed.rows.size == trust.rows.size == 120  # ten left, ten came
    assert trust.learned == 120
    assert not np.array_equal(trust.rows, believed.rows)


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("tench, Tinca tinca", "tench"), ("Golden_Retriever", "golden retriever"), ("LABEL_7", None), ("class 3", None),
        ("7", None), (None, None), ("", None), ("T-Shirt", "t shirt"), ("犬種", "犬種"),
    ],
)  # fmt: skip
def test_labels_as_words(label, words):
    assert plain(label) == words


def test_a_certain_label_outweighs_the_encoder_and_an_uncertain_one_does_not():
    assert counting(1.0) > 20
    assert counting(0.3) < 0.5
    assert counting(0.0) == 0


def test_coverage(blind):
    index = blind.open()
    known, unknown = index.coverage("dog"), index.coverage("an isosceles tax return")
    assert known.probability > unknown.probability
    assert known.covered
    assert "probability" in str(unknown)


def test_names_of_outputs_that_say_nothing(blind):
    index = blind.open()
    repo = next(r for r in blind.truth["models"] if r.endswith("model-004"))
    named = search.open(blind.workspace, encoder=blind.encoder).describe(repo, progress=False).to_pylist()
    truth = blind.truth["models"][repo]["logits"]
    assert [row["logit"] for row in named] == list(range(len(truth)))
    assert sum(row["name"] == truth[row["logit"]] for row in named) >= 0.7 * len(truth)
    assert all(0 <= row["confidence"] <= 1 for row in named)
    assert index.describe(repo, count=1, progress=False).column("others").to_pylist() == [[]] * len(truth)


def test_audit_lists_a_lie(tmp_path):
    import pyarrow.parquet as pq

    made = make(tmp_path / "workspace", models=24)
    folder = made.workspace.descriptors_dir(made.workspace.probe_set)
    path = next(p for p in folder.glob("*.parquet") if "model-005" in str(pq.read_table(p).column("repo_id")[0]))
    table = pq.read_table(path)
    truth = table.column("label").to_pylist()
    lie = next(c for c in CONCEPTS if c not in truth)
    at = table.column_names.index("label")
    write_table(path, table.set_column(at, table.schema.field(at), [[lie, *truth[1:]]]))
    made.encoder = Blind()
    made.index()
    found = made.open().audit(progress=False).to_pylist()
    assert (found[0]["repo_id"].endswith("model-005"), found[0]["logit"]) == (True, 0)
    assert found[0]["name"] == truth[0]
    assert len(found) < 12


def test_models_like_a_model_are_those_that_reading_everything_finds(tmp_path, monkeypatch):
    """However few outputs are read at once: a model lies in several blocks, or a block holds several models."""
    from search import by_model

    made = make(tmp_path / "workspace", models=40, n=200)
    made.index(encoder="none")
    index, repo = made.open(), "owner2/model-002"
    strong = {}
    for (name, _, logit), vector in made.vectors.items():
        squares = np.maximum(vector.astype(np.float64), 0) ** 2
        strong.setdefault(name, {})[logit] = squares / np.linalg.norm(squares)
    matches = {
        name: [max(own @ other for other in logits.values()) for own in strong[repo].values()]
        for name, logits in strong.items()
        if name != repo
    }
    wanted = sorted(((-np.mean(best), name) for name, best in matches.items()))[:5]
    for rows in (1, 7, 10, 10_000):
        monkeypatch.setattr(by_model, "_ENTRIES", rows * 200)
        found = by_model.similar_models(index.gallery, repo, limit=5).to_pylist()
        assert [row["repo_id"] for row in found] == [name for _, name in wanted]
        assert [row["score"] for row in found] == pytest.approx([-score for score, _ in wanted], abs=1e-5)
        shares = [np.mean(np.array(matches[name]) >= by_model.ALIKE) for _, name in wanted]
        assert [row["shared"] for row in found] == pytest.approx(shares)


def test_a_whole_model_is_a_query(blind):
    index = blind.open()
    repos = list(blind.truth["models"])
    found = index.similar_models(repos[3], limit=30).to_pylist()
    assert repos[3] not in [row["repo_id"] for row in found]
    assert [row["score"] for row in found] == sorted((row["score"] for row in found), reverse=True)
    known = set(blind.truth["models"][repos[3]]["logits"])
    overlap = [len(known & set(blind.truth["models"][row["repo_id"]]["logits"])) for row in found]
    assert sum(overlap[:5]) > sum(overlap[-5:])
    assert found[0]["shared"] == pytest.approx(overlap[0] / 10, abs=0.15)
    with pytest.raises(QueryError, match="not in the index"):
        index.similar_models("no/body")
