"""From the wheel: the best model for a folder of images, killed on the way and called again."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hubprobe.demo.server import serve_demo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CONCEPTS = ("tiger", "car", "airplane")
MODELS = "tiny-vision-lab/resnet-mini-everyday,emoji-zoo/animal-resnet,harbour-labs/travel-signs"


@pytest.fixture(scope="module")
def photos(tmp_path_factory, installed):
    """Images in a folder for each class, one that is broken, and one of something else."""
    folder = tmp_path_factory.mktemp("photos")
    counts: Counter[str] = Counter()
    for row in pq.read_table(installed.site / "hubprobe" / "demo" / "probes.parquet").to_pylist():
        name = row["caption"]
        if name in (*CONCEPTS, "pizza") and counts[name] < (7 if name in CONCEPTS else 1):
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{counts[name]}.png").write_bytes(row["image"]["bytes"])
            counts[name] += 1
    (folder / "car" / "broken.png").write_bytes(b"no image")
    return folder


def test_a_model_is_picked_and_the_same_command_runs_nothing_again(demo, photos):
    with serve_demo() as hub:
        asked = ["pick", *CONCEPTS, "--images", str(photos), "--models", MODELS, "--workspace", "demo-index"]
        asked += ["--endpoint", hub.url, "--format", "json"]
        count = "import pyarrow.parquet as pq; from pathlib import Path; "
        count += "print(sum(pq.read_metadata(p).num_rows for p in Path('demo-index').glob('picks/*/work/attempts/*')))"
        done, attempts, again, later = demo.together(asked, count, asked, count)
        assert done.returncode == 0, done.stderr
        rows = json.loads(done.stdout)
        assert [row["rank"] for row in rows] == [1, 2, 3]
        assert {row["repo_id"] for row in rows} == set(MODELS.split(","))
        assert all(row["basis"] == "labels" and row["images"] == 22 for row in rows)
        best = rows[0]
        assert best["accuracy"] > 0.6  # three concepts: a third is chance
        assert best["low"] <= best["accuracy"] <= best["high"]
        assert set(best["per_concept"]) == set(CONCEPTS)
        assert all(best["outputs"][concept] for concept in CONCEPTS)
        assert "broken.png" in done.stderr
        assert "1 of 22 images" in done.stderr  # the pizza counts for nothing
        folder = next((demo.cwd / "demo-index" / "picks").iterdir())
        # by hand: the share of its answers, as they were kept, that are the names of the folders
        images = pq.read_table(folder / "images.parquet").to_pylist()
        told = {(row["source"], repo): answer for row in images for repo, answer in row["answers"]}
        labelled = [row for row in images if Path(row["source"]).parent.name in CONCEPTS]
        right = sum(told[row["source"], best["repo_id"]] == Path(row["source"]).parent.name for row in labelled)
        assert best["accuracy"] == pytest.approx(right / len(labelled), abs=1e-4)
        assert json.loads(again.stdout) == rows
        assert int(attempts.stdout) == int(later.stdout) == len(rows)
    assert not list((folder / "work" / "cache" / "models").glob("*/*"))


def test_what_makes_no_task_is_a_sentence(demo, photos, tmp_path):
    alone = demo.hubprobe("pick", "tiger", "--images", str(photos / "tiger"), "--workspace", "demo-index")
    assert alone.returncode == 1
    assert "two concepts" in alone.stderr
    unknown = demo.hubprobe(
        "pick", *CONCEPTS, "--images", str(photos), "--models", "no/such", "--workspace", "demo-index"
    )
    assert unknown.returncode == 1
    assert "no/such" in unknown.stderr
    assert "Traceback" not in alone.stderr + unknown.stderr
