"""The first command of all, against a hub as it was recorded: `hubprobe run` with its defaults, then an answer.

The default encoders' and the default probe images' repositories are there under their own names and with the shapes
that they have; what is in them is small, and drawn rather than photographed.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hubprobe
import hubprobe.doctor
from hubprobe.demo.repository import Repo
from hubprobe.demo.run import PROBES, TRUTH
from hubprobe.demo.server import HUB, HubServer, read_folder
from search.text.encoder_choice import PREFERRED
from tests.hubs.recorded import MIRRORS, pickled
from workspace import Config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

POPULATION = ("emoji-zoo/animal-resnet", "kitchen-bench/food-regnet", "tiny-vision-lab/resnet-mini-everyday")
SIGLIP2, SIGLIP, CLIP = (name.partition(":")[2] for name in PREFERRED)
QUESTIONS = ("dog", "elephant", "pizza", "strawberry")


@pytest.fixture(scope="module")
def repos() -> dict[str, Repo]:
    return {repo.id: repo for repo in read_folder(HUB)}


@pytest.fixture(scope="module")
def eye(repos: dict[str, Repo]) -> Callable[[str], Repo]:
    """The demo's own encoder under another name."""
    return lambda name: Repo(name, repos["hubprobe/demo-clip"].files)


@dataclass
class Newcomer:
    """Somebody with an empty home who knows one address."""

    home: Path
    endpoint: str

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUBPROBE_"))}
        home = {"HOME": str(self.home), "HF_HOME": str(self.home / "hf"), "XDG_CACHE_HOME": str(self.home / "cache")}
        # the hub states Xet hashes, and has no Xet storage behind them
        told = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost"}
        return subprocess.run(
            [sys.executable, "-m", "hubprobe", *arguments], cwd=self.home, env=kept | home | told,
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self("run", "--workspace", "mine", "--endpoint", self.endpoint, *arguments)

    def json(self, *arguments: str) -> Any:
        done = self(*arguments, "--format", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def newcomer(tmp_path: Path) -> Callable[[HubServer], Newcomer]:
    return lambda hub: Newcomer(tmp_path, hub.url)


def serve(encoders: list[Repo], repos: dict[str, Repo]) -> HubServer:
    return HubServer([*(repos[name] for name in POPULATION), *encoders], intercept=MIRRORS["huggingface.co"]())


def fill(hub: HubServer) -> None:
    """Put the default probe images where they are looked for: every third of the demo's."""
    from huggingface_hub import HfApi

    hub.intercept, shapes = None, hub.intercept
    api, settings, some = HfApi(endpoint=hub.url, token="hf_maker"), Config().probes, io.BytesIO()
    rows = pq.read_table(PROBES)
    pq.write_table(rows.take(pa.array(range(0, rows.num_rows, 3))), some)
    api.create_repo(settings.source, repo_type="dataset")
    api.upload_file(
        path_or_fileobj=some.getvalue(), path_in_repo=f"data/{settings.split}-00000-of-00001.parquet",
        repo_id=settings.source, repo_type="dataset",
    )  # fmt: skip
    hub.intercept = shapes


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)


def right(newcomer: Newcomer) -> list[str]:
    """The questions whose first hit is a logit that was trained to recognise them."""
    truth = json.loads(TRUTH.read_text(encoding="utf-8"))["models"]
    index = hubprobe.open(newcomer.home / "mine")
    found = {text: index.search(text).limit(1).to_dicts()[0] for text in QUESTIONS}
    return [text for text, hit in found.items() if truth[hit["repo_id"]]["logits"][hit["logit"]] == text]


def test_from_the_first_command_to_an_answer(newcomer, repos, eye):
    """Of the encoders the first is not there, the second has its weights in a pull request, the third is whole."""
    second = pickled(eye(SIGLIP))
    with serve([second, eye(CLIP)], repos) as hub:
        fill(hub)
        me = newcomer(hub)
        done = me.run("--limit", "50", "--format", "json")
        assert done.returncode == 0, done.stderr
        (summary,) = json.loads(done.stdout)
        assert summary["probe"]["ok"] == len(POPULATION), summary["probe"]
        commit = second.heads["refs/pr/2"].sha
        assert summary["index"]["encoder"] == f"{PREFERRED[1]}@{commit}"
        asked = len(hub.requests)
        again = hubprobe.run(me.home / "mine", token="", progress=False)
        assert again.index.encoder == summary["index"]["encoder"]
        later = [request for request in list(hub.requests)[asked:] if request.method != "OPTIONS"]
        assert not [request.target for request in later if "datasets" in request.target or SIGLIP in request.target]
    hits = me.json("search", "--workspace", "mine", "dog")  # and the hub is gone
    assert (hits[0]["repo_id"], hits[0]["label"]) == ("emoji-zoo/animal-resnet", "Dog")
    assert len(right(me)) >= len(QUESTIONS) - 1
    rows = {row.check: row for row in hubprobe.doctor.examine(me.home / "mine")}
    assert rows["endpoint"].state == "warn"
    assert "searching needs none" in rows["endpoint"].advice
    assert not [row for row in rows.values() if row.state == "fail"]


def test_nothing_is_crawled_when_something_is_missing(newcomer, repos, eye):
    with serve([], repos) as hub:
        me = newcomer(hub)
        done = me.run("--limit", "50")
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "nothing was crawled" in done.stderr
        assert "encoder: none of the encoders that 'auto' knows" in done.stderr
        assert "probe images: cannot open the data set" in done.stderr
        assert "--probes-from PLACE" in done.stderr
        assert not (me.home / "mine").exists()
        assert not [asked for asked in hub.requests if "pytorch_model" in asked.target]
    with serve([eye(CLIP)], repos) as hub:
        looked = newcomer(hub).run("--limit", "50", "--probes-from", str(PROBES), "--dry-run")
        assert looked.returncode == 0, looked.stderr
        assert f"encoder: {PREFERRED[2]} at " in looked.stderr
        assert f"not taken: {PREFERRED[0]}: " in looked.stderr
        assert not (me.home / "mine").exists()
