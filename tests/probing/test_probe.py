"""The verb in one process, on every kind of end a model can have."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import probing
from tests.probing.conftest import PROCESSOR, SHA, Repos, by_repo, vit_config, write_model
from workspace import ConfigError, MissingStepError, ModelError, Status, Workspace, WorkspaceError
from workspace.seams import Fetched


def _probe(workspace: Workspace, repos: Repos, **options: Any) -> probing.ProbeSummary:
    repos.write_catalog(workspace)
    return probing.probe(workspace, repos.fetch, progress=False, isolate=False, **options)


def test_every_end_is_booked_once_under_its_own_status(workspace: Workspace, repos: Repos, vit_tensors: Any) -> None:
    expected: dict[str, Status] = {}

    def bad(
        status: Status, config: dict[str, Any], change: Any = None, processor: Any = PROCESSOR, **tensors: Any
    ) -> None:
        weights = vit_tensors(**tensors)
        if change:
            change(weights)
        write_model(repos.root / status.value, config, weights, processor)
        repos.list(status.value)
        expected[status.value] = status

    def fill(name: str, value: float) -> Any:
        return lambda w: w[name].fill_(value)

    repos.vit("ok")
    expected["ok"] = Status.OK
    repos.list("gated", "gated", "ask first")
    expected["gated"] = Status.GATED
    bad(Status.HEAD_MISSING, vit_config(), lambda w: [w.pop("classifier.weight"), w.pop("classifier.bias")])
    bad(Status.HEAD_MISMATCH, vit_config(), labels=("a", "b", "c"))
    bad(Status.LOAD_ERROR, vit_config(), lambda w: w.pop("vit.layernorm.weight"))
    bad(Status.NONFINITE_WEIGHTS, vit_config(), fill("vit.layernorm.weight", float("nan")))
    bad(Status.NONFINITE_OUTPUT, vit_config(), fill("classifier.weight", 3e38))
    bad(Status.CONSTANT_OUTPUT, vit_config(), fill("classifier.weight", 0.0))
    bad(Status.REGRESSION, vit_config(labels=("LABEL_0",)), labels=("LABEL_0",))
    bad(
        Status.ZERO_SHOT, {"model_type": "clip", "architectures": ["CLIPModel"], "text_config": {}, "vision_config": {}}
    )
    bad(Status.NOT_A_CLASSIFIER, {"model_type": "bert", "architectures": ["BertModel"]})
    bad(Status.UNKNOWN_ARCHITECTURE, {"model_type": "hypervision"})
    bad(Status.CUSTOM_CODE, vit_config(auto_map={"AutoModelForImageClassification": "x.Y"}))
    bad(Status.QUANTISED, vit_config(quantization_config={"quant_method": "bitsandbytes"}))
    bad(Status.IMAGE_TOO_LARGE, vit_config(image_size=65536))
    bad(Status.TOO_MANY_PARAMETERS, vit_config(hidden_size=131072, intermediate_size=4 * 131072, num_hidden_layers=5))
    bad(Status.TOO_MANY_LABELS, {k: v for k, v in vit_config().items() if "label" not in k} | {"num_labels": 300_000})
    bad(Status.PROCESSOR_ERROR, vit_config(), processor={"image_processor_type": "NoSuchProcessor"})
    bad(Status.FORWARD_ERROR, vit_config(), processor=PROCESSOR | {"size": {"height": 40, "width": 40}})
    write_model(repos.root / "no_weights", vit_config(), None, PROCESSOR)
    repos.list("no_weights")
    expected["no_weights"] = Status.NO_WEIGHTS
    for status, damage in {
        Status.TRUNCATED_WEIGHTS: lambda b: b[:-100],
        Status.INVALID_HEADER: lambda _: (64).to_bytes(8, "little") + b"not a header " * 50,
    }.items():
        path = write_model(repos.root / status.value, vit_config(), vit_tensors(), PROCESSOR) / "model.safetensors"
        path.write_bytes(damage(path.read_bytes()))
        repos.list(status.value)
        expected[status.value] = status
    for name, text, status in (
        ("list", "[1]", Status.MALFORMED_CONFIG),
        ("text", "{", Status.MALFORMED_CONFIG),
        ("none", None, Status.NO_CONFIG),
    ):
        folder = write_model(repos.root / name, {}, vit_tensors(), PROCESSOR)
        (folder / "config.json").unlink() if text is None else (folder / "config.json").write_text(text)
        repos.list(name)
        expected[name] = status
    summary = _probe(workspace, repos)
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {k: v.value for k, v in expected.items()}
    assert summary.attempted == len(repos.rows) == summary.ok + summary.skipped + summary.failed
    assert summary.by_status == dict(Counter(s.value for s in expected.values()))
    assert by_repo(rows, "reason")["gated"] == "ask first"
    assert all(len(r["reason"]) > 10 for r in rows if r["status"] not in ("ok", "gated"))
    assert sorted(repos.fetched) == sorted(repos.released)
    assert not list(workspace.attempts_dir.glob(".*")), "no marks, no temporary files"
    assert set(workspace.responses(["repo_id"])["repo_id"].to_pylist()) == {"ok"}
    manifest = json.loads(summary.manifest.read_text())
    assert manifest["by_status"] == summary.by_status
    assert manifest["seconds_by_phase"]["forward"] > 0


def test_responses_are_what_the_model_says(workspace: Workspace, repos: Repos) -> None:
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    folder = repos.vit("m")
    _probe(workspace, repos, batch_size=16)
    rows = workspace.responses().to_pylist()
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    from workspace.images import read_image

    images = [read_image(v["bytes"]) for v in workspace.probes(["image"])["image"].to_pylist()]
    with torch.no_grad():
        wanted = model(**processor(images=images, return_tensors="pt")).logits.numpy()
    raw = np.stack([np.array(r["response"], np.float32) * r["std"] + r["mean"] for r in rows], axis=1)
    np.testing.assert_allclose(raw, wanted, atol=5e-3 * wanted.std())
    assert [r["label"] for r in rows] == ["ant", "bee", "cat", "dog", "elk"]
    assert rows[0]["probe_ids"] == list(range(70))
    assert rows[1]["probe_ids"] is None
    np.testing.assert_allclose(rows[0]["logsumexp"], np.log(np.exp(wanted.astype(float)).sum(1)), rtol=1e-4)
    (attempt,) = workspace.attempts().to_pylist()
    assert (attempt["probes_run"], attempt["num_logits"], attempt["num_excluded"]) == (70, 5, 0)
    assert (attempt["processor"], attempt["processor_source"]) == ("ViTImageProcessor", "repo")
    assert dict(attempt["versions"])["torch"] == torch.__version__.split("+")[0]


def test_nothing_committed_is_run_again_and_retry_is_by_status(
    workspace: Workspace, repos: Repos, vit_tensors: Any
) -> None:
    repos.vit("one")
    repos.vit("two", seed=1)
    broken = write_model(repos.root / "broken", vit_config(), None, PROCESSOR)
    repos.list("broken")
    repos.list("gated", "gated")
    first = _probe(workspace, repos, limit=1)
    assert first.run == 1
    assert _probe(workspace, repos).run == 2
    again = _probe(workspace, repos)
    assert (again.run, again.attempted) == (0, 4)
    assert sorted(repos.fetched) == ["broken", "one", "two"]
    write_model(broken, vit_config(), vit_tensors(), PROCESSOR)
    with pytest.raises(ConfigError, match="no status"):
        _probe(workspace, repos, retry=["nonsense"])
    mended = _probe(workspace, repos, retry=["no_weights"])
    assert (mended.run, mended.ok, mended.failed) == (1, 3, 0)
    history = (
        workspace.attempts(history=True).filter(workspace.attempts(history=True)["repo_id"].__eq__("broken"))
        if 0
        else None
    )
    assert history is None
    rows = [r for r in workspace.attempts(history=True).to_pylist() if r["repo_id"] == "broken"]
    assert [(r["attempt"], r["status"]) for r in sorted(rows, key=lambda r: r["attempt"])] == [
        (1, "no_weights"),
        (2, "ok"),
    ]


def test_limit_takes_the_most_downloaded_and_models_keeps_to_some(workspace: Workspace, repos: Repos) -> None:
    for name, downloads in (("few", 1), ("many", 100), ("some", 10)):
        repos.vit(name)
        repos.rows[-1]["downloads"] = downloads
    _probe(workspace, repos, limit=1)
    assert repos.fetched == ["many"]
    _probe(workspace, repos, models=["few"])
    assert repos.fetched == ["many", "few"]
    with pytest.raises(ConfigError):
        _probe(workspace, repos, limit=0)


def test_what_fetching_meets_is_booked(workspace: Workspace, repos: Repos) -> None:
    repos.vit("gone")
    repos.vit("bug")
    repos.write_catalog(workspace)

    def fetch(row: Mapping[str, Any]) -> Fetched:
        if row["id"] == "gone":
            raise ModelError(Status.FILE_MISSING, "model.safetensors: 404")
        raise KeyError("oops")

    summary = probing.probe(workspace, fetch, progress=False, isolate=False)
    assert summary.by_status == {"file_missing": 1, "internal_error": 1}
    assert by_repo(workspace.attempts().to_pylist(), "error_class") == {"gone": None, "bug": "KeyError"}


def test_a_new_probe_set_runs_all_models_again(workspace: Workspace, repos: Repos, pictures: Path) -> None:
    repos.vit("one")
    repos.list("gated", "gated")
    _probe(workspace, repos)
    probing.probes.build(workspace, pictures, n=30, progress=False)
    summary = _probe(workspace, repos)
    assert (summary.run, summary.attempted) == (1, 2)
    assert workspace.responses().num_rows == 5
    assert len(workspace.responses()["response"][0]) == 30


def test_steps_that_are_missing_are_named(tmp_path: Path, workspace: Workspace, repos: Repos) -> None:
    with pytest.raises(MissingStepError, match="probes build"):
        probing.probe(Workspace.create(tmp_path / "other"), repos.fetch)
    with pytest.raises(MissingStepError, match="crawl"):
        probing.probe(workspace, repos.fetch)


def test_a_timm_repository(workspace: Workspace, repos: Repos) -> None:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=6)
    config = {
        "architecture": "test_vit",
        "num_classes": 6,
        "label_names": list("uvwxyz"),
        "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 160, 160], "url": "http://evil/"},
    }
    write_model(repos.root / "t", config, model.state_dict(), None)
    repos.list("t")
    lost = {k: v for k, v in model.state_dict().items() if not k.startswith("head.")}
    write_model(repos.root / "headless", config, lost, None)
    repos.list("headless")
    write_model(repos.root / "backbone", config | {"num_classes": 0}, lost, None)
    repos.list("backbone")
    write_model(repos.root / "unknown", config | {"architecture": "nonesuch"}, lost, None)
    repos.list("unknown")
    _probe(workspace, repos)
    rows = workspace.attempts().to_pylist()
    assert by_repo(rows, "status") == {
        "t": "ok", "headless": "head_missing", "backbone": "not_a_classifier", "unknown": "unknown_architecture",
    }  # fmt: skip
    assert by_repo(rows, "processor_source")["t"] == "timm"
    assert workspace.responses()["label"].to_pylist() == list("uvwxyz")
    assert workspace.responses()["sha"].to_pylist() == [SHA] * 6


def test_a_full_disk_ends_the_run_and_nothing_is_held_against_a_model(
    workspace: Workspace, repos: Repos, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from probing import responses
    from probing.images import cache

    def full(*_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    repos.vit("one")
    repos.vit("two", seed=1)
    for module, name in ((cache, "room_for"), (responses, "write")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, full)
            with pytest.raises(WorkspaceError, match="disk is full"):
                _probe(workspace, repos)
        assert workspace.attempts().num_rows == 0
        assert not list(workspace.attempts_dir.glob(".*"))
    assert _probe(workspace, repos).ok == 2
