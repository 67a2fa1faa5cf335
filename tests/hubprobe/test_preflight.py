"""What `run` and `doctor` look at before anything is crawled: every kind of thing that may be missing, told in time."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import hubprobe
from hubprobe.cli.run import run as verb
from hubprobe.demo.repository import Repo
from hubprobe.demo.run import PROBES
from hubprobe.demo.server import HubServer, demo_repos
from hubprobe.demo.wire import Response
from hubprobe.doctor import before_run, hub, machine
from hubprobe.doctor.check import Check, Setting
from search.text.encoder_choice import PREFERRED
from tests.hubs import encoders
from tests.search.conftest import make
from workspace import Config, ProbesConfig, SearchConfig, Workspace, WorkspaceError

SIGLIP2 = PREFERRED[0].partition(":")[2]


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    """No token and no settings of whoever runs the tests."""
    for name in ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE", "HUBPROBE_CONTACT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", "/no/such/file")


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory) -> Repo:
    return Repo.from_folder(SIGLIP2, encoders.siglip2(tmp_path_factory.mktemp("siglip2")))


@pytest.fixture(scope="module")
def models() -> list[Repo]:
    return demo_repos(with_unhealthy=False, with_lite0=False)[:2]


def setting(root: Path, **changes) -> Setting:
    given = {"endpoint": None, "token": None, "offline": False, "seconds": 5.0, "least_bytes": 1}
    return Setting(root, **(given | changes))


def rows(examination, asked: Setting) -> dict[str, Check]:
    return {check.check: check for check in examination(asked)}


def new(root: Path, endpoint: str, **settings) -> Path:
    Workspace.create(root, Config(endpoint=endpoint, **settings))
    return root


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# ── the listing ──────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("body", "state", "said"),
    [
        (b"", "fail", "--from"),
        (b"{}", "fail", "--from"),
        (b"<html>", "fail", "--from"),
        (b"[]", "warn", "pipeline_tag"),
    ],
)
def test_a_hub_that_lists_nothing(tmp_path, models, body, state, said):
    def answered(bucket, request, answer):
        return Response(200, body) if request.segments == ("api", "models") else answer(request)

    with HubServer(models, intercept=answered) as served:
        check = rows(hub.reach, setting(new(tmp_path / "w", served.url)))["listing"]
    assert check.state == state
    assert said in check.advice


def test_the_listing_is_asked_as_a_crawl_asks_it(tmp_path, models):
    with HubServer(models) as served:
        root = new(tmp_path / "w", served.url)
        assert rows(hub.reach, setting(root))["listing"].state == "ok"
        (asked, *_) = [request.target for request in served.requests]
        assert "pipeline_tag=image-classification" in asked
        assert "limit=1&" in f"{asked}&"


def test_a_hub_that_is_gone_matters_to_who_needs_it(tmp_path, finished):
    nowhere = f"http://127.0.0.1:{closed_port()}"
    found = rows(hub.reach, setting(finished, endpoint=nowhere))["endpoint"]
    assert (found.state, found.advice[:20]) == ("warn", "searching needs none")
    assert rows(hub.reach, setting(finished, endpoint=nowhere, is_run=True))["endpoint"].state == "fail"
    asked = setting(new(tmp_path / "w", nowhere))
    assert rows(hub.reach, asked)["endpoint"].state == "fail"
    assert not asked.is_asked  # nobody waits for its silence twice
    assert "not looked at" in rows(hub.encoders, asked)["encoder"].found
    assert "not looked at" in rows(hub.probe_images, asked)["probe images"].found


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A small workspace with probes and an index."""
    made = make(tmp_path_factory.mktemp("finished") / "workspace", models=4, n=60)
    made.index(encoder="none")
    return made.workspace.root


# ── the encoder ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_the_encoder_that_auto_would_take(tmp_path, siglip2):
    with HubServer([siglip2]) as served:
        asked = setting(new(tmp_path / "w", served.url))
        check = rows(hub.encoders, asked)["encoder"]
        assert check.state == "ok"
        assert check.found.startswith(f"{PREFERRED[0]} at {siglip2.sha[:12]}")
        assert "to fetch" in check.found
        assert asked.learned["encoder_bytes"] == sum(file.size for file in siglip2.files.values())
        assert not (tmp_path / "w" / "cache" / "encoders").exists()


@pytest.mark.parametrize(
    ("name", "state", "said"),
    [
        ("none", "ok", "logit queries only"),
        ("clip:openai/clip-vit-base-patch16", "fail", "is not on"),
        ("clip:./nowhere", "fail", "no model folder"),
        ("dog", "fail", "unknown encoder"),
    ],
)
def test_an_encoder_that_is_named(tmp_path, siglip2, name, state, said):
    with HubServer([siglip2]) as served:
        root = new(tmp_path / "w", served.url, search=SearchConfig(encoder=name))
        check = rows(hub.encoders, setting(root))["encoder"]
    assert check.state == state
    assert said in check.found
    assert check.advice or state == "ok"


def test_an_image_encoder_is_looked_at_too(tmp_path, siglip2):
    with HubServer([siglip2]) as served:
        root = new(tmp_path / "w", served.url, search=SearchConfig(encoder="none", image_encoder="images:acme/none"))
        assert rows(hub.encoders, setting(root))["image encoder"].state == "fail"


# ── the probe images ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        noise = np.random.default_rng(i).integers(0, 255, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")
    return folder


def of(root: Path, place: object, **changes) -> Check:
    return rows(hub.probe_images, setting(root, probes_from=str(place), **changes))["probe images"]


def test_local_probe_images(tmp_path, pictures):
    root = new(tmp_path / "w", "http://127.0.0.1:9")
    check = of(root, pictures)
    assert (check.state, check.found) == ("ok", f"{pictures}: 3 images, the first of 40 x 30 pixels")
    check = of(root, PROBES)
    assert check.state == "ok"
    assert "column image" in check.found
    assert "captions in caption" in check.found
    for bad, said in ((tmp_path / "none", "nothing at"), (tmp_path, "first"), (root / "hubprobe.toml", "no Parquet")):
        (pictures / "0.png").write_bytes(b"no image")
        check = of(root, bad)
        assert check.state == "fail" or bad == tmp_path
        assert said in check.found
        assert check.state == "ok" or "--probes-from" in check.advice
    for path in pictures.iterdir():
        path.write_bytes(b"no image")
    assert "can be used" in of(root, pictures).found


def test_a_data_set_of_the_hub(tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with HubServer([]) as served:
        api = HfApi(endpoint=served.url, token="hf_maker")
        api.create_repo("acme/pictures", repo_type="dataset")
        api.upload_file(
            path_or_fileobj=PROBES, path_in_repo="data/val-00000-of-00001.parquet", repo_id="acme/pictures",
            repo_type="dataset",
        )  # fmt: skip
        root = new(tmp_path / "w", served.url, probes=ProbesConfig(source="acme/pictures", split="val"))
        check = rows(hub.probe_images, setting(root))["probe images"]
        assert check.state == "ok", check.found
        assert check.found.startswith("acme/pictures, split val: column image")
        check = of(root, "acme/pictures")  # --probes-from asks for the split 'train'
        assert check.state == "fail"
        assert "train" in check.found
        assert of(root, "acme/none").state == "fail"


def test_probes_that_are_there_are_not_looked_for(finished):
    check = rows(hub.probe_images, setting(finished, probes_from="acme/none"))["probe images"]
    assert check.state == "ok"


# ── the disk ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_room_is_wanted_for_what_is_known_to_come(tmp_path, finished):
    plain = setting(tmp_path, limit=50)
    of_models = 50 * machine.TYPICAL_LOGITS * 4000 * machine.BYTES_PER_RESPONSE
    assert machine.estimate(plain) == 4000 * machine.IMAGE_BYTES + of_models
    plain.learned.update(encoder_bytes=10**9, has_probes=True)
    assert machine.estimate(plain) == 10**9 + of_models
    assert machine.estimate(setting(finished, limit=50, learned={"has_probes": True})) == 0
    plain.learned["encoder_bytes"] = 2 * shutil.disk_usage(tmp_path).total
    assert rows(machine.disks, plain)["disk of the workspace"].state == "fail"


# ── all of it, and the verb ──────────────────────────────────────────────────────────────────────────────────────────
def test_what_a_workspace_has_is_not_asked_for(tmp_path, siglip2, models):
    made = make(tmp_path / "w", models=3, n=40)
    with HubServer([siglip2, *models]) as served:
        workspace = Workspace(made.workspace.root, Config(endpoint=served.url))
        hubprobe.index(workspace, progress=False)
        (workspace.catalog_dir / ".lock").touch()
        served.requests.clear()
        found = list(before_run(workspace.root, endpoint=served.url, token=""))
        assert len(served.requests) == 0
    assert {check.check for check in found} >= {"encoder", "probe images", "disk of the workspace"}
    assert not [check for check in found if check.state == "fail"]


def test_run_stops_before_it_crawls(tmp_path, models, pictures):
    with HubServer(models) as served:
        root = tmp_path / "w"
        done = CliRunner().invoke(
            verb, ["--workspace", str(root), "--endpoint", served.url, "--probes-from", str(pictures)]
        )
        assert isinstance(done.exception, WorkspaceError)
        assert "nothing was crawled: encoder: none of the encoders" in str(done.exception)
        assert "hubprobe.toml" in str(done.exception)
        assert not root.exists()
        listings = [one.target for one in served.requests if one.target.startswith("/api/models?")]
        assert all("limit=1&" in f"{target}&" for target in listings)
        workspace = Workspace.create(root, Config(endpoint=served.url))
        with pytest.raises(WorkspaceError, match="nothing was crawled"):
            hubprobe.run(workspace, probes_from=str(pictures), progress=False)
        assert not (root / "catalog").exists() or not list((root / "catalog").iterdir())


def test_a_dry_run_shows_every_check_and_what_a_crawl_would_take(tmp_path, siglip2, models, pictures):
    with HubServer([siglip2, *models]) as served:
        arguments = ["--workspace", str(tmp_path / "w"), "--endpoint", served.url, "--dry-run", "--format", "json"]
        done = CliRunner().invoke(verb, [*arguments, "--probes-from", str(PROBES)])
        assert done.exit_code == 0, done.output
        for check in ("endpoint", "listing", "token", "encoder", "probe images", "disk of the workspace"):
            assert f"ok    {check}: " in done.stderr or f"warn  {check}: " in done.stderr
        (summary,) = json.loads(done.stdout)
        assert summary["listed"] == len(models)
        assert not (tmp_path / "w").exists()
        done = CliRunner().invoke(verb, [*arguments, "--probes-from", str(tmp_path / "none")])
        assert isinstance(done.exception, WorkspaceError)
        assert "fail  probe images: " in done.stderr
        assert json.loads(done.stdout)[0]["listed"] == len(models)  # and yet it is said what a crawl would take


def test_a_token_that_only_the_workspace_named_the_hub_for_stays_here(tmp_path, siglip2, models, monkeypatch, pictures):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_mine")
    with HubServer([siglip2, *models]) as served:
        workspace = Workspace(tmp_path / "w", Config(endpoint=served.url))
        hubprobe.front.require_ready(workspace, probes_from=str(pictures))
        assert not [request for request in served.requests if request.has_token]


def test_a_sentence_encoder_needs_captions(tmp_path, pictures):
    import pyarrow as pa
    import pyarrow.parquet as pq

    bare = pa.table({"image": [{"bytes": (pictures / "0.png").read_bytes(), "path": None}]})
    pq.write_table(bare, tmp_path / "bare.parquet")
    root = new(tmp_path / "w", "http://127.0.0.1:9", search=SearchConfig(encoder="captions:acme/words"))
    check = of(root, tmp_path / "bare.parquet")
    assert check.state == "fail"
    assert "--caption-column" in check.advice
    assert of(root, PROBES).state == "ok"
