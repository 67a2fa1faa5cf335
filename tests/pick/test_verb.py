"""`pick` as a demanding user meets it: on a finished demo's index, with the demo hub's small models."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from hubprobe.demo.server import serve_demo
from hubprobe.pick import pick, verb
from hubprobe.pick.images import FOREIGN
from tests.once import once
from workspace import QueryError, Workspace

pytestmark = pytest.mark.slow

CONCEPTS = ("tiger", "car", "airplane")
MODELS = ("tiny-vision-lab/resnet-mini-everyday", "emoji-zoo/animal-resnet", "harbour-labs/travel-signs")
EACH = 6


@pytest.fixture(scope="module")
def hub():
    with serve_demo(with_unhealthy=False, with_lite0=False) as server:
        yield server


@pytest.fixture(scope="module")
def place(request, tmp_path_factory, hub):
    """A copy of a finished demo's workspace, at the hub that is served, and drawings by class."""
    given = os.environ.get("HUBPROBE_DEMO_INDEX")
    source = Path(given) if given else request.getfixturevalue("ran") / "demo-index"

    def make(folder: Path) -> None:
        shutil.copytree(source, folder / "index")
        counts: Counter[str] = Counter()
        for row in pq.read_table(Path(verb.__file__).parents[1] / "demo" / "probes.parquet").to_pylist():
            name = row["caption"]
            if name in (*CONCEPTS, "pizza") and counts[name] < (EACH if name in CONCEPTS else 2):
                counts[name] += 1
                (folder / "images" / name).mkdir(parents=True, exist_ok=True)
                (folder / "images" / name / f"{counts[name]}.png").write_bytes(row["image"]["bytes"])

    return once(tmp_path_factory, "pick", make)


@pytest.fixture
def picking(place, hub, tmp_path):
    """Return a pick in a workspace that shares the demo's tables and keeps its own picks."""
    workspace = Workspace.open(place / "index")
    workspace = Workspace(workspace.root, replace(workspace.config, endpoint=hub.url))

    def picked(images=place / "images", concepts=CONCEPTS, **options):
        options = {"models": MODELS, "isolate": False, "progress": False, "name": tmp_path.name} | options
        return pick(workspace, images, concepts, **options)

    yield picked
    for made in (workspace.root / "picks").glob(f"{tmp_path.name}*"):
        shutil.rmtree(made)


def flat(place, folder, names=CONCEPTS):
    """Copy images into one folder, so that nothing says what they show."""
    folder.mkdir()
    for name in names:
        for path in (place / "images" / name).iterdir():
            shutil.copy(path, folder / f"{name}-{path.name}")
    return folder


def test_labels_rank_models_and_images_of_something_else_do_not_count(picking):
    found = picking()
    assert {row["basis"] for row in found.models} == {"labels"}
    assert found.models[0]["accuracy"] > 1 / 3
    accuracies = [row["accuracy"] for row in found.models]
    assert accuracies == sorted(accuracies, reverse=True)
    assert (found.images, found.labelled) == (3 * EACH + 2, 3 * EACH)
    assert "2 of 20 images are labelled as none of the concepts" in " ".join(found.notes)


def test_one_candidate_is_the_best(picking):
    found = picking(models=MODELS[:1])
    assert [row["repo_id"] for row in found.models] == [MODELS[0]]
    assert found.sure == 1.0


def test_candidates_by_search_keep_to_filters_and_to_two_of_a_family(picking):
    found = picking(models=(), candidates=6, where="license = 'apache-2.0'")
    tried = [*found.models, *found.failed]
    assert 2 <= len(tried) <= 6
    assert {row["license"] for row in found.models} == {"apache-2.0"}
    assert max(Counter(row["family"] for row in found.models).values()) <= 2
    with pytest.raises(QueryError, match="loosen --where"):
        picking(models=(), where="license = 'none-such'")


def test_identical_candidates_are_said_to_be_alike(picking, monkeypatch):
    whole = verb._read

    def copied(task, found):
        one, two = whole(task, found)
        same = replace(two.candidate, logits=one.candidate.logits, evidence=one.candidate.evidence)
        return [one, verb._Ran(same, one.raw, one.done)]

    monkeypatch.setattr(verb, "_read", copied)
    found = picking(models=MODELS[:2])
    assert "any of them will do" in " ".join(found.notes)
    assert found.models[0]["accuracy"] == found.models[1]["accuracy"]


def test_a_concept_that_nobody_has_is_said(picking):
    found = picking(concepts=("tiger", "quasar spectrum"))
    assert any(note.startswith("quasar spectrum: probably not covered") for note in found.notes)


def test_images_without_any_class_are_a_sentence(picking, place, tmp_path):
    images = flat(place, tmp_path / "flat", ["pizza"])
    labels = tmp_path / "labels.csv"
    with labels.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *((p.name, "pizza") for p in images.iterdir())])
    with pytest.raises(QueryError, match="none of the 2 images shows"):
        picking(images=images, labels=labels)
    found = picking(images=images)  # nobody says so: estimated, and said to be
    assert {row["basis"] for row in found.models} == {"estimated"}
    assert "estimated from what the models say together" in " ".join(found.notes)


def test_labels_are_asked_for_where_models_disagree_until_one_is_sure(picking, place, tmp_path):
    images = flat(place, tmp_path / "flat")
    asked: list[str] = []

    def ask(source, encoded, concepts):
        asked.append(source)
        assert encoded[:4] == b"RIFF"  # WebP, as the file is
        return concepts.index(source.partition("-")[0])

    found = picking(images=images, budget=12, ask=ask)
    assert 0 < found.asked == len(asked) == len(set(asked)) <= 12
    assert found.asked == 12 or found.sure >= verb.SURE
    again = picking(images=images, budget=12, ask=ask)  # what was answered is kept
    assert not set(asked[: found.asked]) & set(asked[found.asked :])
    assert again.labelled == len(asked)
    stopped = picking(images=images, budget=50, ask=lambda *_: None)
    assert stopped.asked == 0
    nothing = picking(images=images, budget=2, ask=lambda *_: FOREIGN, name=tmp_path.name + "-2")
    assert "none of the 2 images you were asked about" in " ".join(nothing.notes)


def test_a_broken_image_and_a_folder_of_twenty_thousand(picking, place, tmp_path):
    images = flat(place, tmp_path / "flat")
    (images / "broken.png").write_bytes(b"no image")
    sources = [path for path in images.iterdir() if path.name != "broken.png"]
    for i in range(20_000 // len(sources)):
        for path in sources:
            os.link(path, images / f"{i}-{path.name}")
    started = time.monotonic()
    found = picking(images=images, max_images=10, models=MODELS[:1])
    assert found.images == 10
    assert time.monotonic() - started < 300
    assert "at most 10 images are used" in " ".join(found.notes)


def test_killed_and_called_again_it_runs_what_is_left(place, hub, tmp_path):
    root = place / "index" / "picks" / "killed"
    command = [sys.executable, "-m", "hubprobe", "pick", *CONCEPTS, "--images", str(place / "images"), "--models",
               ",".join(MODELS), "-w", str(place / "index"), "--endpoint", hub.url, "--name", "killed", "-q",
               "--format", "json"]  # fmt: skip
    attempts = root / "work" / "attempts"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as run:
        while run.poll() is None and not list(attempts.glob("*.parquet")):
            time.sleep(0.02)
        with suppress(ProcessLookupError):  # where this test came late, it has ended
            os.killpg(run.pid, signal.SIGKILL)
    kept = {path.name: path.read_bytes() for path in attempts.glob("*.parquet")}
    assert kept
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert pq.read_table(attempts).num_rows == len(MODELS)
    assert all((attempts / name).read_bytes() == data for name, data in kept.items())
    assert pq.read_table(root / "models.parquet").num_rows == len(MODELS)
