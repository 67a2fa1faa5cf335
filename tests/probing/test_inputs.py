"""What a model reads is what its own processor gives, whichever way it was kept."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from probing import inputs, processors
from probing.checks import ConfigFile
from probing.images import decode
from probing.processors import Processor
from tests.probing.conftest import PROCESSOR
from workspace import ModelError, Status, Workspace

EXACT = {"EfficientNetImageProcessor"}  # shifts by an offset: its float32 is kept
CLASSES = (
    "BeitImageProcessor", "BitImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor", "DeiTImageProcessor",
    "EfficientNetImageProcessor", "LevitImageProcessor", "MobileNetV1ImageProcessor", "MobileNetV2ImageProcessor",
    "MobileViTImageProcessor", "PerceiverImageProcessor", "PoolFormerImageProcessor", "PvtImageProcessor",
    "SiglipImageProcessor", "ViTImageProcessor", "ViTImageProcessorPil",
)  # fmt: skip


def _own(tmp_path: Path, settings: dict[str, Any]) -> Processor:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    return processors.for_transformers(tmp_path, SimpleNamespace(model_type="vit", num_channels=3))


def _images(workspace: Workspace) -> list[Any]:
    return [decode(value["bytes"]) for value in workspace.probes(["image"])["image"].to_pylist()]


def _prepare(workspace: Workspace, processor: Processor, **options: Any) -> inputs.Inputs:
    return inputs.prepare(workspace, workspace.probe_set, processor, **({"threads": 2, "max_edge": 512} | options))


@pytest.mark.parametrize("name", CLASSES)
def test_every_processor_class(name: str, tmp_path: Path, workspace: Workspace) -> None:
    from transformers import AutoImageProcessor

    edge = {"size": {"shortest_edge": 48}} if "ConvNext" in name or "MobileNet" in name else {}
    processor = _own(tmp_path, {"image_processor_type": name} | edge)
    assert processor.source == "repo"
    prepared = _prepare(workspace, processor)
    images = _images(workspace)
    own = AutoImageProcessor.from_pretrained(tmp_path)
    wanted = np.concatenate([own(images=i, return_tensors="np")["pixel_values"] for i in images[:6]])
    got = prepared.batch(np.arange(6, dtype=np.int32)).numpy()
    np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())
    assert prepared.pixels.dtype == (np.float32 if name in EXACT else np.uint8)


def test_timm_transforms(workspace: Workspace) -> None:
    from timm.data.transforms_factory import create_transform

    data = {"input_size": [3, 64, 64], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic",
            "crop_pct": 0.875}  # fmt: skip
    config = ConfigFile({"pretrained_cfg": data}, True, 3, None, "missing", "single_label_classification")
    processor = processors.for_timm(config, SimpleNamespace(pretrained_cfg={}))
    prepared = _prepare(workspace, processor)
    transform = create_transform(**(data | {"input_size": (3, 64, 64)}), is_training=False)
    wanted = np.stack([np.asarray(transform(i)) for i in _images(workspace)[:6]])
    np.testing.assert_allclose(prepared.batch(range(6)).numpy(), wanted, atol=1e-5)
    assert prepared.pixels.dtype == np.uint8
    assert processor.source == "timm"


def test_models_that_differ_in_mean_and_deviation_share_pixels(tmp_path: Path, workspace: Workspace) -> None:
    one = _prepare(workspace, _own(tmp_path, PROCESSOR))
    two = _prepare(workspace, _own(tmp_path, PROCESSOR | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    other = _prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": 3}))
    assert one.key == two.key != other.key
    assert not np.array_equal(one.batch([0]).numpy(), two.batch([0]).numpy())
    assert len(list((workspace.cache_dir / "inputs").glob("*/pixels"))) == 2


def test_pixels_are_made_once(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR)
    calls: list[int] = []

    def counted(image: Any) -> Any:
        calls.append(1)
        return processor.apply(image)

    for _ in range(3):
        _prepare(workspace, replace(processor, apply=counted))
    assert len(calls) <= 70 + 3 * 2, "the first two are compared each time: the last step is the processor's own"


def test_a_last_step_that_is_not_what_it_says_is_seen(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR)
    _prepare(workspace, processor)  # the pixels are there
    odd = replace(processor, apply=lambda image: processor.apply(image) ** 3, settings=processor.settings)
    prepared = _prepare(workspace, odd)
    assert prepared.pixels.dtype == np.float32
    np.testing.assert_array_equal(prepared.batch([0]).numpy()[0], odd.apply(_images(workspace)[0]))


@pytest.mark.parametrize(
    ("apply", "status"),
    [
        (lambda image: np.zeros((3, *image.size), np.float32), Status.PROCESSOR_ERROR),  # a shape of its own each
        (lambda image: np.zeros((5, 3, 8, 8), np.float32), Status.PROCESSOR_ERROR),  # patches
        (lambda image: np.zeros((3, 600, 8), np.float32), Status.IMAGE_TOO_LARGE),
    ],
)
def test_inputs_that_are_no_batch(tmp_path: Path, workspace: Workspace, apply: Any, status: Status) -> None:
    processor = replace(_own(tmp_path, PROCESSOR), apply=apply, affine=None)
    with pytest.raises(ModelError) as error:
        _prepare(workspace, processor)
    assert error.value.status is status
    assert not list((workspace.cache_dir / "inputs").glob("*/pixels")), "nothing half made is left"


def test_the_cache_is_bounded(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "MAX_CACHE_BYTES", 2 * 70 * 3 * 32 * 32 + 1)
    made = [_prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": r})) for r in (0, 2, 3)]
    kept = {p.parent.name for p in (workspace.cache_dir / "inputs").glob("*/pixels")}
    assert len(kept) == 2
    assert made[2].key in kept
    assert made[0].batch([0]).shape == (1, 3, 32, 32), "what is in use stays readable"


def test_one_channel_and_the_default_of_a_family(tmp_path: Path, workspace: Workspace) -> None:
    from transformers import ViTConfig

    gray = PROCESSOR | {"image_mean": [0.5], "image_std": [0.5]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(gray))
    processor = processors.for_transformers(tmp_path, SimpleNamespace(model_type="vit", num_channels=1))
    assert _prepare(workspace, processor).batch([0]).shape == (1, 1, 32, 32)
    (tmp_path / "empty").mkdir()
    default = processors.for_transformers(tmp_path / "empty", ViTConfig(image_size=40))
    assert (default.source, default.name) == ("default", "ViTImageProcessor")
    assert _prepare(workspace, default).batch([0]).shape == (1, 3, 40, 40)
    from transformers import BertConfig

    with pytest.raises(ModelError, match="no default"):
        processors.for_transformers(tmp_path / "empty", BertConfig())
