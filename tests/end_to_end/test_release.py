"""The demo index released, loaded, asked in SQL, pushed to the demo hub, imported from it: the same hits and scores."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from PIL import Image

from hubprobe.demo.server import serve_demo
from tests.release.conftest import questions_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REPO = "demo-lab/what-classifiers-recognise"
QUESTIONS = ("dog", "strawberry", "fire engine")


@pytest.fixture(scope="module")
def hub():
    with serve_demo() as server:
        yield server


@pytest.fixture(scope="module")
def pushed(demo, hub):
    """The demo index, released and pushed; the record that `--format json` gives."""
    command = ["release", "released", "--workspace", "demo-index", "--push", REPO, "--yes", "--endpoint", hub.url]
    done = demo.hubprobe(*command, "--quiet", "--format", "json", HF_HUB_DISABLE_XET="1", HF_TOKEN="hf_demo")
    assert done.returncode == 0, done.stderr[-4000:]
    yield json.loads(done.stdout)[0]
    shutil.rmtree(demo.cwd / "released")


ASK = f"""
import hubprobe, json
def hits(folder):
    index = hubprobe.open(folder)
    asked = [index.search(text, hybrid=hybrid) for text in {QUESTIONS} for hybrid in (False, True)]
    asked += [index.similar("emoji-zoo/animal-resnet", logit) for logit in (0, 7)]
    columns = ["repo_id", "sha", "logit", "label", "score", "distance"]
    return [query.limit(40).to_arrow().select(columns).to_pylist() for query in asked]
print(json.dumps([hits("demo-index"), hits("copy")]))
"""


def test_the_counts_are_those_of_the_demo(demo, pushed):
    status = demo.json("sql", "--workspace", "demo-index", "SELECT count(*) AS n FROM catalog")[0]["n"]
    assert pushed["left_out"] == {"disabled": 1, "gated": 1, "gone": 1, "malformed_row": 1}
    assert pushed["rows"]["models"] == pushed["rows"]["attempts"] == status - 4
    assert pushed["rows"]["logits"] == pushed["rows"]["descriptors"] == 1674
    assert pushed["rows"]["probes"] == 1256
    assert pushed["push"]["private"]


def test_every_configuration_loads_in_datasets(demo, pushed):
    code = """
import datasets, json
names = datasets.get_dataset_config_names("released")
loaded = {name: datasets.load_dataset("released", name, split="train") for name in names}
image = loaded["probes"][0]["image"]
vector = loaded["descriptors"].with_format("numpy")[0]["vector"]
about = {"rows": {n: d.num_rows for n, d in loaded.items()}, "size": image.size, "vector": vector.shape}
print(json.dumps({**about, "first": names[0], "licenses": sorted(set(loaded["models"]["license"]))}))
"""
    cache = str(demo.cwd.parent / "datasets-cache")
    done = demo.python("-c", code, HF_HUB_OFFLINE="1", HF_HOME=cache)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["rows"] == pushed["rows"]
    assert found["first"] == "models"
    assert found["vector"] == [1256]
    assert min(found["size"]) > 30
    assert "apache-2.0" in found["licenses"]


def test_duckdb_answers_every_question_of_the_card(demo, pushed, monkeypatch):
    monkeypatch.chdir(demo.cwd / "released")
    answers = {question: duckdb.sql(sql).fetchall() for question, sql in questions_of(Path()).items()}
    assert sum(row[2] for row in answers["How did the attempts end?"]) == pushed["rows"]["attempts"]
    empty = [question for question, rows in answers.items() if not rows]
    assert empty == ["Which outputs cannot be searched, and why?"]
    with Image.open("figures/funnel.png") as figure:
        assert min(figure.size) > 300
    for path in (demo.cwd / "released").rglob("*.parquet"):
        assert pq.ParquetFile(path).metadata.row_group(0).column(0).has_offset_index


def test_imported_from_the_hub_it_finds_the_same_with_the_same_scores(demo, hub, pushed):
    where = f"hf://datasets/{REPO}@{pushed['push']['commit']}"
    asked = (
        ["import", where, "-w", "copy", "--endpoint", hub.url, "--quiet"], ASK,
        ["search", "-w", "copy", "dog", "--evidence", "copy/dog.png"],
    )  # fmt: skip
    try:
        done = demo.together(*asked, HF_TOKEN="hf_demo")
        assert [one.returncode for one in done] == [0] * 3, [one.stderr[-4000:] for one in done]
        original, copied = json.loads(done[1].stdout)
        assert [len(hits) for hits in original] == [40] * 8
        assert copied == original
        assert (demo.cwd / "copy" / "dog.png").stat().st_size > 10_000
    finally:
        shutil.rmtree(demo.cwd / "copy", ignore_errors=True)
