"""The walls around a stranger's image processor: what it may name, what its settings may ask for, what it may break."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import probing
from probing.images import cache, inputs, processors
from probing.images.pictures import read
from tests.probing.conftest import PROCESSOR, Repos, write_model
from workspace import ModelError, Status, Workspace

VIT = SimpleNamespace(model_type="vit", num_channels=3)


def _prepare(workspace: Workspace, folder: Path, config: Any = VIT, **options: Any) -> inputs.Inputs:
    processor = processors.for_transformers(folder, config)
    return inputs.prepare(workspace, workspace.probe_set, processor, **({"threads": 2, "max_edge": 512} | options))


def _written(tmp_path: Path, settings: dict[str, Any]) -> Path:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return tmp_path


def _of(name: str, **settings: Any) -> dict[str, Any]:
    return {"image_processor_type": name, **settings}


TOO_LARGE: list[dict[str, Any]] = [
    PROCESSOR | {"size": 20_000},
    PROCESSOR | {"size": [20_000, 20_000]},
    PROCESSOR | {"size": {"height": 32, "width": 20_000}},
    PROCESSOR | {"size": 10**30},
    PROCESSOR | {"do_center_crop": True, "crop_size": 20_000},
    PROCESSOR | {"do_center_crop": True, "crop_size": {"height": 20_000, "width": 32}},
    PROCESSOR | {"do_pad": True, "pad_size": {"height": 20_000, "width": 20_000}},
    _of("CLIPImageProcessor", size={"shortest_edge": 20_000}),
    _of("CLIPImageProcessor", size={"shortest_edge": 20_000, "longest_edge": 40_000}),
    _of("ConvNextImageProcessor", size={"shortest_edge": 300}, crop_pct=0.06),
    _of("PoolFormerImageProcessor", crop_pct=0.05, size={"shortest_edge": 512}),
    _of("TextNetImageProcessor", size_divisor=20_000),
    _of("PPLCNetImageProcessor", resize_short=20_000),
    _of("PPLCNetImageProcessor", size_divisor=20_000),
    _of("DPTImageProcessor", ensure_multiple_of=20_000),
    _of("Siglip2ImageProcessor", max_num_patches=10**7),
    _of("Siglip2ImageProcessor", patch_size=20_000),
    _of("DonutImageProcessor"),  # 2560 x 1920 by default
]  # fmt: skip
WRONG: list[dict[str, Any]] = [
    PROCESSOR | {"image_mean": [0.5, float("nan"), 0.5]},
    PROCESSOR | {"image_mean": [1e300] * 3},
    PROCESSOR | {"image_std": [0.0] * 3},
    PROCESSOR | {"image_std": [float("inf")] * 3},
    PROCESSOR | {"image_std": 1e-40},
    PROCESSOR | {"rescale_factor": float("nan")},
    PROCESSOR | {"rescale_factor": 1e30},
    PROCESSOR | {"rescale_factor": 0},
    PROCESSOR | {"resample": 99},
    PROCESSOR | {"resample": -1},
    PROCESSOR | {"do_resize": "false"},
    PROCESSOR | {"do_normalize": 3},
    PROCESSOR | {"do_rescale": [1]},
    PROCESSOR | {"size": {"height": {"width": {"deep": 3}}}},
    PROCESSOR | {"size": {"height": "32", "width": "32"}},
    PROCESSOR | {"size": "32"},
    PROCESSOR | {"size": 0},
    PROCESSOR | {"size": -5},
    PROCESSOR | {"size": {"galaxy": 5}},
    PROCESSOR | {"image_mean": ["0.5"] * 3},
    PROCESSOR | {"image_mean": [0.5] * 50_000},
    PROCESSOR | {"image_mean": [0.5] * 2, "image_std": [0.5] * 2},
    _of("ConvNextImageProcessor", crop_pct=1e-9),
    _of("ConvNextImageProcessor", crop_pct=-1),
]  # fmt: skip
NAMES = [
    "AutoModel", "pipeline", "Trainer", "ViTForImageClassification", "BaseImageProcessorFast", "TorchvisionBackend",
    "BaseImageProcessor", "AutoTokenizer", "TimmWrapperImageProcessor", "os", "../x", "x.y", "", {"a": 1}, ["ViT"],
    "OneFormerImageProcessor", "Pix2StructImageProcessor", "IdeficsImageProcessor", "LlavaNextImageProcessor",
    "Qwen2VLImageProcessor", "GotOcr2ImageProcessor", "Gemma3ImageProcessor", "\x1b[31mred", "WhisperFeatureExtractor",
]  # fmt: skip


@pytest.mark.parametrize("settings", TOO_LARGE, ids=lambda s: json.dumps(s)[:60])
def test_sizes_are_looked_at_before_any_image_is_made(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setattr(inputs, "Pictures", lambda *_: pytest.fail("an image was made"))
    with pytest.raises(ModelError) as refused:
        _prepare(workspace, _written(tmp_path, settings))
    assert refused.value.status is Status.IMAGE_TOO_LARGE, refused.value.reason
    assert "512" in refused.value.reason


@pytest.mark.parametrize("settings", WRONG, ids=lambda s: json.dumps(s)[-60:])
def test_settings_that_make_no_sense(tmp_path: Path, workspace: Workspace, settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as refused:
        _prepare(workspace, _written(tmp_path, settings))
    assert refused.value.status is Status.PROCESSOR_ERROR, refused.value.reason
    assert len(refused.value.reason) > 10


@pytest.mark.parametrize("key", ["image_processor_type", "feature_extractor_type"])
@pytest.mark.parametrize("name", NAMES, ids=str)
def test_only_processors_that_transformers_pairs_with_a_model_are_made(tmp_path: Path, name: Any, key: str) -> None:
    if name == "":
        assert processors.for_transformers(_written(tmp_path, {key: name}), VIT).name == "ViTImageProcessor"
        return
    with pytest.raises(ModelError) as refused:
        processors.for_transformers(_written(tmp_path, {key: name}), VIT)
    assert refused.value.status is Status.PROCESSOR_ERROR
    assert "\x1b" not in refused.value.reason


@pytest.mark.parametrize("place", ["preprocessor_config.json", "processor_config.json"])
def test_code_of_its_own_is_never_run(tmp_path: Path, place: str) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    own: dict[str, Any] = {"auto_map": {"AutoImageProcessor": "evil.Evil"}, "image_processor_type": "Evil"}
    (tmp_path / place).write_text(json.dumps({"image_processor": own} if place.startswith("processor") else own))
    with pytest.raises(ModelError, match="code of its own"):
        processors.for_transformers(tmp_path, VIT)


def test_arguments_that_are_no_numbers_reach_no_class(tmp_path: Path, workspace: Workspace) -> None:
    strange = {"device": "cuda:7", "return_tensors": "tf", "data_format": "channels_last", "repo_path": "/etc",
               "tesseract_config": "-c x", "__class__": 3, "from_pretrained": "x", "preprocess": 5, "url": "http://x",
               "input_data_format": "none", "disable_grouping": True, "ocr_lang": "x", "num_labels": 10**9}  # fmt: skip
    plain = _prepare(workspace, _written(tmp_path, PROCESSOR))
    same = _prepare(workspace, _written(tmp_path, PROCESSOR | strange))
    assert (plain.key, same.key) == (same.key, plain.key)
    np.testing.assert_array_equal(plain.batch(range(5)).numpy(), same.batch(range(5)).numpy())


@pytest.fixture
def with_bad(tmp_path: Path, pictures: Path) -> Workspace:
    """A workspace whose probes are those of ``pictures`` and one of a single pixel."""
    folder = tmp_path / "some"
    folder.mkdir()
    for path in pictures.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (1, 1), (9, 9, 9)).save(folder / "dot.png")
    made = Workspace.create(tmp_path / "bad")
    assert probing.probes.build(made, folder, n=100, progress=False).n == 71
    return made


def _dot(workspace: Workspace) -> int:
    return int(workspace.probes(["width"])["width"].to_pylist().index(1))


def test_a_probe_that_breaks_a_processor_costs_itself(
    tmp_path: Path, with_bad: Workspace, repos: Repos, vit_tensors: Any
) -> None:
    perceiver = _of("PerceiverImageProcessor", size=32, crop_size=64)
    repos.vit("breaks", processor=perceiver)
    repos.vit("plain")
    repos.write_catalog(with_bad)

    def probe(**options: Any) -> dict[str, dict[str, Any]]:
        probing.probe(with_bad, repos.fetch, progress=False, isolate=False, **options)
        return {row["repo_id"]: row for row in with_bad.attempts().to_pylist()}

    dot = _dot(with_bad)
    rows = probe(probes_per_model=40)
    rows = probe()
    broken, plain = rows["breaks"], rows["plain"]
    assert (broken["status"], broken["probes_run"], broken["probes_refused"]) == ("ok", 70, [dot]), broken["reason"]
    assert len(broken["refused_reason"]) > 10
    assert (plain["probes_run"], plain["probes_refused"], plain["refused_reason"]) == (71, None, None)
    ids = {r["repo_id"]: r["probe_ids"] for r in with_bad.responses().to_pylist() if r["probe_ids"]}
    assert ids["breaks"] == [i for i in range(71) if i != dot]
    before = broken["attempt"]
    assert probe()["breaks"]["attempt"] == before, "it is done: the probe that cannot be prepared is not waited for"
    assert probe(retry=["ok"])["breaks"]["probes_run"] == 70


def test_a_processor_that_fails_on_most_probes_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    processor = processors.for_transformers(_written(tmp_path, PROCESSOR), VIT)

    def fails(pictures: Any) -> Any:
        if any(picture.shape[1] != 44 for picture in pictures):
            raise ValueError("too small for \x1b[31mme")
        return processor.apply(pictures)

    odd = processors.Processor(fails, "Odd", "repo", {}, None)
    with pytest.raises(ModelError, match=r"fails on \d+ of 70 probes") as refused:
        inputs.prepare(workspace, workspace.probe_set, odd, threads=2, max_edge=512)
    assert refused.value.status is Status.PROCESSOR_ERROR
    assert "\x1b" not in refused.value.reason


def test_errors_of_the_machine_are_no_matter_of_a_probe(tmp_path: Path, workspace: Workspace) -> None:
    for error in (MemoryError(), OSError(28, "No space left on device"), RuntimeError("can't allocate memory")):

        def fails(pictures: Any, error: BaseException = error) -> Any:
            raise error

        odd = processors.Processor(fails, "Odd", "repo", {"n": str(error)}, None)
        with pytest.raises(type(error)):
            inputs.prepare(workspace, workspace.probe_set, odd, threads=2, max_edge=512)


def test_probes_stored_before_there_was_a_cap_on_shapes_are_refused_by_name(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from workspace import images

    folder = tmp_path / "some"
    folder.mkdir()
    for path in sorted(pictures.iterdir())[:20]:
        (folder / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.arange(3000, dtype=np.uint8).reshape(1, 1000, 3)).save(folder / "thin.png")
    with monkeypatch.context() as old:
        old.setattr(images.open_image, "__kwdefaults__", {"max_aspect": 1e9})
        made = Workspace.create(tmp_path / "old")
        assert probing.probes.build(made, folder, n=100, progress=False).n == 21
        assert read((folder / "thin.png").read_bytes()).width == 1000
    prepared = _prepare(made, _written(tmp_path, _of("CLIPImageProcessor", size={"shortest_edge": 32}, crop_size=32)))
    (thin,) = prepared.refused
    assert made.probes(["width"])["width"].to_pylist()[thin] == 1000
    assert "20 times" in prepared.refused[thin]


def test_memory_maps_are_read_only_and_batches_are_not(tmp_path: Path, workspace: Workspace) -> None:
    prepared = _prepare(workspace, _written(tmp_path, PROCESSOR))
    assert isinstance(prepared.pixels, np.memmap)
    assert prepared.pixels.mode == "r", "a private map counts as the process's memory"
    prepared.batch([0, 1]).zero_()
    prepared.batch([3, 1]).zero_()


def test_what_a_killed_process_was_making_is_deleted(tmp_path: Path, workspace: Workspace) -> None:
    _prepare(workspace, _written(tmp_path, PROCESSOR))
    root = workspace.cache_dir / "inputs"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom probing.images import cache\n"
        "with cache.making(Path(sys.argv[1])) as folder:\n"
        "    cache.room_for(folder, 'uint8', (1000, 1000))\n    print('ready', flush=True)\n    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(root / "0123456789abcdef")], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        (making,) = root.glob(".tmp-*")
        assert cache.clean_after(root) == 0, "it is alive: its work is left to it"
        assert making.is_dir()
    finally:
        child.kill()
        child.wait()
    assert cache.clean_after(root) == 1_000_000
    assert not list(root.glob(".tmp-*"))
    assert len(list(root.glob("*/pixels"))) == 2, "what is whole stays"
    assert cache.clean_after(workspace.cache_dir / "nothing") == 0


def test_time_of_the_walls() -> None:
    """A thousand hostile files are looked at in seconds: nothing is built for them."""
    started = time.process_time()
    for n in range(1000):
        with pytest.raises(ModelError):
            processors.check_settings({"size": {"height": 10_000 + n, "width": [n] * 50}}, 1024)
    assert time.process_time() - started < 5


def test_other_folders_are_not_read(tmp_path: Path) -> None:
    """A processor file that leads out of the folder, or is none, is no file of the repository."""
    write_model(tmp_path / "repo", {"model_type": "vit"}, None, None)
    os.mkfifo(tmp_path / "repo" / "preprocessor_config.json")
    assert processors.for_transformers(tmp_path / "repo", VIT).source == "default"
