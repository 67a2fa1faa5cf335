"""The scan over codes: bounds that hold, answers that equal the definition, whatever the data."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.scan import scan
from search.scan.device import TorchScanner
from search.scan.nearest import Finder, Trace
from search.scan.scan import CpuScanner
from search.scan.scoring import Comparison
from search.store import tiles
from search.store.tiles import Tile, write_tile
from workspace import WorkspaceError


class Bare(Finder):
    """A gallery of vectors alone: what finding needs of it."""

    def __init__(self, folder, vectors, tile_rows):
        parts = [vectors[i : i + tile_rows] for i in range(0, len(vectors), tile_rows)]
        infos = [write_tile(folder, f"{i:06d}", part) for i, part in enumerate(parts)]
        self.tiles = [Tile(folder, info, vectors.shape[1]) for info in infos]
        self.starts = np.concatenate([[0], np.cumsum([len(p) for p in parts])]).astype(np.int64)
        self.scanner = CpuScanner(self.tiles, self.starts)

    def keys(self, rows):
        return [("model", "sha", int(row)) for row in rows]

    def raw_moments(self, rows):
        pytest.fail("no query of these tests compares raw responses")

    def peaks(self):
        squares = np.concatenate([np.maximum(tile.exact.view(np.float16).astype(np.float64), 0) for tile in self.tiles])
        return np.linalg.norm(squares**2, axis=1).astype(np.float32)


def expected(vectors, comparison, limit, mask=None):
    g = vectors[:, comparison.columns].astype(np.float64)
    squares = (comparison.targets.astype(np.float64) - g) ** 2 if not comparison.positive else np.maximum(g, 0) ** 2
    distance = (squares * comparison.weights.astype(np.float64)).sum(1)
    if comparison.scale.size:
        distance = distance * comparison.scale.astype(np.float64) + comparison.shift.astype(np.float64)
    rows = np.flatnonzero(mask) if mask is not None else np.arange(len(vectors))
    return [r for _, r in sorted((distance[r], r) for r in rows)][:limit], distance


def compare(vector, columns, weights=None, **calibration):
    columns = np.sort(np.asarray(columns, np.int32))
    weights = np.full(len(columns), 1 / len(columns), np.float32) if weights is None else weights
    return Comparison(columns, vector[columns].astype(np.float32), weights, **calibration)


def data(rows, n, seed, tail=0.0):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((8, n))
    vectors = base[rng.integers(0, 8, rows)] + rng.standard_normal((rows, n)) * rng.choice([0.01, 0.3, 1.0], (rows, 1))
    hit = rng.random((rows, n)) < tail
    vectors[hit] = rng.choice([-30, 20, 63], hit.sum())
    return vectors.astype(np.float16)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 6000), k=st.integers(1, 40), limit=st.integers(1, 50), seed=st.integers(0, 10**6),
    tail=st.sampled_from([0.0, 0.02, 0.5]), masked=st.booleans(), weighted=st.booleans(),
    kind=st.sampled_from(["plain", "calibrated", "positive"]),
)  # fmt: skip
def test_the_scan_is_exact(tmp_path_factory, rows, k, limit, seed, tail, masked, weighted, kind):
    vectors = data(rows, 40, seed, tail)
    rng = np.random.default_rng(seed)
    mask = rng.random(rows) < 0.7 if masked else None
    weights = rng.dirichlet(np.ones(k)).astype(np.float32) if weighted else None
    extra = {}
    if kind == "positive":
        extra = {"positive": True, "scale": -rng.uniform(0.01, 2, rows).astype(np.float32)}
        extra["shift"] = np.ones(rows, np.float32)
    elif kind == "calibrated":
        extra["scale"] = rng.uniform(0.5, 2, rows).astype(np.float32)
        extra["shift"] = rng.normal(0, 0.3, rows).astype(np.float32)
    comparison = compare(
        vectors[rng.integers(rows)].astype(np.float32), rng.choice(40, k, replace=False), weights, **extra
    )
    gallery = Bare(tmp_path_factory.mktemp("bare"), vectors, 3000)
    found, distances = gallery.nearest(comparison, limit, mask)
    truth, exact = expected(vectors, comparison, limit, mask)
    np.testing.assert_allclose(distances, exact[truth], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(distances, exact[found], rtol=1e-9, atol=1e-12)
    # every bound is below the distance it bounds, and whoever is not listed is at least as far as the floor
    (all_bounds,) = gallery.scanner.scan([comparison], [mask], 0, [np.inf])
    assert (all_bounds.bounds <= exact[all_bounds.rows] + 1e-12).all()
    assert len(all_bounds.rows) == (rows if mask is None else mask.sum())
    (some,) = gallery.scanner.scan([comparison], [mask], 10, [np.inf])
    left = np.setdiff1d(all_bounds.rows, some.rows)
    assert (exact[left] >= some.floor - 1e-12).all()


@pytest.mark.parametrize("spread", [0.004, 0.3, 1.0])
@pytest.mark.parametrize("calibration", ["norms", "any"])
def test_columns_of_little_weight_are_left_out_of_the_first_scan_only(tmp_path, monkeypatch, spread, calibration):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 300))[rng.integers(0, 5, 9_000)] + rng.standard_normal((9_000, 300)) * spread
    vectors[rng.random(vectors.shape) < 0.001] = 30
    gallery = Bare(tmp_path, vectors.astype(np.float16), 4_000)
    norms = {"scale": -1 / gallery.peaks(), "shift": rng.normal(1, 0.02, 9_000).astype(np.float32)}
    other = {"scale": -rng.uniform(0.01, 2, 9_000).astype(np.float32), "shift": np.ones(9_000, np.float32)}
    extra = {"positive": True, **(norms if calibration == "norms" else other)}
    scanned = []
    scan = gallery.scanner.scan
    monkeypatch.setattr(gallery.scanner, "scan", lambda c, *rest: scanned.append(len(c[0].columns)) or scan(c, *rest))
    for power in (1, 3, 6):
        weights = (rng.random(250) ** power).astype(np.float32)
        comparison = compare(vectors[power], rng.choice(300, 250, replace=False), weights, **extra)
        found, distances = gallery.nearest(comparison, 10, None)
        truth, exact = expected(vectors.astype(np.float16), comparison, 10)
        np.testing.assert_allclose(distances, exact[truth], rtol=1e-9, atol=1e-12)
        assert found.tolist() == truth
        short, rest = gallery._shortened(comparison)
        (bounds,) = scan([short], [None], 0, [np.inf])
        assert (bounds.bounds - rest <= exact[bounds.rows] + 1e-12).all()
    assert min(scanned) < 200


def test_near_copies_by_the_thousand_do_not_fool_it(tmp_path):
    """More rows within the codes' error of each other than candidates are kept: the second scan has to find them."""
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal(50) + rng.standard_normal((20_000, 50)) * 0.004).astype(np.float16)
    comparison = compare(vectors[77].astype(np.float32), range(50))
    gallery = Bare(tmp_path, vectors, 7000)
    found, _ = gallery.nearest(comparison, 10, None)
    assert found.tolist() == expected(vectors, comparison, 10)[0]


def test_a_batch_answers_as_one_by_one(tmp_path):
    vectors = data(12_000, 60, 1, 0.001)
    gallery = Bare(tmp_path, vectors, 5000)
    comparisons = [compare(vectors[i].astype(np.float32), range(i % 7, 60, 3)) for i in range(0, 3200, 100)]
    masks = [None if i % 3 else np.arange(12_000) % 5 > i % 5 for i in range(len(comparisons))]
    together = gallery.nearest_many(comparisons, 10, masks)
    for (rows, distances), comparison, mask in zip(together, comparisons, masks, strict=True):
        alone = gallery.nearest(comparison, 10, mask)
        assert rows.tolist() == alone[0].tolist()
        assert distances.tolist() == alone[1].tolist()


def test_codes_are_within_their_error_or_kept(tmp_path):
    values = np.array([-65504, -4.06, -4.03, -4, 0, 0.03, 11.9375, 11.96, 11.98, 63, 65504], np.float16)
    quantised, overflow = tiles.encode(values.reshape(-1, 1))
    offsets, rows, kept = tiles.read_overflow(overflow, 1)
    back = quantised[0] * tiles.STEP + tiles.LOW
    back[rows] = kept.view(np.float16)
    assert (np.abs(back - values.astype(np.float64)) <= tiles.STEP / 2).all()
    assert 0 < offsets[1] < len(values)


@pytest.mark.parametrize("suffix", [".u8", ".f16", ".over"])
def test_a_truncated_tile_is_refused(tmp_path, suffix):
    info = write_tile(tmp_path, "000000", data(100, 30, 0, 0.05))
    path = tmp_path / f"000000{suffix}"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(WorkspaceError, match="damaged"):
        Tile(tmp_path, info, 30)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_torch_finds_what_numba_finds(tmp_path, device):
    vectors = data(9_000, 200, 3, 0.01)
    gallery = Bare(tmp_path, vectors, 4000)
    plain = compare(vectors[5].astype(np.float32), range(0, 200, 2))
    rng = np.random.default_rng(0)
    moved = {"scale": rng.uniform(0.5, 2, 9000).astype(np.float32), "shift": rng.normal(0, 1, 9000).astype(np.float32)}
    strong = {"positive": True, "scale": -moved["scale"], "shift": moved["shift"]}
    queries = [plain, *(compare(vectors[77].astype(np.float32), range(150), **extra) for extra in (moved, strong))]
    masks = [None, np.arange(9000) % 3 > 0, None]
    numba_found = gallery.nearest_many(queries, 20, masks)
    gallery.scanner = TorchScanner(gallery.tiles, gallery.starts, device)
    for (rows, distances), (same, equal) in zip(numba_found, gallery.nearest_many(queries, 20, masks), strict=True):
        assert rows.tolist() == same.tolist()
        assert distances.tolist() == equal.tolist()
    exact = expected(vectors, queries[0], 1)[1]
    (bounds,) = gallery.scanner.scan([plain], [None], 0, [np.inf])
    assert len(bounds.rows) == 9000
    assert (bounds.bounds <= exact[bounds.rows]).all()


@pytest.mark.parametrize("kind", ["plain", "calibrated", "positive"])
@pytest.mark.parametrize("masked", [False, True])
def test_a_scan_keeps_the_lowest_bounds_up_to_its_ceiling(tmp_path, kind, masked):
    vectors = data(7_000, 40, 11, 0.02)
    vectors[100:160] = vectors[99]  # bounds that are equal
    rng = np.random.default_rng(11)
    extra = {
        "scale": rng.uniform(0.5, 2, 7_000).astype(np.float32),
        "shift": rng.normal(0, 1, 7_000).astype(np.float32),
    }
    extra = {} if kind == "plain" else extra
    if kind == "positive":
        extra |= {"positive": True, "scale": -extra["scale"]}
    comparison = compare(vectors[99].astype(np.float32), range(1, 38), **extra)
    mask = rng.random(7_000) < 0.4 if masked else None
    scanner = Bare(tmp_path, vectors, 3_000).scanner
    (every,) = scanner.scan([comparison], [mask], 0, [np.inf])
    bounds = dict(zip(every.rows.tolist(), every.bounds.tolist(), strict=True))
    assert sorted(bounds) == (list(range(7_000)) if mask is None else np.flatnonzero(mask).tolist())
    assert every.floor == np.inf
    assert every.bounds.tolist() == sorted(every.bounds)
    for keep in (1, 30, 128, 2_000, 6_999):
        (some,) = scanner.scan([comparison], [mask], keep, [np.inf])
        assert some.bounds.tolist() == every.bounds[:keep].tolist()
        assert all(bounds[row] == bound for row, bound in zip(some.rows.tolist(), some.bounds.tolist(), strict=True))
        # nothing that is left out lies below the floor, and that is as high as what is kept
        kept = min(keep, len(bounds))
        assert every.bounds[kept - 1] <= some.floor <= (every.bounds[kept] if kept < len(bounds) else np.inf)
    for ceiling in (every.bounds[0], every.bounds[700], every.bounds[-1], every.bounds[0] - 1):
        (below,) = scanner.scan([comparison], [mask], 0, [ceiling])
        assert below.bounds.tolist() == every.bounds[every.bounds <= ceiling].tolist()
        (few,) = scanner.scan([comparison], [mask], 20, [ceiling])
        assert few.bounds.tolist() == every.bounds[every.bounds < ceiling][:20].tolist()


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 129])
@pytest.mark.parametrize("columns", [1, 64, 66])
def test_a_tile_holds_the_code_of_every_entry_and_what_has_none(tmp_path, rows, columns):
    vectors = data(rows, columns, rows, 0.05)
    tile = Tile(tmp_path, write_tile(tmp_path, "000000", vectors), columns)
    value = vectors.astype(np.float64)
    # codes reach from LOW in 255 steps; what lies beyond, by more than half a step, is kept as it is
    nearest = np.clip(np.round((value - tiles.LOW) / tiles.STEP), 0, 255)
    near = np.abs(nearest * tiles.STEP + tiles.LOW - value) <= tiles.STEP / 2
    assert (np.abs(tile.codes.T * tiles.STEP + tiles.LOW - value)[near] <= tiles.STEP / 2).all()
    offsets, kept_rows, kept = tile.overflow
    found = [
        (column, int(row), float(bits))
        for column in range(columns)
        for row, bits in zip(
            kept_rows[offsets[column] : offsets[column + 1]],
            kept[offsets[column] : offsets[column + 1]].view(np.float16),
            strict=True,
        )
    ]
    assert found == [(int(c), int(r), float(vectors[r, c])) for c, r in np.argwhere(~near.T)]


@pytest.mark.parametrize("sizes", [[1], [8_192], [8_193, 5], [100_000, 1, 70_000], [3] * 5])
@pytest.mark.parametrize("threads", [1, 3, 16])
def test_every_row_is_scanned_once(monkeypatch, sizes, threads):
    monkeypatch.setattr(scan, "threads", lambda: threads)
    units = scan._units([SimpleNamespace(rows=rows) for rows in sizes])
    covered = [(number, row) for number, start, stop in units for row in (start, stop - 1)]
    assert covered == sorted(covered)
    for number, rows in enumerate(sizes):
        own = [(start, stop) for one, start, stop in units if one == number]
        assert [start for start, _ in own] == [0, *(stop for _, stop in own[:-1])]
        assert own[-1][1] == rows
        assert all(start < stop and (start % scan.BLOCK, stop - start <= 1 << 16) == (0, True) for start, stop in own)
    assert len(units) >= min(threads, sum(rows // scan.BLOCK for rows in sizes))


def test_groups_are_ranked_by_their_nearest_row_whatever_is_allowed(tmp_path):
    vectors = data(9_000, 30, 4)
    gallery, rng = Bare(tmp_path, vectors, 4_000), np.random.default_rng(4)
    comparison = compare(vectors[5].astype(np.float32), range(30))
    for groups, limit in ((3, 2), (3, 5), (400, 10), (9_000, 7)):
        group_of = rng.integers(0, groups, 9_000).astype(np.int32)
        group_of[np.argsort(expected(vectors, comparison, 1)[1])[:3_000]] %= max(groups // 100, 1)  # one has many near
        for mask in (None, rng.random(9_000) < 0.5):
            order, exact = expected(vectors, comparison, 9_000, mask)
            first = {}
            for row in order:
                first.setdefault(group_of[row], row)
            wanted = list(first.values())[:limit]
            rows, distances = gallery.nearest_of(comparison, limit, mask, group_of)
            assert rows.tolist() == wanted
            np.testing.assert_allclose(distances, exact[wanted], rtol=1e-9)


def test_a_trace_says_what_was_read(tmp_path):
    vectors = data(9_000, 30, 6)
    gallery, trace = Bare(tmp_path, vectors, 4_000), Trace()
    comparison = compare(vectors[5].astype(np.float32), range(12))
    few = np.arange(9_000) < 2_048
    gallery.nearest(comparison, 10, few, trace=trace)
    gallery.nearest(comparison, 10, None, exact=True, trace=trace)
    gallery.nearest(comparison, 10, np.arange(9_000) < 2_049, trace=trace)
    names = [step.name for step in trace.steps]
    assert names == ["read", "read", "scan", "re-rank"]
    *sizes, read = [step.bytes for step in trace.steps]
    assert sizes == [2 * 2_048 * 12, 2 * 9_000 * 12, 9_000 * 12]
    assert read % (2 * 12) == 0
    assert 20 <= read / (2 * 12) <= 128
    assert trace.ms == pytest.approx(sum(step.ms for step in trace.steps))
    assert [line.split()[0] for line in str(trace).splitlines()] == ["step", *names, "total"]
    assert str(trace).splitlines()[-1].split()[2] == f"{sum((*sizes, read)) / 1e6:.2f}"
    started = time.perf_counter()
    with trace.step("slow"):
        time.sleep(0.002)
    assert 2.0 <= trace.steps[-1].ms <= (time.perf_counter() - started) * 1e3
    silent = Trace(enabled=False)
    with silent.step("nothing"):
        pass
    assert silent.steps == []
