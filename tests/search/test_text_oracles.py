"""What an index learns of its encoder and its labels, against definitions written anew here in float64."""

import math
import zlib
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from search.text import bank, calibration, contrast, labels, labels_fit
from search.text.calibration import BANK, FIRST, RISK, Certainty, Learned, calibrate, isotonic, venn_abers
from search.text.contrast import TEMPERATURE, Material
from search.text.labels import KERNEL, Bridge, Named, Trust, counting, extend

DIM, PROBES = 6, 30


def unit(rows):
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length, length, 1.0)


def embedded(texts):
    """Texts that have much in common, as those of real encoders have."""
    rows = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(DIM) + 1.0 for text in texts]
    return unit(np.stack(rows)).astype(np.float32)


def material(logits, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((logits, PROBES)).astype(np.float32)
    probes = unit(rng.standard_normal((PROBES, DIM)) + 0.5).astype(np.float32)
    return vectors, Material(vectors.__getitem__, np.arange(logits, dtype=np.int32) // 4, embedded, probes)


def strong(vectors):
    return unit(np.maximum(vectors, 0).astype(np.float64) ** 2)


def soft(scores, axis):
    return TEMPERATURE * np.log(np.exp(scores / TEMPERATURE).mean(axis=axis))


def test_calibration_is_what_the_bank_finds_in_all_logits_or_in_a_sample(monkeypatch):
    monkeypatch.setattr(calibration, "_SAMPLE", 16)  # of logits
    monkeypatch.setattr(contrast, "_ROWS", 16)  # measured at a time
    vectors, learned_from = material(40)
    found = calibrate(learned_from, progress=False)
    names = bank.names()
    texts = embedded([names[math.floor(i)] for i in np.linspace(0, len(names) - 1, BANK)]).astype(np.float64)
    similarity = texts @ learned_from.probes.T.astype(np.float64)
    centre = similarity.mean(axis=0)
    away = similarity - centre
    z = (away - away.mean(axis=1, keepdims=True)) / away.std(axis=1, keepdims=True)
    asked = unit(np.maximum(z, 0) ** max(1.0, 3.0 * PROBES / 1_000))
    some = strong(vectors[[math.floor(i) for i in np.linspace(0, 39, 16)]]) @ asked.T
    offered = soft(some - soft(some, 1)[:, None], 0)
    np.testing.assert_allclose(found.centre, centre, atol=1e-5)
    np.testing.assert_allclose(found.texts, texts.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(found.offered, offered, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.hubness, soft(strong(vectors) @ asked.T - offered, 1), rtol=1e-3, atol=1e-4)
    best = away.max(axis=1)
    np.testing.assert_allclose(found.peaks, [best.mean(), best.std()], rtol=1e-4)
    asks = similarity[:5].astype(np.float32)
    np.testing.assert_allclose(found.contrast(asks), (best[:5] - best.mean()) / best.std(), atol=1e-3)
    # what a version took over stays, and what is new is measured against the same
    older = replace(found, hubness=found.hubness[:25] + 1, offered=found.offered - 0.5)
    grown = calibrate(learned_from, previous=older, progress=False)
    np.testing.assert_array_equal(grown.hubness[:25], older.hubness)
    np.testing.assert_allclose(grown.hubness[25:], found.hubness[25:] + 0.5, atol=1e-4)
    for stale in (replace(older, centre=older.centre + 1), replace(older, offered=np.empty(0, np.float32))):
        np.testing.assert_array_equal(calibrate(learned_from, previous=stale, progress=False).hubness, found.hubness)


@pytest.mark.parametrize("seed", range(6))
def test_the_least_probability_is_the_lowest_from_which_few_are_wrong(seed):
    rng = np.random.default_rng(seed)
    stated = np.round(rng.random(80), 1 + seed % 2)  # many are stated alike, or few
    answered = rng.random(80) < stated ** (0.3 if seed < 4 else 9)

    def risk(least):
        taken = stated >= least
        return ((taken & ~answered).sum() + 1) / (taken.sum() + 1)

    allowed = [least for least in stated if risk(least) <= RISK]
    assert calibration._least(stated, answered) == min(allowed, default=stated.max())


@pytest.mark.parametrize(("n", "power"), [(7, 1), (20, 1), (333, 1), (400, 0.1), (400, 5)])
def test_isotonic_is_the_largest_of_the_least_means(n, power):
    """The minimax formula of isotonic regression (Robertson, Wright and Dykstra 1988), over groups of cases."""
    rng = np.random.default_rng(n)
    stated = rng.random(n)
    right = rng.random(n) < np.clip(stated**power + 0.3 * np.sin(9 * stated), 0, 1)
    order = np.argsort(stated)
    x, y = stated[order], right[order].astype(np.float64)
    points, shares = isotonic(stated, right)
    assert points == x.tolist()
    for i in range(n):
        fitted = max(min(y[a : b + 1].mean() for b in range(i, n)) for a in range(i + 1))
        assert shares[i] == pytest.approx(fitted, abs=1e-12)


def test_venn_abers_adds_the_case_that_is_asked_about_as_right_and_as_wrong():
    rng = np.random.default_rng(5)
    stated = rng.random(60)
    right = rng.random(60) < stated
    points, shares = venn_abers(stated, right)
    assert (points[0], points[-1]) == (stated.min(), stated.max())
    for point, share in zip(points, shares, strict=True):
        both = []
        for came in (False, True):
            at, fitted = isotonic(np.array([*stated, point]), np.array([*right, came]))
            both.append(fitted[at.index(point)])
        wanted = both[1] / (1 - both[0] + both[1])
        assert share >= wanted - 1e-12  # and never falls
        assert share == pytest.approx(wanted, abs=0.03)


def test_certainty_is_a_mixture_by_trust_of_what_was_learned_where_a_label_names_the_text_and_where_none_does():
    rng = np.random.default_rng(1)
    signs = np.concatenate([np.ones((5, FIRST, 1)), 2 * rng.standard_normal((5, FIRST, 4))], axis=2)
    there, trust = rng.random((5, FIRST)) < 0.7, rng.random(5)
    there[0] = False
    steps = ((0.1, 0.6), (0.3, 0.5)), ((0.2, 0.9), (0.1, 0.7))
    learned = [Learned((0.5 * i, 1.0, -1.0, 0.3, -2.0), (0.1, 0.4 * i, 0.8), steps[i]) for i in range(2)]
    certainty = Certainty(*learned)
    hits, queries = [], []
    for one in learned:
        inputs = signs.copy()
        inputs[..., 1], inputs[..., 2] = np.log(np.maximum(signs[..., 1], 1)), np.log1p(np.maximum(signs[..., 2], 0))
        each = 1 / (1 + np.exp(-inputs @ one.weights))
        hits.append(each)
        left = np.where(there, each, 0)
        best, any_of = (np.clip(p, 1e-5, 1 - 1e-5) for p in (left.max(axis=1), 1 - np.prod(1 - left, axis=1)))
        bias, of_best, of_any = one.together
        odds = math.e**bias * (best / (1 - best)) ** of_best * (any_of / (1 - any_of)) ** of_any
        queries.append(np.interp(odds / (1 + odds), *one.queries))
    of_hits = trust[:, None] * hits[0] + (1 - trust[:, None]) * hits[1]
    np.testing.assert_allclose(certainty.of_hits(signs, trust), of_hits)
    wanted = trust * queries[0] + (1 - trust) * queries[1]
    wanted = np.where(there.any(axis=1), np.maximum(wanted, np.where(there, of_hits, 0).max(axis=1)), 0)
    np.testing.assert_allclose(certainty.of(signs, trust, there), wanted)


def made_bridge(rng, words, most=5):
    """Labels of up to ``most`` rows, some not trusted at all, under a text space of their own."""
    sizes = rng.integers(0, most, words)
    first = np.concatenate([[0], np.cumsum(sizes)])
    rows = rng.permutation(int(first[-1]))
    weights = rng.uniform(0.05, 1, rows.size).astype(np.float32)
    trust = np.array([weights[a:b].max(initial=0) for a, b in pairwise(first)], np.float32)
    trust[::7] = 0
    nothing = np.empty((0, PROBES), np.float16)
    embeddings = unit(rng.standard_normal((words, DIM))).astype(np.float16)
    centre = (0.2 * rng.standard_normal(DIM)).astype(np.float32)
    return Bridge(centre, embeddings, trust, first, rows, weights, nothing)


@pytest.mark.parametrize("without", [None, 3])
@pytest.mark.parametrize("few", [False, True])
def test_the_nearest_labels_lend_what_their_rows_answer(monkeypatch, without, few):
    monkeypatch.setattr(labels, "LABELS", 4)
    rng = np.random.default_rng(2)
    bridge = made_bridge(rng, 50)
    vectors = rng.standard_normal((bridge.rows.size, PROBES)).astype(np.float32)
    allowed = rng.random(bridge.rows.size) < (0.05 if few else 0.6)
    text = bridge.place(bridge.embeddings[3:4].astype(np.float32) + bridge.centre)[0]
    similarity = bridge.embeddings.astype(np.float64) @ text
    side, near = np.zeros(PROBES), []
    ranked = sorted(range(50), key=lambda label: (label == without, -similarity[label]))
    for label in ranked[: 8 * 4]:
        own = [i for i in range(bridge.first[label], bridge.first[label + 1]) if allowed[bridge.rows[i]]]
        if not own or not bridge.trust[label] or label == without or len(near) == 4:
            continue
        near.append((similarity[label], bridge.trust[label]))
        weights = bridge.weights[own].astype(np.float64)
        share = math.exp((similarity[label] - 1) / KERNEL) * bridge.trust[label] * weights / weights.sum()
        side += share @ strong(vectors[bridge.rows[own]])
    found = bridge.nearest(text, vectors.__getitem__, allowed, without)
    np.testing.assert_allclose(found.labels, near, rtol=1e-4)
    np.testing.assert_allclose(found.side, unit(side), atol=1e-4)
    assert found.trust(0.2) == pytest.approx(max(math.exp((s - 1) / 0.2) * t for s, t in near), rel=1e-4)
    assert bridge.nearest(text, vectors.__getitem__, np.zeros(bridge.rows.size, bool)) is None
    sides, trust = bridge.sides(text + bridge.centre, vectors.__getitem__, np.zeros(bridge.rows.size, bool))
    assert (dict(sides), trust) == ({}, 0.0)


@pytest.mark.parametrize("trust", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_a_label_counts_by_the_odds_of_its_trust(trust):
    assert counting(trust) == pytest.approx(trust / (1 - trust + 0.02))


def test_what_is_new_is_trusted_by_the_curve_that_was_learned(monkeypatch):
    monkeypatch.setattr(contrast, "_ROWS", 4)
    rng = np.random.default_rng(4)
    vectors, hubness = rng.standard_normal((20, PROBES)).astype(np.float32), rng.random(20).astype(np.float32)
    rows, label_of = np.arange(0, 20, 2), np.arange(10, dtype=np.int32) % 3
    grid, curve = np.linspace(-1, 1, 9).astype(np.float32), np.linspace(0.1, 0.9, 9).astype(np.float32) ** 2
    before = Trust(rows[:3], label_of[:3], np.array([0.3, 0.2, 0.1], np.float32), grid, curve, 3)
    expected = unit(rng.random((7, PROBES))).astype(np.float32)
    named = Named(rows, ["a", "b", "c"], label_of)
    found = extend(before, vectors.__getitem__, named, expected, hubness)
    scores = (strong(vectors[rows[3:]]) * expected).sum(axis=1) - hubness[rows[3:]]
    np.testing.assert_allclose(found.trust, [*before.trust, *np.interp(scores, grid, curve)], rtol=1e-4)
    assert (found.learned, found.rows.tolist(), found.label_of.tolist()) == (3, rows.tolist(), label_of.tolist())
    blank = replace(before, grid=grid[:0], curve=curve[:0])
    assert extend(blank, vectors.__getitem__, named, expected, hubness).trust[3:].tolist() == pytest.approx([0.8] * 7)


def asked_among(rng, models):
    """A bridge over logits of so many models, and what asking for its labels takes."""
    bridge = made_bridge(rng, 40)
    bridge = replace(bridge, trust=np.maximum(bridge.trust, np.float32(0.2)) * (np.diff(bridge.first) > 0))
    logits = bridge.rows.size
    vectors = rng.standard_normal((logits, PROBES)).astype(np.float32)
    placed = bridge.embeddings.astype(np.float32)
    expected = unit(rng.random((40, PROBES))).astype(np.float32)
    hubness = rng.uniform(0, 0.3, logits).astype(np.float32)
    model_of = rng.integers(0, models, logits).astype(np.int32)
    return bridge, labels_fit._Labels(vectors.__getitem__, model_of, placed, expected, hubness, None)


@pytest.mark.parametrize("models", [1, 5])
def test_a_label_is_asked_for_without_its_models_own(models):
    bridge, own = asked_among(np.random.default_rng(6), models)
    asked = np.flatnonzero(bridge.trust > 0)
    trial = labels_fit._Trial(bridge, own, asked)
    for label, row, near in zip(asked, trial._target, trial.lent(), strict=True):
        named = bridge.of_label(label)[0]
        assert row in named
        lends = own.model_of != own.model_of[row] if models > 1 else ~np.isin(np.arange(own.model_of.size), named)
        wanted = bridge.nearest(own.placed[label], own.vectors, lends)
        np.testing.assert_allclose(near.side, wanted.side, rtol=1e-5)
        assert near.labels == wanted.labels


@pytest.mark.parametrize("mapped", [False, True])
def test_width_and_share_are_those_that_rank_hidden_labels_best(monkeypatch, mapped):
    monkeypatch.setattr(labels_fit, "ENOUGH", 20)
    bridge, own = asked_among(np.random.default_rng(7), 6)
    if mapped:  # a map that knows each label's own answers
        truth = np.stack([strong(own.vectors(bridge.of_label(label)[0])).sum(axis=0) for label in range(40)])
        own = replace(own, leave_out=lambda asked: unit(truth[asked]).astype(np.float32))
    asked = np.random.default_rng(2).permutation(np.flatnonzero(bridge.trust > 0.1))
    trial = labels_fit._Trial(bridge, own, asked)
    near, tried = trial.lent(), {}
    for width in (0.05, 0.1, 0.2):
        for share in (0.0, 0.15, 0.3, 0.6) if mapped else (0.0,):
            tried[width, share] = (1 / (1 + trial.above(near, width, share))).mean()
    found = labels_fit._weighed(bridge, own)
    assert tried[found.width, found.share] >= max(tried.values()) - 1e-4
    assert (found.share > 0) == mapped
    monkeypatch.setattr(labels_fit, "ENOUGH", asked.size + 1)
    assert labels_fit._weighed(bridge, own) is bridge


def test_certainty_is_learned_from_what_is_found_with_nothing_its_model_half_and_itself_hidden(monkeypatch):
    """Sixty labels of one output each: which are hidden is no matter of chance, and all cases can be written out."""
    rng = np.random.default_rng(8)
    words, honest, every = 66, 60, 100
    model_of = np.arange(every, dtype=np.int32) // 6
    vectors = rng.standard_normal((every, PROBES)).astype(np.float32)
    vectors[70] = vectors[7] + 0.01  # answers like a label's own, in a model of which nothing is known
    model_of[99], vectors[99] = 0, vectors[8] + 0.01  # the same, but a model whose labels are believed has it
    hubness = rng.uniform(0, 0.2, every).astype(np.float32)
    trust = np.where(np.arange(words) < honest, rng.uniform(0.5, 1, words), 0.2).astype(np.float32)
    rows = np.arange(words)
    named = Named(rows, [f"w{i}" for i in rows], rows.astype(np.int32))
    believed = Trust(rows, rows.astype(np.int32), trust, np.empty(0), np.empty(0), words)
    placed = unit(rng.standard_normal((words, DIM)) + 0.7).astype(np.float32)
    expected = unit(rng.random((words, PROBES)) ** 3).astype(np.float32)
    nothing = np.empty((0, PROBES), np.float16)
    bridge = Bridge(
        np.zeros(DIM, np.float32), placed.astype(np.float16), trust, np.arange(words + 1), rows, trust, nothing
    )
    own = labels_fit._Labels(vectors.__getitem__, model_of, placed, expected, hubness, None)
    contrast = rng.standard_normal(words)
    learned = []
    monkeypatch.setattr(Certainty, "learn", lambda *cases: learned.append(cases))
    labels_fit._certainty(bridge, own, named, believed, contrast)
    signs, right, there, believes, setting = learned[0]

    draw = np.random.default_rng(5)
    draw.permutation(honest)
    asked = draw.permutation(honest)  # in which order they are asked
    draw.permutation(every - honest)
    models = int(model_of.max()) + 1
    lending = draw.permutation(models) < models // 2  # where half lend to the others
    wanted = []
    for hides in range(4):
        for label in asked:
            allowed = [None, model_of != model_of[label], lending[model_of], model_of != model_of[label]][hides]
            near = bridge.nearest(placed[label], own.vectors, allowed, int(label) if hides == 3 else None)
            text = unit(expected[label] + counting(near.trust(bridge.width)) * near.side)
            scores = strong(vectors) @ text - hubness
            stays = (model_of < honest // 6) & ~((hides == 2) & lending[model_of])
            left = sorted(np.flatnonzero(stays).tolist(), key=lambda row: -scores[row])[:FIRST]
            if hides < 3 and near.trust(bridge.width) < 0.5:
                continue  # its own model alone calls it so
            about = [
                (1.0, (scores[row] - scores.mean()) / scores.std(), (scores.max() - scores[row]) / scores.std(),
                 contrast[label], model_of[row] in model_of[left[:i]]) for i, row in enumerate(left)
            ]  # fmt: skip
            wanted.append((about, [row == label for row in left], near.trust(bridge.width), hides == 3, scores))
    count = len(wanted)
    assert (len(signs), there[:count].all()) == (3 * count, True)
    np.testing.assert_allclose(signs[:count], [case[0] for case in wanted], atol=2e-3)
    assert right[:count].tolist() == [case[1] for case in wanted]
    np.testing.assert_allclose(believes, [case[2] for case in wanted] * 3, rtol=1e-4)
    hidden = np.array([case[3] for case in wanted])
    np.testing.assert_array_equal(setting, np.concatenate([np.where(hidden, number, -1) for number in range(3)]))
    # filters leave some models, and change neither how far hits stand out nor who is right
    for number, kept in ((1, 0.3), (2, 0.1)):
        part = slice(number * count, (number + 1) * count)
        assert 0 < there[part].mean() < 1 or kept == 0.3
        assert right[part].mean() < right[:count].mean()
        for case, found, is_there in zip(wanted, signs[part], there[part], strict=True):
            scores = case[4]
            steps = (scores - scores.mean()) / scores.std()
            near = np.abs(found[is_there, 1][:, None] - steps).min(axis=1)
            assert (near < 2e-3).all()
            np.testing.assert_allclose(found[is_there, 1] + found[is_there, 2], steps.max(), atol=4e-3)


def test_of_many_namesakes_the_most_trusted_are_compared_and_the_best_of_them_kept():
    rng = np.random.default_rng(9)
    vectors = (rng.standard_normal(PROBES) + 1.5 * rng.standard_normal((50, PROBES))).astype(np.float32)
    label_of = (np.arange(50) % 6 == 0).astype(np.int32)  # 41 rows of one label, nine of the other
    trust = np.round(rng.uniform(0, 1, 50), 1).astype(np.float32)  # many are trusted alike: the lower row goes first
    believed = Trust(np.arange(50), label_of, trust, np.empty(0), np.empty(0), 50)
    for label, found in zip((1, 0), labels_fit._namesakes(vectors.__getitem__, believed, [1, 0]), strict=True):
        some = sorted(np.flatnonzero(label_of == label), key=lambda row: (-trust[row], row))[: 4 * 8]
        weight, alike = trust[some].astype(np.float64), strong(vectors[some]) @ strong(vectors[some]).T
        support = [
            np.average(np.delete(alike[i], i), weights=np.delete(weight + 0.1, i)) for i in range(len(some))
        ]  # fmt: skip
        wanted = np.minimum(np.sqrt((weight + 0.05) * support / np.max(support)), 1)
        best = sorted(range(len(some)), key=lambda i: (-wanted[i], some[i]))[:8]
        assert found[0].tolist() == [some[i] for i in best]
        np.testing.assert_allclose(found[1], wanted[best], rtol=1e-4)
