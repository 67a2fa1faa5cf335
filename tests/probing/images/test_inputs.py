"""What a model reads is what its own processor gives, whichever way it was kept."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from probing.images import cache, inputs, processors
from probing.images import pictures as pictures_module
from probing.images.processors import Processor
from tests.probing.conftest import PROCESSOR
from workspace import ModelError, Status, Workspace
from workspace.images import read_image
from workspace.model_config import parse_config

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
    return [read_image(value["bytes"]) for value in workspace.probes(["image"])["image"].to_pylist()]


def _pictures(workspace: Workspace) -> list[Any]:
    return [np.asarray(image).transpose(2, 0, 1).copy() for image in _images(workspace)]


def _alone(processor: Processor, workspace: Workspace) -> Any:
    return np.stack([processor.apply([picture])[0] for picture in _pictures(workspace)])


def _kept(workspace: Workspace) -> set[str]:
    names = {p.parent.name for p in (workspace.cache_dir / "inputs").glob("*/pixels")}
    return {name for name in names if not name.startswith("decoded-")}


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
    _assert_the_bits_of_one_by_one(processor, prepared, workspace)


def _assert_the_bits_of_one_by_one(processor: Processor, prepared: inputs.Inputs, workspace: Workspace) -> None:
    """Lists, and pixels asked for, give what one image at a time through the whole processor gives."""
    alone = _alone(processor, workspace)
    if prepared.affine is not None:
        shift, scale = (
            np.asarray(v, np.float32)[:, None, None] for v in (prepared.affine.shift, prepared.affine.scale)
        )
        alone = np.rint(alone * scale + shift).astype(np.uint8)
    np.testing.assert_array_equal(prepared.pixels, alone)


def test_timm_transforms(workspace: Workspace) -> None:
    from timm.data.transforms_factory import create_transform

    data = {"input_size": [3, 64, 64], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "interpolation": "bicubic",
            "crop_pct": 0.875}  # fmt: skip
    config = parse_config(json.dumps({"architecture": "resnet18", "pretrained_cfg": data}).encode(), 10)
    processor = processors.for_timm(config, SimpleNamespace(pretrained_cfg={}))
    prepared = _prepare(workspace, processor)
    transform = create_transform(**(data | {"input_size": (3, 64, 64)}), is_training=False)
    wanted = np.stack([np.asarray(transform(i)) for i in _images(workspace)[:6]])
    np.testing.assert_allclose(prepared.batch(range(6)).numpy(), wanted, atol=1e-5)
    assert prepared.pixels.dtype == np.uint8
    assert processor.source == "timm"
    assert processor.pixels is not None, "the transforms end in scaling, so the rest can be asked for"
    _assert_the_bits_of_one_by_one(processor, prepared, workspace)


def test_models_that_differ_in_mean_and_deviation_share_pixels(tmp_path: Path, workspace: Workspace) -> None:
    one = _prepare(workspace, _own(tmp_path, PROCESSOR))
    two = _prepare(workspace, _own(tmp_path, PROCESSOR | {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    other = _prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": 3}))
    assert one.key == two.key != other.key
    assert not np.array_equal(one.batch([0]).numpy(), two.batch([0]).numpy())
    assert len(_kept(workspace)) == 2


def test_pixels_are_made_once(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR)
    calls: list[int] = []

    def counted(pictures: Any) -> Any:
        calls.extend(pictures)
        return processor.apply(pictures)

    for _ in range(3):
        _prepare(workspace, replace(processor, apply=counted, pixels=None))
    first = inputs.CHECKED + inputs.GROUP  # compared: alone, and in a list
    assert len(calls) <= 70 + first + 3 * 2, "two are compared each time: the last step is the processor's own"
    calls.clear()
    _prepare(workspace, replace(processor, apply=counted, settings=processor.settings | {"resample": 3}))
    assert len(calls) <= inputs.CHECKED + 3 + 2, "the processor is asked for its pixels; one of each list is compared"


def test_a_last_step_that_is_not_what_it_says_is_seen(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR)
    _prepare(workspace, processor)  # the pixels are there
    odd = replace(processor, apply=lambda pictures: [a**3 for a in processor.apply(pictures)])
    prepared = _prepare(workspace, odd)
    assert prepared.pixels.dtype == np.float32
    np.testing.assert_array_equal(prepared.batch([0]).numpy()[0], odd.apply(_pictures(workspace)[:1])[0])


def test_pixels_that_are_not_those_of_the_output_are_worked_out_from_it(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR)

    def wrong(pictures: Any) -> Any:
        return [255 - array for array in processor.pixels(pictures)]  # type: ignore[misc]

    def broken(pictures: Any) -> Any:
        raise TypeError("no such argument")

    wanted = _prepare(workspace, processor)
    for i, pixels in enumerate((wrong, broken)):
        asked = replace(processor, pixels=pixels, settings=processor.settings | {"again": i})
        got = _prepare(workspace, asked)
        assert got.key != wanted.key
        np.testing.assert_array_equal(got.pixels, wanted.pixels)


def test_a_list_that_changes_its_members_is_given_one_by_one(tmp_path: Path, workspace: Workspace) -> None:
    processor = _own(tmp_path, PROCESSOR | {"do_pad": True})
    assert processor.alone, "padded to the largest of the list"
    plain = _own(tmp_path, PROCESSOR)

    def mixed(pictures: Any) -> Any:
        made = plain.apply(pictures)
        return [array + sum(a.mean() for a in made) * (len(made) > 1) for array in made]

    odd = replace(plain, apply=mixed, pixels=None, affine=None)
    prepared = _prepare(workspace, odd)
    np.testing.assert_array_equal(prepared.batch(range(70)).numpy(), _alone(plain, workspace))


def test_probes_are_decoded_once(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(encoded: bytes, name: str) -> Any:
        calls.append(1)
        return read_image(encoded, name)

    monkeypatch.setattr(pictures_module, "read_image", counted)
    kept = [_prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": r})).pixels for r in (0, 2)]
    assert len(calls) == 70
    shutil.rmtree(workspace.cache_dir)
    monkeypatch.setattr(pictures_module, "MAX_DECODED_BYTES", 0)
    again = [_prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": r})).pixels for r in (0, 2)]
    assert len(calls) > 3 * 70
    assert not list((workspace.cache_dir / "inputs").glob("decoded-*"))
    for one, other in zip(kept, again, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("apply", "status"),
    [
        (lambda picture: np.zeros((5, 3, 8, 8), np.float32), Status.PROCESSOR_ERROR),  # patches
        (lambda picture: np.zeros((3, 600, 8), np.float32), Status.IMAGE_TOO_LARGE),
    ],
)
def test_inputs_that_are_no_batch(tmp_path: Path, workspace: Workspace, apply: Any, status: Status) -> None:
    each = lambda pictures: [apply(picture) for picture in pictures]  # noqa: E731
    processor = replace(_own(tmp_path, PROCESSOR), apply=each, affine=None)
    with pytest.raises(ModelError) as error:
        _prepare(workspace, processor)
    assert error.value.status is status
    assert len(list((workspace.cache_dir / "inputs").glob("*/pixels"))) == 1, "decoded; nothing half made is left"


def test_the_cache_is_bounded(tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = sum(array.size for array in _pictures(workspace))
    monkeypatch.setattr(cache, "MAX_CACHE_BYTES", decoded + 2 * 70 * 3 * 32 * 32 + 1)
    made = [_prepare(workspace, _own(tmp_path, PROCESSOR | {"resample": r})) for r in (0, 2, 3)]
    kept = _kept(workspace)
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


def test_what_is_made_beside_the_images_is_bounded(tmp_path: Path, workspace: Workspace) -> None:
    asked = []

    def masks(_picture: Any) -> dict[str, Any]:
        asked.append(1)
        return {"pixel_mask": np.zeros((2048, 2048), np.int64)}  # 32 MB for each of 70 probes

    processor = replace(_own(tmp_path, PROCESSOR), others=masks)
    with pytest.raises(ModelError, match="bytes beside each image: pixel_mask") as refused:
        _prepare(workspace, processor)
    assert refused.value.status is Status.PROCESSOR_ERROR
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("settings", "assumed"),
    [
        (PROCESSOR, ""),
        ({k: v for k, v in PROCESSOR.items() if k != "size"}, "ViTImageProcessor's own size"),
        ({"image_processor_type": "ViTFeatureExtractor", "size": 32, "do_normalize": False},
         "ViTImageProcessor's own resample"),
        ({k: v for k, v in PROCESSOR.items() if k != "image_processor_type"},
         "ViTImageProcessor, as transformers pairs it with its architecture"),
        ({"image_processor_type": "CLIPImageProcessor"},
         "CLIPImageProcessor's own size, resample, crop_size, image_mean, image_std"),
        (None, "ViTImageProcessor, as transformers pairs it with its architecture; at 40 x 40 pixels"),
    ],
)  # fmt: skip
def test_what_the_repository_does_not_say_is_named(tmp_path: Path, settings: Any, assumed: str) -> None:
    if settings is not None:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    config = SimpleNamespace(model_type="vit", num_channels=3, image_size=40)
    assert processors.for_transformers(tmp_path, config).assumed == assumed
