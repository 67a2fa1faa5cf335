"""The scan over codes: bounds that hold, answers that equal the definition, whatever the data."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.scan.device import TorchScanner
from search.scan.nearest import Finder
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
