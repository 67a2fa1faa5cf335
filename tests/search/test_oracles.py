"""Formulas against definitions written anew here: none of these tests asks the function that it tests."""

import math
from dataclasses import replace

import numpy as np
import pytest

from search.scan import kernels
from search.scan.device import TorchScanner
from search.scan.nearest import Finder
from search.scan.scan import CpuScanner
from search.scan.scoring import BRIDGE, MAP, ZERO_SHOT, Comparison, Descriptor, compile_query, score_of
from search.store.tiles import Tile, write_tile
from search.text import labels, labels_fit
from search.text.bank import names
from search.text.calibration import BANK, Certainty, Coverage, Learned
from search.text.contrast import strengths
from search.text.labels import WITHOUT_EVIDENCE, Bridge, Named, Near, Trust, learn


def test_strengths_are_squares_of_positive_parts_at_unit_length():
    found = strengths(np.array([[3.0, -5.0, 4.0, 0.0], [0.0, -1.0, 0.0, -2.0]], np.float32))
    length = math.hypot(9, 16)
    np.testing.assert_allclose(found[0], [9 / length, 0, 16 / length, 0], rtol=1e-6)
    assert not found[1].any()


def test_no_hit_of_a_hybrid_query_escapes_the_filter(opened):
    free = opened.search("model 001", hybrid=True).limit(200).to_dicts()
    assert any(hit["repo_id"] == "owner1/model-001" and "name" in hit["found_by"] for hit in free)
    kept = opened.search("model 001", hybrid=True).where("repo_id <> 'owner1/model-001'").limit(200).to_dicts()
    assert kept
    assert all(hit["repo_id"] != "owner1/model-001" for hit in kept)
    few = opened.search("model 001", hybrid=True).where("logit = 3").limit(200).to_dicts()
    assert {hit["logit"] for hit in few} == {3}


def test_contrast_is_measured_from_the_banks_mean_in_its_deviations(opened):
    """What a text's coverage rests on, computed again from the embeddings of the bank."""
    encoder, probes = opened.encoder, opened.probe_embeddings.astype(np.float64)
    every = names()
    templates = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")

    def embedded(text):
        rows = encoder.encode_texts([template.format(text) for template in templates]).astype(np.float64)
        mean = rows.mean(axis=0)
        return mean / np.linalg.norm(mean)

    chosen = [every[i] for i in np.linspace(0, len(every) - 1, BANK).astype(int)]
    bank = np.stack([embedded(text) for text in chosen]) @ probes.T
    centre = bank.mean(axis=0)
    best = (bank - centre).max(axis=1)
    for text in ("dog", "pizza", "a thing nobody has"):
        expected = ((embedded(text) @ probes.T - centre).max() - best.mean()) / best.std()
        assert opened.coverage(text).contrast == pytest.approx(expected, abs=0.02)


def test_a_hit_is_a_logistic_regression_with_the_gallerys_own_weights_and_the_query_its_hits(made, monkeypatch):
    index = made.open()
    # not those used where a gallery has too few labels
    named, hidden = (0.3, 0.4, -0.9, 0.2, -1.2), (-3.0, 0.5, -0.1, 0.4, -0.7)
    certainty = Certainty(Learned(named, (0.2, 0.7, 0.4)), Learned(hidden, (0.2, 0.7, 0.4)))
    monkeypatch.setattr(index.gallery, "bridge", replace(index.gallery.bridge, certainty=certainty))
    for text in ("dog", "a thing nobody has"):
        found = index.coverage(text)
        hits = index.search(text, scoring="bridged").to_dicts()
        every = index.search(text, scoring="bridged").limit(len(index)).to_dicts()
        scores = np.array([1.0 - hit["distance"] for hit in every])
        of = np.zeros((2, len(hits)))
        for i, hit in enumerate(hits):
            standing, behind = (scores[i] - scores.mean()) / scores.std(), (scores[0] - scores[i]) / scores.std()
            again = hit["repo_id"] in {better["repo_id"] for better in hits[:i]}
            signs = 1.0, math.log(max(standing, 1)), math.log1p(behind), found.contrast, again
            for side, weights in enumerate((named, hidden)):
                logit = float(np.dot(weights, signs))
                of[side, i] = 1 / (1 + math.exp(-logit))
            wanted = found.trust * of[0, i] + (1 - found.trust) * of[1, i]
            assert hit["probability"] == pytest.approx(wanted, abs=1e-3)
        odds = [p / (1 - p) for p in (of.max(axis=1), 1 - np.prod(1 - of, axis=1))]
        one = 1 / (1 + 1 / (math.exp(0.2) * odds[0] ** 0.7 * odds[1] ** 0.4))
        most = max(hit["probability"] for hit in hits)
        wanted = max(found.trust * one[0] + (1 - found.trust) * one[1], most)
        assert found.probability == pytest.approx(wanted, abs=1e-3)
        assert found.standing == pytest.approx((scores[0] - scores.mean()) / scores.std(), abs=1e-3)


def test_what_is_not_covered_says_why():
    nothing, dull, trusted = (Coverage(0.2, False, *signs) for signs in ((-1, 0.1, 2), (1, 0.1, 2), (1, 0.6, 2)))
    assert str(nothing) == (
        "probably not covered (the probes show nothing like it, and no label can be trusted to name it): "
        "probability 0.20"
    )
    assert "(no logit stands out, and no label can be trusted to name it)" in str(dull)
    assert "(no logit stands out)" in str(trusted)
    unseen, seen = (replace(dull, shown=shown) for shown in (False, True))
    assert "(the probes show nothing like it, and" in str(unseen)
    assert str(seen) == str(dull)
    for trust, named in ((0.49, False), (0.5, True)):
        assert ("no label" not in str(Coverage(0.2, False, 1, trust, 2))) is named
    assert "probability 0.80" in str(Coverage(0.8, True, 1.0, 0.1, 2.0))


def test_trust_falls_with_distance_and_with_the_label():
    near = Near(np.zeros(1, np.float32), ((0.9, 0.5), (0.7, 0.9)))
    assert near.trust(0.1) == pytest.approx(max(math.exp(-1) * 0.5, math.exp(-3) * 0.9))
    assert near.trust(1.0) == pytest.approx(max(math.exp(-0.1) * 0.5, math.exp(-0.3) * 0.9))
    assert Near(near.side, ((1.0, 1.0),)).trust(0.1) == 1.0


def _answers(shown, words, seed=0):
    """Return made vectors by row; logit ``i`` says one word, and answers most strongly where ``shown[i]`` is shown."""
    rng = np.random.default_rng(seed)
    vectors = rng.uniform(0.2, 0.6, (len(shown), words)).astype(np.float32)
    vectors[np.arange(len(shown)), shown] = rng.uniform(0.8, 1.2, len(shown))
    return vectors.__getitem__


def _learned(logits, share, words=30):
    rng = np.random.default_rng(1)
    said = rng.integers(0, words, logits)
    honest = rng.random(logits) < share
    shown = np.where(honest, said, (said + rng.integers(1, words, logits)) % words)
    named = Named(np.arange(logits), [f"w{i}" for i in range(words)], said.astype(np.int32))
    expected = np.eye(words, dtype=np.float32)
    return honest, learn(_answers(shown, words), named, expected, np.zeros(logits, np.float32))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_label_is_believed_as_often_as_it_is_right(share):
    honest, learned = _learned(2_000, share)
    assert learned.trust[honest].mean() > 0.9
    assert learned.trust[~honest].mean() < 0.25
    assert learned.trust.mean() == pytest.approx(honest.mean(), abs=0.06)
    assert (np.diff(learned.curve) >= 0).all()


def test_fifty_labels_are_enough_to_learn_from():
    assert _learned(50, 0.5)[1].grid.size
    few = _learned(49, 0.5)[1]
    assert not few.grid.size
    assert (few.trust == np.float32(WITHOUT_EVIDENCE)).all()


def _bridge(trust, mapped=None, share=0.3):
    """Two labels, equally near to the text, each carried by one logit: row 0 answers probe 0, row 1 probe 1."""
    embeddings = np.array([[1.0, 0.2], [1.0, -0.2]], np.float16)
    return Bridge(
        centre=np.zeros(2, np.float32), embeddings=embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True),
        trust=np.array(trust, np.float32), first=np.array([0, 1, 2]), rows=np.array([0, 1]),
        weights=np.ones(2, np.float32), mapped=np.empty((0, 3), np.float16) if mapped is None else mapped, share=share,
    )  # fmt: skip


def _vectors(rows):
    return np.eye(3, dtype=np.float32)[rows]


def test_a_label_counts_as_it_is_trusted():
    text = np.array([1.0, 0.0], np.float32)
    sides, trust = _bridge([0.9, 0.3]).sides(text, _vectors)
    side = sides[BRIDGE] / np.linalg.norm(sides[BRIDGE])
    np.testing.assert_allclose(side, np.array([0.9, 0.3, 0.0]) / math.hypot(0.9, 0.3), atol=2e-3)
    similarity = 1.0 / math.hypot(1.0, 0.2)
    assert trust == pytest.approx(0.9 * math.exp((similarity - 1.0) / 0.1), abs=5e-3)


def test_the_learned_map_adds_its_share():
    mapped = np.array([[1.0, 2.0, -5.0], [0.0, 0.0, 0.0]], np.float16)
    sides, _ = _bridge([0.9, 0.3], mapped, share=0.6).sides(np.array([2.0, 0.0], np.float32), _vectors)
    np.testing.assert_allclose(sides[MAP], 0.6 * np.array([1.0, 2.0, 0.0]) / math.hypot(1, 2), atol=2e-3)


class _Bare(Finder):
    def __init__(self, folder, vectors):
        self.tiles = [Tile(folder, write_tile(folder, "0-0", vectors), vectors.shape[1])]
        self.starts = np.array([0, len(vectors)])
        self.scanner = CpuScanner(self.tiles, self.starts)

    def keys(self, rows):
        return [("model", "sha", int(row)) for row in rows]

    def raw_moments(self, rows):
        raise NotImplementedError


@pytest.mark.parametrize("by", ["numba", "torch"])
@pytest.mark.parametrize("columns", [1, 4, 40])
@pytest.mark.parametrize("positive", [False, True])
def test_bounds_hold_where_float32_loses_most(tmp_path, columns, positive, by):
    """Values far outside of the codes: true squares of 1e10, beside which the codes' own error is small."""
    rng = np.random.default_rng(0)
    vectors = (rng.choice([-1, 1], (500, columns)) * rng.uniform(60_000, 65_504, (500, columns))).astype(np.float16)
    targets = np.full(columns, 65_504, np.float32)
    weights = np.full(columns, 1 / columns, np.float32)
    squares = np.maximum(vectors.astype(np.float64), 0) ** 2 if positive else (65_504 - vectors.astype(np.float64)) ** 2
    exact = squares @ weights.astype(np.float64)
    extra = {}
    if positive:
        extra = {"positive": True, "scale": np.full(500, -1, np.float32), "shift": np.ones(500, np.float32)}
        exact = 1.0 - exact
    comparison = Comparison(np.arange(columns, dtype=np.int32), targets, weights, **extra)
    bare = _Bare(tmp_path, vectors)
    scanner = bare.scanner if by == "numba" else TorchScanner(bare.tiles, bare.starts, "cpu")
    (found,) = scanner.scan([comparison], [None], 0, [np.inf])
    assert len(found.rows) == 500
    assert (found.bounds <= exact[found.rows]).all()


@pytest.mark.parametrize("upper", [False, True])
def test_what_is_left_out_unseen_is_really_above_the_ceiling(upper):
    """Where the line that is compared first touches the bound, only its allowance for rounding keeps it below."""
    shrink, error = 1.0 - 1e-5, 0.01
    touching = (64 * error) ** 2 * (shrink if upper else 1 / shrink)
    total = (touching * (1 + np.linspace(-1e-3, 1e-3, 20_001))).astype(np.float32)
    rng = np.random.default_rng(0)
    scale = (rng.uniform(1e-4, 1.0, total.size) * (-1 if upper else 1)).astype(np.float32)
    shift = rng.uniform(-1_000, 1_000, total.size).astype(np.float32)
    x = total.astype(np.float64)
    root = np.sqrt(x / shrink) + error if upper else np.sqrt(x * shrink) - error
    bound = root**2 * scale.astype(np.float64) + shift
    under = np.empty(total.size, np.float32)
    lowest = kernels._estimate(total, 0, total.size, 0, scale, shift, kernels._line(shrink, error, upper), under)
    assert (under <= bound).all()
    assert (bound - under < 1e-2).all()
    assert lowest == under.min()


def test_namesakes_that_answer_alike_raise_each_others_trust():
    rng = np.random.default_rng(3)
    thing = rng.standard_normal(64)
    vectors = np.stack([thing + noise * rng.standard_normal(64) for noise in (0.3, 0.3, 0.3, 9.0)]).astype(np.float32)
    trust = np.array([0.9, 0.2, 0.5, 0.8])
    (found,) = labels_fit._namesakes(
        lambda rows: vectors[rows], Trust(np.arange(4), np.zeros(4, np.int32), trust, np.empty(0), np.empty(0), 0), [0]
    )
    strong = np.maximum(vectors, 0).astype(np.float64) ** 2
    support = []
    for i in range(4):
        rest = [j for j in range(4) if j != i]
        cosines = [strong[i] @ strong[j] / np.linalg.norm(strong[i]) / np.linalg.norm(strong[j]) for j in rest]
        support.append(np.average(cosines, weights=trust[rest] + 0.1))
    expected = np.minimum(np.sqrt((trust + 0.05) * support / max(support)), 1.0)
    assert found[0].tolist() == np.argsort(-expected).tolist()
    np.testing.assert_allclose(found[1], np.sort(expected)[::-1], rtol=1e-4)


def test_a_label_is_trusted_as_the_most_trusted_of_its_logits():
    lists = [(np.array([3, 1]), [0.2, 0.7]), (np.array([], np.int64), []), (np.array([2]), [0.4])]
    found = labels_fit._listed(_bridge([0, 0]), [(rows, np.array(weights, np.float32)) for rows, weights in lists])
    assert found.trust.tolist() == pytest.approx([0.7, 0.0, 0.4])
    assert (found.first.tolist(), found.rows.tolist()) == ([0, 2, 2, 3], [3, 1, 2])
    assert found.of_label(0)[1].tolist() == pytest.approx([0.2, 0.7])


def test_the_learned_map_is_a_weighted_ridge_regression_and_what_is_left_out_was_not_seen():
    rng = np.random.default_rng(8)
    labels, wide, probes = 220, 5, 12
    placed = rng.standard_normal((labels, wide)).astype(np.float32)
    vectors = (placed @ rng.standard_normal((wide, probes)) + 0.5 * rng.standard_normal((labels, probes))).astype("f4")
    trust = rng.uniform(0.1, 1.0, labels).astype(np.float32)
    bridge = replace(_bridge(trust), first=np.arange(labels + 1), rows=np.arange(labels), weights=trust)
    bridge = replace(bridge, mapped=np.empty((0, probes), np.float16))
    found, leave_out = labels_fit._mapped(lambda rows: vectors[rows], bridge, placed)

    truth = np.maximum(vectors, 0).astype(np.float64) ** 2
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)

    def fit(penalty, kept):
        weighed = placed[kept].T * trust[kept]
        return np.linalg.solve(weighed @ placed[kept] + penalty * np.eye(wide), weighed @ truth[kept])

    def unseen(penalty):
        every = np.arange(labels)
        rows = np.stack([np.maximum(placed[i] @ fit(penalty, every != i), 0) for i in every])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    tried = {ridge: unseen(ridge * labels / 1_000) for ridge in (1.0, 3.0, 10.0)}
    best = max(tried, key=lambda ridge: (tried[ridge] * truth).sum())
    whole = fit(best * labels / 1_000, np.ones(labels, bool))
    np.testing.assert_allclose(found.mapped, whole / np.abs(whole).max(), atol=2e-3)
    np.testing.assert_allclose(leave_out(np.arange(labels)), tried[best], atol=2e-3)


def test_what_a_text_expects_is_the_sum_of_its_sides():
    expected, mapped = np.array([[3.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.0, 8.0], [4.0, 0.0]], np.float32)
    found = labels_fit._fused(expected, mapped, [None, None], 0.1, 0.5)
    np.testing.assert_allclose(found, [[0.6, 0.8], [2 / 5**0.5, 1 / 5**0.5]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 7, 40])
def test_a_scoring_is_its_formula(k):
    rng = np.random.default_rng(k)
    raw, g = rng.standard_normal(40) * 3 + 2, rng.standard_normal(40)
    sides = {ZERO_SHOT: np.maximum(rng.standard_normal(40), 0), BRIDGE: np.maximum(rng.standard_normal(40), 0)}
    sides = {name: (side / np.linalg.norm(side)).astype(np.float32) for name, side in sides.items()}
    query = Descriptor.from_raw(raw)
    text = replace(query, sides=sides)
    q = (raw - raw.mean()) / raw.std()

    def first(values):
        return np.argsort(-values)[:k]

    def compared(asked, scoring):
        found = compile_query(asked, scoring, k)
        values, weights = g[found.columns], found.weights.astype(np.float64)
        return weights @ (np.maximum(values, 0) ** 2 if found.positive else (found.targets - values) ** 2)

    def cosine(wanted, length):  # with a logit's squared positive answers, whose own length the gallery knows
        return wanted[first(wanted)] @ np.maximum(g, 0)[first(wanted)] ** 2 / length

    squares, both, own = np.maximum(q, 0) ** 2, sides[ZERO_SHOT] + sides[BRIDGE], np.maximum(q, 0) ** 1.25
    for asked, scoring, wanted in (
        (query, "probelog", ((q - g)[first(q)] ** 2).mean()),
        (query, "full", ((q - g) ** 2).mean()),
        (query, "unnormalised", ((raw - g)[first(q)] ** 2).mean()),
        (query, "strong", cosine(squares, np.linalg.norm(squares[first(squares)]))),
        (query, "bridged", cosine(own, np.linalg.norm(own))),
        (text, "contrastive", cosine(sides[ZERO_SHOT], 1.0)),
        (text, "bridged", cosine(both, np.linalg.norm(both))),
    ):
        assert compared(asked, scoring) == pytest.approx(wanted, rel=1e-4), scoring
    assert score_of(np.array([0.0, 1.0, 3.0])).tolist() == [1.0, 0.5, 0.25]


def test_rivals_are_other_logits_that_score_higher_less_their_hubness():
    rng = np.random.default_rng(9)
    vectors, hubness = rng.standard_normal((30, 16)).astype(np.float32), rng.uniform(0, 0.5, 30).astype(np.float32)
    bridge = replace(_bridge(np.ones(6)), first=np.arange(7), rows=np.arange(0, 30, 5), weights=np.ones(6, np.float32))
    asked, expected = np.array([4, 0, 3]), rng.uniform(0, 1, (3, 16)).astype(np.float32)
    every = np.zeros((6, 16), np.float32)
    every[asked] = expected
    own = labels_fit._Labels(lambda rows: vectors[rows], np.arange(30) // 3, np.zeros((6, 2)), every, hubness, None)
    trial = labels_fit._Trial(bridge, own, asked)
    found = trial.above([None, None, None], 0.1, 0.3)
    strong = np.maximum(vectors, 0).astype(np.float64) ** 2
    strong /= np.linalg.norm(strong, axis=1, keepdims=True)
    for text, label, count in zip(expected, asked, found, strict=True):
        scores = strong @ (text / np.linalg.norm(text)) - hubness
        assert count == (scores > scores[5 * label]).sum()
    assert found.min() < found.max()


def test_a_density_is_a_mean_of_bells_of_silvermans_width():
    values, grid = np.random.default_rng(2).normal(3, 2, 50).astype(np.float32), np.linspace(-2, 8, 9)
    width = 0.9 * values.std(dtype=np.float64) / 50**0.2
    bells = [[math.exp(-(((at - value) / width) ** 2) / 2) / width for value in values] for at in grid]
    np.testing.assert_allclose(labels._density(values, grid), np.mean(bells, axis=1), rtol=1e-6)


@pytest.mark.parametrize("asked", ["guitar", "survey7"])
@pytest.mark.parametrize("condition", ["", "downloads > 300", "downloads < 0"])
def test_a_hybrid_query_adds_up_reciprocal_ranks(made, opened, asked, condition):
    """Labels that are the word are equally good matches, so that their keys order them; a card stands for one logit."""
    query = opened.search(asked, hybrid=True, k=10, scoring="probelog").limit(120)
    hits = (query.where(condition) if condition else query).to_dicts()
    allowed = {"": lambda n: True, "downloads > 300": lambda n: n > 3, "downloads < 0": lambda n: False}[condition]
    rows = opened.search(asked, k=10, scoring="probelog").limit(120).to_dicts()
    distances = {
        (hit["repo_id"], hit["sha"], hit["logit"]): (hit["distance"], hit["label"])
        for hit in rows if allowed(int(hit["repo_id"][-3:]))
    }  # fmt: skip
    behaviour = sorted(distances, key=lambda key: (distances[key][0], key))
    sides = {"behaviour": behaviour, "label": sorted(key for key in distances if distances[key][1] == asked)}
    sides["card"] = [key for key in behaviour if f"survey{int(key[0][-3:])}" == asked][:1]
    scores = dict.fromkeys(behaviour, 0.0)
    for side in sides.values():
        for rank, key in enumerate(side, 1):
            scores[key] += 1 / (60 + rank)
    wanted = sorted(scores, key=lambda key: (-scores[key], distances[key][0], key))
    assert [(hit["repo_id"], hit["sha"], hit["logit"]) for hit in hits] == wanted
    assert [hit["score"] for hit in hits] == pytest.approx([scores[key] for key in wanted])
    for hit, key in zip(hits, wanted, strict=True):
        assert hit["found_by"] == [name for name, side in sides.items() if key in side]
        assert hit["distance"] == pytest.approx(distances[key][0])
    assert (any("label" in hit["found_by"] for hit in hits), any("card" in hit["found_by"] for hit in hits)) == (
        asked == "guitar" and condition != "downloads < 0", asked == "survey7" and condition != "downloads < 0",
    )  # fmt: skip


def test_sides_that_found_a_hit_are_those_of_a_quarter_of_its_score(made):
    index = made.open()
    rows = np.arange(len(index), dtype=np.int64)
    for text in ("dog", "guitar"):
        hits = index.search(text, scoring="bridged").limit(len(index)).to_dicts()
        keys = {key: row for row, key in enumerate(index.gallery.keys(rows))}
        at = np.array([keys[hit["repo_id"], hit["sha"], hit["logit"]] for hit in hits], np.int64)
        parts = index.gallery.parts(index.search(text, scoring="bridged").descriptor, at)
        total = sum(parts.values())
        for i, hit in enumerate(hits):
            sides = sorted((side for side in parts if parts[side][i] >= total[i] / 4), key=lambda side: -parts[side][i])
            assert hit["found_by"] == sides
