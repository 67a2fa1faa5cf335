"""Whole lists: a true one is told from the same names in another order, names its model, and lends its names."""

import numpy as np
import pyarrow as pa
import pytest

from search.text import lists
from search.text.contrast import Material, zero_shot
from tests.search.conftest import CONCEPTS, make
from workspace import records
from workspace.files import write_table

N, DIM = 400, 64


class World:
    """Probes of 60 concepts, outputs that answer them with noise, and an encoder that reads names."""

    def __init__(self, noise: float = 1.5):
        self.rng = np.random.default_rng(0)
        self.names = [f"thing {chr(97 + i // 8)}{chr(97 + i % 8)}" for i in range(60)]
        texts = self.rng.standard_normal((60, DIM)).astype(np.float32)
        self.texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
        self.shown = self.rng.integers(0, 60, N)
        probes = self.texts[self.shown] + 0.1 * self.rng.standard_normal((N, DIM)).astype(np.float32)
        self.probes = probes / np.linalg.norm(probes, axis=1, keepdims=True)
        self.noise = noise
        self.vectors: list[np.ndarray] = []

    def embed(self, texts):
        unknown = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
        return np.stack([self.texts[self.names.index(t)] if t in self.names else unknown / 8 for t in texts])

    def model(self, concepts, labels, quality="LABEL_i", repo_id="a/b"):
        first = len(self.vectors)
        raw = 4.0 * (self.shown[None] == np.array(concepts)[:, None]) + self.noise * self.rng.standard_normal(
            (len(concepts), N)
        )
        self.vectors += list(((raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)).astype(np.float32))
        rows = np.arange(first, len(self.vectors))
        return lists.Model(repo_id, quality, len(concepts), rows, np.arange(len(concepts)), labels)

    def judge(self, models):
        centre = (self.probes @ self.texts.mean(axis=0)).astype(np.float32)
        model_of = np.empty(0, np.int32)
        vectors = lambda rows: np.stack([self.vectors[r] for r in rows])  # noqa: E731
        return lists.Judge(models, Material(vectors, model_of, self.embed, self.probes), centre)


@pytest.fixture
def world():
    return World()


def of(world, concepts):
    return [world.names[c] for c in concepts]


def test_another_models_list_names_a_model_and_another_order_does_not(world):
    concepts = list(range(0, 40, 2))
    honest = world.model(concepts, of(world, concepts), "named", "some/one")
    same, turned = world.model(concepts, ["0"] * 20), world.model(concepts[::-1], ["0"] * 20)
    judge = world.judge([honest, same, turned])
    found = judge.verdict(same)
    assert found.source == "some/one"
    assert found.fit > 10
    assert [found.names[r] for r in same.rows.tolist()] == of(world, concepts)
    assert judge.verdict(turned) == lists.Verdict()


def test_no_wrong_list_is_accepted(world):
    """Neither another order of the right names, nor other names in an order that is alike."""
    concepts = list(range(12))
    model = world.model(concepts, ["0"] * 12)
    centre = (world.probes @ world.texts.mean(axis=0)).astype(np.float32)
    expected = zero_shot(world.embed(of(world, concepts)) @ world.probes.T, centre)
    vectors = np.stack([world.vectors[r] for r in model.rows])
    rng = np.random.default_rng(2)
    answered = lists.answers(vectors)
    orders = np.array([lists.Fit.of(expected[rng.permutation(12)], answered).agreement for _ in range(1_000)])
    assert orders.mean() == pytest.approx(0.0, abs=0.1)  # as the formula says
    assert orders.std() == pytest.approx(1.0, abs=0.1)
    wrong = [world.model(range(12), of(world, rng.permutation(12)), "named", f"wrong/{i}") for i in range(100)]
    near = [world.model(range(12), of(world, rng.permutation(60)[:12]), "named", f"other/{i}") for i in range(99)]
    assert world.judge([model, *wrong, *near]).verdict(model) == lists.Verdict()
    right = world.model(range(12), of(world, range(12)), "named", "right/one")
    assert world.judge([model, *wrong, *near, right]).verdict(model).source == "right/one"


def test_namesakes_name_a_short_weak_model_that_the_text_alone_does_not():
    world = World(noise=2.0)
    known = world.embed
    unclear = 0.2 * np.random.default_rng(3).standard_normal((60, DIM)).astype(np.float32)
    world.embed = lambda texts: known(texts) + unclear[[world.names.index(text) for text in texts]]
    honest = [world.model(range(i, i + 8), of(world, range(i, i + 8)), "named", f"honest/{i}") for i in range(8)]
    weak = world.model(range(3, 11), ["0"] * 8)
    lender = world.model(range(3, 11), of(world, range(3, 11)), "named", "right/one")
    turned = world.model(range(3, 11), of(world, [*range(4, 11), 3]), "named", "wrong/one")
    assert world.judge([weak, lender, turned]).verdict(weak) == lists.Verdict()
    found = world.judge([*honest, weak, lender, turned]).verdict(weak)
    assert list(found.names.values()) == of(world, range(3, 11))


def test_evidence_is_agreement_and_a_matching_of_names_with_outputs(world):
    expected, vectors = (np.abs(world.rng.standard_normal((7, 50))).astype(np.float32) for _ in range(2))
    shares = np.array([[np.exp(v[p]) / sum(np.exp(w[p]) for w in vectors) for p in range(50)] for v in vectors])
    strong = np.array([v**2 / np.sqrt((v**4).sum()) for v in vectors])
    whole = np.zeros((7, 7))
    for answers in (strong, shares, None):
        s = whole if answers is None else np.array([[e @ a for a in answers] for e in expected])
        s = s - s.mean(0)[None] - s.mean(1)[:, None] + s.mean()
        whole = s / np.sqrt((s**2).sum() / 6) + (0 if answers is None else whole)
    d = np.exp(whole / lists.SHARPNESS)
    d /= d.sum(axis=1, keepdims=True)
    d /= d.sum(axis=0, keepdims=True)
    fit = lists.Fit.of(expected, lists.answers(vectors))
    assert fit.agreement == pytest.approx(np.trace(whole), rel=1e-4)
    wanted = np.trace(whole) + lists.WEIGHT * np.mean([np.log(7 * d[i, i]) for i in range(7)])
    assert fit.evidence == pytest.approx(wanted, rel=1e-4)


def test_labels_of_its_own_are_confirmed_or_refused(world):
    concepts = list(range(20))
    unsure = world.model(concepts, of(world, concepts), "inferred")
    honest = world.model(concepts, of(world, concepts), "named")
    wrong = world.model(concepts, of(world, [*concepts[7:], *concepts[:7]]), "named")
    judge = world.judge([unsure, honest, wrong])
    assert judge.verdict(unsure).source == "its own"
    assert lists.quality(unsure, "its own", 9.0) == "named"
    fits = [judge.verdict(model).fit for model in (honest, wrong)]
    assert fits[0] > lists.OWN_ACCEPTED
    assert fits[1] < lists.REFUTED
    assert [lists.quality(m, None, f) for m, f in zip((honest, wrong), fits, strict=True)] == ["named", lists.REFUSED]


def test_too_few_outputs_are_not_judged(world):
    honest = world.model(range(6), of(world, range(6)), "named")
    few = world.model(range(6), ["0"] * 6)
    assert world.judge([honest, few]).verdict(few) == lists.Verdict()


def test_known_lists_have_their_length():
    for name, labels in lists.shipped().items():
        assert len(labels) > 1, name
        assert all(label.strip() for label in labels), name
    for name, count in {"cifar-10": 10, "cifar-100": 100, "food-101": 101, "imagenet-1k": 1000}.items():
        assert len(lists.shipped()[name]) == count
    ((name, labels),) = lists.known(1_001)
    assert (name, labels[0], labels[1]) == ("imagenet-1k and background", "background", "tench")
    assert [n for n, _ in lists.known(11_821)] == ["imagenet-12k"]


def in_catalog(made, quality, outputs=14):
    """Give repositories a catalog row and an attempt, as the other rooms would."""
    some = made.workspace.catalog().to_pylist()[0], made.workspace.attempts().to_pylist()[0]
    key = {"sha": "f" * 40, "num_logits": outputs}
    catalog = [{**some[0], **key, "id": repo, "label_quality": q, "num_labels": outputs} for repo, q in quality.items()]
    attempts = [{**some[1], **key, "repo_id": repo} for repo in quality]
    tables = (
        (made.workspace.catalog_dir, catalog, records.CATALOG),
        (made.workspace.attempts_dir, attempts, records.ATTEMPTS),
    )
    for folder, rows, schema in tables:
        rows = [{name: row.get(name) for name in schema.names} for row in rows]
        write_table(folder / "zoo.parquet", pa.Table.from_pylist(rows, schema=schema))


def test_an_index_lends_what_a_list_names(tmp_path):
    made = make(tmp_path / "workspace", models=12)
    rng = np.random.default_rng(5)
    order = rng.permutation(len(CONCEPTS))[:14].tolist()

    def vectors(noise):
        raw = made.content[:, order].T + noise * rng.standard_normal((14, len(made.content)))
        return ((raw - raw.mean(1, keepdims=True)) / raw.std(1, keepdims=True)).astype(np.float16)

    rows = [("zoo/honest", CONCEPTS[c]) for c in order], [("zoo/silent", f"LABEL_{i}") for i in range(14)]
    for own in rows:
        found = vectors(0.05)
        made.write(own[0][0].replace("/", "-"), [
            {"repo_id": repo, "logit": i, "label": label, "vector": found[i]} for i, (repo, label) in enumerate(own)
        ])  # fmt: skip
    in_catalog(made, {"zoo/honest": "named", "zoo/silent": "LABEL_i"})
    made.index()
    index = made.open()
    models = {row["repo_id"]: row for row in index.gallery.models.to_pylist()}
    assert models["zoo/silent"]["labels_from"] == "zoo/honest"
    assert models["zoo/honest"]["labels_from"] is None
    assert min(models[name]["labels_fit"] for name in ("zoo/honest", "zoo/silent")) > lists.OWN_ACCEPTED
    lending = set(index.gallery.keys(index.gallery.bridge.rows))
    assert {("zoo/silent", "f" * 40, i) for i in range(14)} <= lending
    named = index.describe("zoo/silent", progress=False)
    assert named["name"].to_pylist() == [CONCEPTS[c] for c in order]
    assert set(named["source"].to_pylist()) == {"list"}
    assert index.search("dog").where("labels_from = 'zoo/honest'").limit(1).to_dicts()[0]["label"].startswith("LABEL_")
    made.add(range(12, 14))
    assert made.index().mode == "appended"
    again = {row["repo_id"]: row["labels_from"] for row in made.open().gallery.models.to_pylist()}
    assert again["zoo/silent"] == "zoo/honest"


def test_what_lists_expect_is_forgotten_where_there_are_many_and_the_verdicts_stay(world, monkeypatch):
    models = []
    for i in range(12):
        concepts = world.rng.permutation(40)[: (12, 30, 8)[i % 3]].tolist()
        models.append(world.model(concepts, of(world, concepts), "named", f"honest/{i}"))
        if i < 6:
            models.append(world.model(concepts, [f"LABEL_{j}" for j in range(len(concepts))], repo_id=f"silent/{i}"))
    wanted = [world.judge(models).verdict(model) for model in models]
    assert sum(verdict.source is not None for verdict in wanted) >= 4
    monkeypatch.setattr(lists, "REMEMBERED", 40 * N * 4)
    judge = world.judge(models)
    assert judge.verdicts(models) == wanted
    assert 0 < judge._expected.currsize <= lists.REMEMBERED
    monkeypatch.setattr(lists, "REMEMBERED", 4)  # no list is that short
    assert world.judge(models).verdicts(models) == wanted
