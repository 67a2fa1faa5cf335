"""Pictures of an index: the numbers in them against what is true of a generated one."""

import json
import re
import shutil
from importlib import import_module

import numpy as np
import pytest

from hubprobe import plots
from hubprobe.plots.curve import held_out
from hubprobe.plots.logit_map import chosen_method, placed, safe
from hubprobe.plots.outputs import clustered, skewness, unused_names
from search.text import bank
from search.text.calibration import BANK, spread
from tests.search.conftest import make
from workspace import ConfigError, QueryError

EVIL = "<img src=x onerror=alert(1)></script><script>alert(2)</script> %{x} &amp; $a$"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """14 models of 10 logits over 240 probes; one whose labels are hostile."""
    made = make(tmp_path_factory.mktemp("plots") / "workspace", models=13, n=240)
    vectors = np.random.default_rng(1).standard_normal((10, 240))
    labels = [EVIL, "$\\frac{$", "馬", "a\x1b[31m", "\u202eevil", *"fghij"]
    rows = [
        {"repo_id": "evil/<b>model</b>", "logit": i, "label": label, "vector": (v - v.mean()) / v.std()}
        for i, (label, v) in enumerate(zip(labels, vectors, strict=True))
    ]
    made.write("zz", rows)
    import pyarrow as pa

    from workspace import records
    from workspace.files import write_table
    from workspace.runs import now

    about = {"sha": "f" * 40, "label_quality": "named", "crawled_at": now(), "eligibility": "eligible", "reason": ""}
    catalog = pa.Table.from_pylist([{"id": "evil/<b>model</b>", "downloads": 7, **about}], schema=records.CATALOG)
    write_table(made.workspace.catalog_dir / "zz.parquet", catalog)
    ended = {"repo_id": "evil/<b>model</b>", "sha": "f" * 40, "attempt": 1, "outcome": "ok", "status": "ok"}
    ended |= {"reason": "", "started_at": now(), "num_logits": 10, "probes_run": 240, "probe_set": "0123456789abcdef"}
    attempts = pa.Table.from_pylist([ended], schema=records.ATTEMPTS)
    write_table(made.workspace.attempts_dir / "zz.parquet", attempts)
    made.index()
    return made.open()


# ── hubness ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_hubness_counts_the_ten_best_hits(index, tmp_path):
    (row,) = plots.hubness(index, tmp_path / "h.png", scorings=["probelog"], queries=40, progress=False)
    counts: dict[tuple, int] = {}
    for name in unused_names(40):
        for hit in index.search(name, scoring="probelog").limit(10).to_dicts():
            key = hit["repo_id"], hit["logit"]
            counts[key] = counts.get(key, 0) + 1
    assert sum(counts.values()) == 400
    assert row["most"] == max(counts.values()) == counts[row["repo_id"], row["logit"]]
    assert row["never"] == pytest.approx(1 - len(counts) / len(index), abs=1e-4)
    assert row["expected"] == pytest.approx(400 / len(index), abs=1e-3)
    every = np.array([*counts.values(), *[0] * (len(index) - len(counts))])
    assert row["skewness"] == pytest.approx(((every - every.mean()) ** 3).mean() / every.std() ** 3, abs=1e-3)


def test_skewness_of_known_counts():
    assert skewness(np.array([3, 3, 3])) == 0
    assert skewness(np.array([0, 0, 0, 4])) == pytest.approx(2 / np.sqrt(3))


def test_no_name_is_asked_that_calibrated_the_index():
    asked = unused_names(512)
    assert len(set(asked)) == 512
    assert not set(asked) & set(spread(bank.names(), BANK))


def test_hubness_refuses_what_it_cannot_ask(index, tmp_path):
    with pytest.raises(QueryError, match="unknown scoring"):
        plots.hubness(index, tmp_path / "h.png", scorings=["best"], queries=3, progress=False)
    with pytest.raises(ConfigError, match="1 to 1024 queries, not 0"):
        plots.hubness(index, tmp_path / "h.png", queries=0, progress=False)


# ── heat map ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_clusters_lie_together():
    rng = np.random.default_rng(0)
    of = np.tile([0, 1, 2], 6)
    vectors = np.eye(3)[of] @ rng.standard_normal((3, 50)) + 0.3 * rng.standard_normal((18, 50))
    order = clustered(np.corrcoef(vectors))
    assert sorted(order.tolist()) == list(range(18))
    assert np.count_nonzero(np.diff(of[order])) == 2


def test_heatmap_finds_the_pair_that_is_most_alike(index, tmp_path):
    repo = "owner1/model-001"
    pairs = plots.heatmap(index, repo, tmp_path / "m.png", progress=False)
    vectors = np.stack([index.logit(repo, i).vector for i in range(10)])
    truth = np.corrcoef(vectors) - 2 * np.eye(10)
    best = np.unravel_index(truth.argmax(), truth.shape)
    assert {pairs[0]["logit"], pairs[0]["other"]} == set(best)
    assert pairs[0]["correlation"] == pytest.approx(truth.max(), abs=2e-3)
    few = plots.heatmap(index, repo, tmp_path / "m.png", limit=3, progress=False)
    assert few[0] == pairs[0]
    assert len(few) == 3


@pytest.mark.filterwarnings("error::UserWarning")
def test_heatmap_of_hostile_labels(index, tmp_path):
    pairs = plots.heatmap(index, "evil/<b>model</b>", tmp_path / "m.svg", progress=False)
    names = {pair["name"] for pair in pairs} | {pair["other_name"] for pair in pairs}
    assert any("$\\frac{$" in name for name in names)  # rows are data: as it is
    drawn = (tmp_path / "m.svg").read_text(encoding="utf-8")
    assert "\x1b" not in drawn
    assert "<img" not in drawn
    assert "evil/&lt;b>model" in drawn or "evil/&lt;b&gt;model" in drawn


def test_labels_that_say_nothing_get_a_suggestion(index, tmp_path):
    pairs = plots.heatmap(index, "owner0/model-000", tmp_path / "m.png", progress=False)
    assert all(re.fullmatch(r"LABEL_\d .+\?", pair["name"]) for pair in pairs)


def test_heatmap_says_what_is_wrong(index, tmp_path):
    with pytest.raises(QueryError, match="no/such is not in the index"):
        plots.heatmap(index, "no/such", tmp_path / "m.png")
    with pytest.raises(ConfigError, match="from 3 to 120"):
        plots.heatmap(index, "owner0/model-000", tmp_path / "m.png", limit=500)


# ── map ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_pca_keeps_groups_apart_and_the_same_way_round():
    rng = np.random.default_rng(0)
    of = np.repeat([0, 1], 20)
    vectors = (4 * rng.standard_normal((2, 60))[of] + rng.standard_normal((40, 60))).astype(np.float32)
    points, about = placed(vectors, "pca", 0)
    middle = np.stack([points[of == i].mean(axis=0) for i in (0, 1)])
    spread = max(points[of == i].std(axis=0).max() for i in (0, 1))
    assert np.linalg.norm(middle[0] - middle[1]) > 4 * spread
    assert re.match(r"two principal components, \d+% of the variance", about)
    np.testing.assert_allclose(placed(np.ascontiguousarray(vectors[::-1]), "pca", 0)[0][::-1], points, atol=1e-6)


def test_a_map_has_every_logit_once(index, tmp_path):
    rows = plots.logit_map(index, tmp_path / "m.png", method="pca", colour="model", progress=False)
    assert sum(row["logits"] for row in rows) == len(index)
    assert rows[-1]["colour"] == "others"
    some = plots.logit_map(index, tmp_path / "m.png", method="pca", where="downloads < 250", progress=False)
    assert sum(row["logits"] for row in some) == 40  # downloads 0, 100, 200, and the hostile one's 7


def test_a_sample_is_the_same_again_and_says_so(index, tmp_path):
    paths = [tmp_path / "a.svg", tmp_path / "b.svg"]
    for path in paths:
        rows = plots.logit_map(index, path, method="pca", limit=50, progress=False)
        assert sum(row["logits"] for row in rows) == 50
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert f"50 of {len(index)} logits (seed 0)" in paths[0].read_text(encoding="utf-8")


def test_of_many_points_some_are_named_and_the_others_like_the_nearest(index, monkeypatch):
    logit_map = import_module("hubprobe.plots.logit_map")

    rows = np.arange(len(index))
    vectors = index.gallery.vectors(rows)
    each = logit_map.suggested(index, rows, progress=False)
    assert logit_map.suggested_nearby(index, rows, vectors, progress=False) == (each, 0)
    monkeypatch.setattr(logit_map, "NAMED", 40)
    monkeypatch.setattr(logit_map, "COMPARISONS", 0)
    some, count = logit_map.suggested_nearby(index, rows, vectors, progress=False)
    assert count == 40
    chosen = np.unique(np.linspace(0, rows.size - 1, 40).astype(np.int64)).tolist()
    assert [some[i][0] for i in chosen] == [each[i][0] for i in chosen]
    assert [some[i][1] for i in chosen] == pytest.approx([each[i][1] for i in chosen], abs=1e-5)  # another product
    alike = np.corrcoef(vectors)
    for i in set(rows.tolist()) - set(chosen):
        nearest = max(chosen, key=lambda other, i=i: alike[i, other])
        assert some[i][0] == each[nearest][0]
        assert some[i][1] == pytest.approx(each[nearest][1] * max(alike[i, nearest], 0.0), abs=1e-5)


def test_names_do_not_depend_on_how_many_labels_are_compared_at_once(index, monkeypatch):
    from search import naming
    from search.text import contrast

    rows = np.arange(len(index))
    whole = naming.Namer(index.gallery, index.texts, progress=False).names(rows)
    monkeypatch.setattr(naming, "blocks", lambda vectors, of, _size=0: contrast.blocks(vectors, of, 7))
    parts = naming.Namer(index.gallery, index.texts, progress=False).names(rows)
    for a, b in zip(whole, parts, strict=True):
        assert [(n.name, n.source) for n in a] == [(n.name, n.source) for n in b]
        # the bank's share of a name may come or go: its eighth name and the ninth can differ by a rounding
        np.testing.assert_allclose([n.confidence for n in a], [n.confidence for n in b], atol=1e-3)


def test_map_says_what_is_wrong(index, tmp_path, monkeypatch):
    with pytest.raises(QueryError, match="loosen the filter"):
        plots.logit_map(index, tmp_path / "m.png", method="pca", where="downloads > 1000000", progress=False)
    monkeypatch.setattr(import_module("hubprobe.plots.logit_map"), "find_spec", lambda name: None)
    assert chosen_method("auto") == "pca"
    with pytest.raises(ConfigError, match="pip install umap-learn"):
        plots.logit_map(index, tmp_path / "m.png", method="umap")
    with pytest.raises(ConfigError, match=r"pip install 'hubprobe\[plots\]'"):
        plots.logit_map(index, tmp_path / "m.html", method="pca", progress=False)


def test_text_for_plotly_has_no_markup():
    assert safe(EVIL, 200) == (
        "&lt;img src=x onerror=alert(1)&gt;&lt;/script&gt;&lt;script&gt;alert(2)&lt;/script&gt; %{x} &amp;amp; $a$"
    )
    assert "\x1b" not in safe("\x1b[31m\u202e")


@pytest.fixture(scope="module")
def page(index, tmp_path_factory):
    pytest.importorskip("plotly")
    path = tmp_path_factory.mktemp("html") / "map.html"
    plots.logit_map(index, path, method="pca", colour="model", progress=False)
    return path


def test_html_holds_no_stranger_s_markup_and_loads_nothing(index, page, tmp_path):
    text = page.read_text(encoding="utf-8")
    drawn = text[text.rindex("Plotly.newPlot") :]
    assert "onerror" in drawn
    assert "<img" not in drawn
    assert drawn.count("</script>") == 1
    traces = json.JSONDecoder().raw_decode(drawn[drawn.index("[") :])[0]
    shown = [part for trace in traces for point in trace["customdata"] for part in point] + [t["name"] for t in traces]
    assert not [part for part in shown if "<" in part or ">" in part]
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", text)
    plots.logit_map(index, tmp_path / "again.html", method="pca", colour="model", progress=False)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
def test_a_browser_shows_a_hostile_label_as_text_and_asks_nobody(page):
    api = pytest.importorskip("playwright.sync_api")
    quiet = ("gpu", "quic", "background-networking", "component-update", "sync")
    arguments = ["--no-sandbox", "--no-first-run", *(f"--disable-{what}" for what in quiet)]
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        tab = browser.new_page(viewport={"width": 900, "height": 600})
        asked, said = [], []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("dialog", lambda dialog: (said.append(dialog.message), dialog.dismiss()))
        tab.goto(page.as_uri())
        tab.wait_for_selector("#logit-map .legend")
        hovered = tab.evaluate(
            """async () => {
              const map = document.getElementById('logit-map');
              const curve = map.data.findIndex(t => t.customdata.some(d => d[1].includes('onerror')));
              const point = map.data[curve].customdata.findIndex(d => d[1].includes('onerror'));
              Plotly.Fx.hover(map, [{curveNumber: curve, pointNumber: point}]);
              await new Promise(done => setTimeout(done, 300));
              const label = map.querySelector('.hoverlayer');
              return [label.textContent, map.querySelectorAll('img, foreignObject, a[href]').length];
            }"""
        )
        browser.close()
    assert "<img src=x onerror=alert(1)>" in hovered[0]
    assert "evil/<b>model</b>" in hovered[0]
    assert hovered[1] == 0
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


# ── curve ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_more_probes_the_more_hits_stay(index, tmp_path):
    rows = plots.curve(index, tmp_path / "c.png", shares=(0.15, 0.5, 0.95), progress=False)
    assert [row["probes"] for row in rows] == [36, 120, 228]
    for name in ("similar", "similar_observed", "text", "text_observed"):
        kept = [row[name] for row in rows]
        assert kept == sorted(kept)
        assert 0 < kept[0] < kept[-1] <= 1
    assert rows[-1]["similar"] > 0.85
    assert rows[0]["similar"] > rows[0]["similar_observed"]  # structure that other models share is worth something
    assert held_out(index, [0.5], progress=False)[1]["measured"] == 4
    again = plots.curve(index, tmp_path / "c.png", shares=(0.15, 0.5, 0.95), progress=False)
    assert again == rows


def test_curve_says_what_is_wrong(index, tmp_path):
    for share in (0.01, 0.999):
        with pytest.raises(ConfigError, match="at least 32 of the 240 probes"):
            plots.curve(index, tmp_path / "c.png", shares=(share,), progress=False)


def test_curve_needs_models(tmp_path):
    made = make(tmp_path / "w", models=5, n=120)
    made.index()
    with pytest.raises(QueryError, match="5 models were run on all probes: at least 6"):
        plots.curve(made.open(), tmp_path / "c.png", shares=(0.5,), progress=False)
