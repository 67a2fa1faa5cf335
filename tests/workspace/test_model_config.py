"""Configs as strangers write them: outputs, labels, sizes and timm's forms, read as the libraries read them."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from workspace import LabelQuality, ModelError, Status, model_config
from workspace.architectures import Architectures
from workspace.config import CrawlConfig
from workspace.model_config import (
    MAX_DEPTH,
    TIMM_DEFAULTS,
    ModelConfig,
    is_timm,
    longest,
    parse_config,
    read_config,
)
from workspace.model_labels import from_id2label, from_names, imagenet_names, quality
from workspace.model_options import TIMM_OPTIONS, timm_options, transformers_options
from workspace.model_rules import MAX_LAYERS, refusal

KNOWN = Architectures.of(
    {
        "classifiers": {"vit": ["ViTForImageClassification"], "clip": ["CLIPForImageClassification"]},
        "zero_shot": {},
        "model_types": ["vit", "clip"],
        "timm": ["resnet50", "vit_tiny"],
    }
)
VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}
CLIP = {"model_type": "clip", "architectures": ["CLIPForImageClassification"]}
TIMM = {"architecture": "resnet50", "num_classes": 3}
SIZED = {"input_size": [3, 224, 224]}


def parsed(**config: Any) -> ModelConfig:
    return parse_config(json.dumps(config).encode(), 1_000_000)


def refused(**config: Any) -> Status | None:
    verdict = refusal(parsed(**config), CrawlConfig(), KNOWN)
    return verdict.status if verdict else None


# ── labels ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("id2label", "names", "fits"),
    [
        ({"0": "cat", "1": "dog"}, ("cat", "dog"), True),
        ({"1": "dog", "0": "cat"}, ("cat", "dog"), True),
        ({"01": "dog", " 0 ": "cat"}, ("cat", "dog"), True),
        ({"0": "cat", "1": 7, "2": True}, ("cat", "7", "True"), True),
        ({"0": "cat", "1": None, "2": {"name": "dog"}, "3": ["x"]}, ("cat", None, None, None), True),
        ({"1": "cat", "2": "dog"}, ("cat", "dog"), False),
        ({"0": "cat", "2": "dog"}, ("cat", None), False),
        ({"0": "cat", "2": "odd", "x": "odd"}, ("cat", None, "odd"), False),
        ({"cat": "0", "dog": "1"}, (None, None), False),
        ({"-1": "cat", "0": "dog"}, ("dog", None), False),
        ({"9" * 40: "cat"}, (None,), False),
        (["cat", "dog", None], ("cat", "dog", None), True),
        ([], None, True),
        ("cat", None, True),
        (None, None, True),
    ],
)
def test_labels_are_ordered_by_index(id2label: Any, names: Any, fits: bool) -> None:
    found = from_id2label(id2label, 100)
    assert (found.names, found.fits) == (names, fits)
    if names is not None:
        assert found.count == len(names)


@pytest.mark.parametrize(
    ("names", "descriptions", "expected"),
    [
        (["cat", "dog"], None, ("cat", "dog")),
        ({"0": "cat", "1": "dog"}, None, ("cat", "dog")),
        (["n01", "n02"], {"n01": "tench", "n02": "goldfish"}, ("tench", "goldfish")),
        (["n01", "n02"], {"n01": "tench", "n02": 7}, ("tench", "n02")),
        (["n01", "n02"], ["tench", "goldfish"], ("tench", "goldfish")),
        (["n01", "n02"], ["tench"], ("n01", "n02")),
        ("cat", None, None),
        (7, None, None),
    ],
)
def test_names_of_timm_are_described(names: Any, descriptions: Any, expected: Any) -> None:
    assert from_names(names, descriptions, 100).names == expected


@pytest.mark.parametrize(
    ("labels", "fits", "expected"),
    [
        (["cat", "dog"], True, LabelQuality.NAMED),
        (["cat", "dog"], False, LabelQuality.INFERRED),
        (["LABEL_0", "dog"], True, LabelQuality.NAMED),
        (["LABEL_0", "LABEL_1"], True, LabelQuality.LABEL_I),
        (["label 0", "class_1"], True, LabelQuality.LABEL_I),
        (["0", "1.0", "-3"], True, LabelQuality.NUMERIC),
        (["", None], True, LabelQuality.MISSING),
        ([], True, LabelQuality.MISSING),
    ],
)
def test_label_quality(labels: list[str | None], fits: bool, expected: LabelQuality) -> None:
    assert quality(labels, fits=fits) is expected


@pytest.mark.parametrize(
    ("config", "count", "labels", "expected"),
    [
        ({"id2label": {"0": "cat", "1": "dog"}}, 2, ("cat", "dog"), LabelQuality.NAMED),
        ({"id2label": {"1": "cat", "2": "dog"}}, 2, ("cat", "dog"), LabelQuality.INFERRED),
        ({"id2label": {"0": "cat", "00": "dog"}, "num_labels": None}, 1, ("dog",), LabelQuality.NAMED),
        ({"id2label": {"0": "cat"}, "num_labels": 3}, 3, ("cat", None, None), LabelQuality.INFERRED),
        ({"id2label": ["cat", "dog"]}, 2, ("cat", "dog"), LabelQuality.NAMED),
        ({"id2label": {}}, 0, None, LabelQuality.MISSING),
        ({"id2label": {}, "num_labels": 4}, 4, None, LabelQuality.MISSING),
        ({"id2label": None, "num_labels": 4}, 4, None, LabelQuality.MISSING),
        ({"_num_labels": 5}, 5, None, LabelQuality.MISSING),
        ({"_num_labels": 5, "id2label": {"0": "a", "1": "b"}}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"num_labels": True}, 2, None, LabelQuality.MISSING),
        ({"num_labels": -1}, 2, None, LabelQuality.MISSING),
        ({"num_labels": "3"}, 2, None, LabelQuality.MISSING),
        ({}, 2, None, LabelQuality.MISSING),
    ],
)
def test_outputs_of_transformers(config: dict[str, Any], count: int, labels: Any, expected: LabelQuality) -> None:
    read = parsed(**VIT, **config)
    assert (read.num_labels, read.labels, read.label_quality) == (count, labels, expected)


@pytest.mark.parametrize(
    ("config", "count", "labels", "expected"),
    [
        ({"num_classes": 2, "label_names": ["a", "b"]}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"pretrained_cfg": {"num_classes": 2, "label_names": ["a", "b"]}}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"num_classes": 2, "labels": ["a", "b"]}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"num_classes": 3, "label_names": ["a", "b"]}, 3, ("a", "b", None), LabelQuality.INFERRED),
        ({"num_classes": 1, "label_names": ["a", "b"]}, 1, ("a",), LabelQuality.INFERRED),
        ({"num_classes": 2, "label_names": {"0": "a", "1": "b"}}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"num_classes": 2, "id2label": {"0": "a", "1": "b"}}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"num_classes": 2}, 2, None, LabelQuality.MISSING),
        ({"num_classes": None}, 1000, None, LabelQuality.GUESSED_BY_COUNT),
        ({"pretrained_cfg": {"tag": 1}}, 1000, None, LabelQuality.GUESSED_BY_COUNT),
        ({"model_type": "timm_wrapper", "id2label": {"0": "a", "1": "b"}}, 2, ("a", "b"), LabelQuality.NAMED),
        ({"model_type": "timm_wrapper", "num_labels": 4}, 4, None, LabelQuality.MISSING),
        ({"model_type": "vit", "pretrained_cfg": {"num_classes": 2}}, 2, None, LabelQuality.MISSING),
    ],
)
def test_outputs_of_timm(config: dict[str, Any], count: int, labels: Any, expected: LabelQuality) -> None:
    read = parsed(architecture="resnet50", **config)
    assert read.kind == "timm"
    assert (read.num_labels, read.labels, read.label_quality) == (count, labels, expected)


@pytest.mark.parametrize(
    ("tag", "architecture", "datasets", "inferred"),
    [
        ("a1_in1k", "resnet50", (), True),
        ("augreg_in21k_ft_in1k_384", "resnet50", (), True),
        ("", "resnet50.a1_in1k", (), True),
        ("", "resnet50", ("imagenet-1k",), True),
        ("", "resnet50", ("timm/imagenet-1k-wds",), True),
        ("augreg_in21k", "resnet50", ("imagenet-1k",), False),
        ("mine", "resnet50", ("cifar10",), False),
        ("", "resnet50", (), False),
    ],
)
def test_imagenet_is_inferred_from_a_second_sign(tag: str, architecture: str, datasets: Any, inferred: bool) -> None:
    raw = json.dumps({"architecture": architecture, "pretrained_cfg": {"num_classes": 1000, "tag": tag}}).encode()
    read = parse_config(raw, 1000, datasets)
    assert read.label_quality is (LabelQuality.INFERRED if inferred else LabelQuality.GUESSED_BY_COUNT)
    assert (read.labels is not None) == inferred
    if read.labels is not None:
        assert (len(read.labels), read.labels[0]) == (1000, "tench, Tinca tinca")


def test_class_names_are_timms_own() -> None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    tags = {1000: "in1k", 11221: "miil_in21k", 11821: "in12k", 21841: "fb_in22k", 21842: "ms_in22k", 21843: "in21k"}
    for outputs, tag in tags.items():
        info = ImageNetInfo(infer_imagenet_subset({"num_classes": outputs}))
        assert imagenet_names(outputs, tag) == tuple(info.label_descriptions())


# ── timm's forms ────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "config",
    [
        TIMM,
        TIMM | {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "input_size": [3, 64, 64], "interpolation": "bilinear"},
        TIMM | {"pretrained_cfg": {}},
        TIMM | {"pretrained_cfg": {"mean": [0.5] * 3, "num_classes": 9}},
        {"architecture": "resnet50", "pretrained_cfg": {"num_classes": 9, "crop_pct": 1.0, "tag": "x"}},
        TIMM | {"pretrained_cfg": {"fixed_input_size": True} | SIZED, "model_args": {"img_size": 96}},
        TIMM | {"pretrained_cfg": {"fixed_input_size": True} | SIZED, "model_args": {"img_size": [96, 64]}},
        TIMM | {"pretrained_cfg": {"fixed_input_size": False}, "model_args": {"img_size": 96}},
        TIMM | {"pretrained_cfg": {"fixed_input_size": True}, "model_args": {"dynamic_img_size": True}},
        TIMM | {"pretrained_cfg": {"test_input_size": [3, 288, 288]}, "model_args": {"in_chans": 1}},
        TIMM | {"pretrained_cfg": {"mean": None, "interpolation": None}},
    ],
)
def test_pretrained_cfg_is_completed_as_timm_does(config: dict[str, Any]) -> None:
    from timm.models import PretrainedCfg, _hub

    source = {"architecture": "x", "pretrained_cfg": {"input_size": (3, 8, 8)}, "model_args": {"in_chans": 1}}
    if "model_args" in config and _hub._parse_model_cfg(source, {})[0]["input_size"][0] == 3:
        pytest.skip("this timm leaves older exports as they are: it has repaired them since 1.0.31, as we always do")
    theirs, name, _ = _hub._parse_model_cfg(json.loads(json.dumps(config)), {})
    complete = PretrainedCfg(**theirs).to_dict()
    read = parsed(**config)
    assert read.architectures == (name,)
    for key in (*TIMM_DEFAULTS, "test_input_size", "tag"):
        ours, wanted = read.pretrained.get(key), complete.get(key)
        assert (list(ours) if isinstance(ours, (list, tuple)) else ours) == (
            list(wanted) if isinstance(wanted, (list, tuple)) else wanted
        ) or (wanted is None and key in TIMM_DEFAULTS), key


def test_what_is_assumed_is_told_from_what_is_stated() -> None:
    read = parsed(
        **TIMM, pretrained_cfg={"mean": [0.5] * 3, "url": "http://x", "file": "/etc/passwd", "custom_load": 1}
    )
    assert read.stated == {"mean", "num_classes"}
    assert not {"url", "file", "custom_load"} & set(read.pretrained)


@pytest.mark.parametrize(
    "settings",
    [
        {"input_size": 224}, {"input_size": [3, 224]}, {"input_size": [3, 0, 4]}, {"mean": "x"}, {"mean": []},
        {"std": {"a": 1}}, {"interpolation": 3}, {"crop_pct": "all"}, {"num_classes": "ten"}, {"num_classes": -1},
        {"fixed_input_size": "yes"}, {"classifier": [1]}, {"label_offset": "x"},
    ],
)  # fmt: skip
def test_settings_of_another_kind_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        parsed(architecture="resnet50", pretrained_cfg=settings)
    assert caught.value.status is Status.MALFORMED_CONFIG


# ── JSON ────────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[1]", b'"x"', b"\xff\xfe{}", b"[" * 100_000, b"nul", b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * 51],
)
def test_what_is_no_config_is_malformed(raw: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        parse_config(raw, 100)
    assert caught.value.status is Status.MALFORMED_CONFIG


@pytest.mark.parametrize("number", ["1e400", "-1e400", "NaN", "9" * 5000, "-" + "9" * 5000, "true", "1.5", '"\\ud800"'])
@pytest.mark.parametrize("key", ["num_labels", "image_size", "hidden_size", "num_hidden_layers", "problem_type"])
def test_odd_numbers_are_read(key: str, number: str) -> None:
    raw = json.dumps(VIT)[:-1].encode() + f', "{key}": {number}}}'.encode()
    read = parse_config(raw, 100)
    assert 0 <= read.num_labels < 2**31
    assert read.image_size is None or 0 < read.image_size < 2**31
    refusal(read, CrawlConfig(), KNOWN)


def test_a_byte_order_mark_is_no_fault() -> None:
    assert parse_config(b"\xef\xbb\xbf" + json.dumps(VIT).encode(), 9).kind == "transformers"


# ── rules at every level ────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("config", "status"),
    [
        (VIT | {"num_hidden_layers": MAX_LAYERS + 1}, Status.TOO_MANY_PARAMETERS),
        (VIT | {"num_hidden_layers": 1e400}, Status.TOO_MANY_PARAMETERS),
        (CLIP | {"vision_config": {"num_hidden_layers": 3000}}, Status.TOO_MANY_PARAMETERS),
        (CLIP | {"vision_config": {"depths": [1000, 1000]}}, Status.TOO_MANY_PARAMETERS),
        (CLIP | {"vision_config": {"hidden_size": 10**6}}, Status.TOO_MANY_PARAMETERS),
        (CLIP | {"vision_config": {"image_size": 5000}}, Status.IMAGE_TOO_LARGE),
        (CLIP | {"text_config": {"num_labels": 10**7}}, Status.TOO_MANY_LABELS),
        (CLIP | {"parts": [{"num_layers": 10**6}]}, Status.TOO_MANY_PARAMETERS),
        (VIT | {"id2label": {"0": "a", "1": "b", "2": "c"}, "num_labels": 10**7}, Status.TOO_MANY_LABELS),
        (VIT | {"hidden_sizes": [8] * 2000}, Status.TOO_MANY_PARAMETERS),
        (VIT | {"image_size": {"height": 224, "width": 4096}}, Status.IMAGE_TOO_LARGE),
        (TIMM | {"model_args": {"layers": [100_000, 1, 1, 1]}}, Status.TOO_MANY_PARAMETERS),
        (TIMM | {"model_args": {"depth": 3000}}, Status.TOO_MANY_PARAMETERS),
        (TIMM | {"model_args": {"depths": [3000]}}, Status.TOO_MANY_PARAMETERS),
        (TIMM | {"model_args": {"img_size": 4096}}, Status.IMAGE_TOO_LARGE),
        (TIMM | {"model_args": {"img_size": [224, 10**9]}}, Status.IMAGE_TOO_LARGE),
        (TIMM | {"model_args": {"embed_dim": 10**9}}, Status.TOO_MANY_PARAMETERS),
        (TIMM | {"model_args": {"depths": [3, 4, 6, 3]}}, None),
        (VIT | {"id2label": {"0": "a"}}, Status.REGRESSION),
        (TIMM | {"num_classes": 1}, Status.REGRESSION),
        (VIT | {"id2label": {"0": "a"}, "problem_type": "multi_label_classification"}, None),
        (VIT | {"id2label": {"0": "a"}, "problem_type": "single_label_classification"}, Status.MALFORMED_CONFIG),
        (VIT | {"auto_map": {}}, None),
        (VIT | {"auto_map": {"AutoTokenizer": ["x.Y", None], "AutoImageProcessor": "x.Y"}}, None),
        (VIT | {"auto_map": {"AutoModel": "x.Y"}}, Status.CUSTOM_CODE),
        (VIT | {"quantization_config": {}}, None),
        (VIT | {"quantization_config": None}, None),
        (TIMM | {"quantization_config": {"bits": 4}}, Status.QUANTISED),
    ],
)
def test_caps_and_rules_look_at_every_level(config: dict[str, Any], status: Status | None) -> None:
    assert refused(**config) is status


# ── what reaches a library ──────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ({"img_size": 64, "depths": [1, 2], "act_layer": "gelu", "class_token": True}, None),
        ({"drop_rate": None}, {}),
        ({"checkpoint_path": "/etc/passwd", "pretrained": True, "pretrained_strict": False, "cache_dir": "x"}, {}),
        ({"pretrained_cfg": {"file": "x"}, "pretrained_cfg_overlay": {"url": "x"}, "hf_hub_id": "a/b"}, {}),
        ({"features_only": True, "out_indices": [1], "scriptable": True, "exportable": True, "no_jit": True}, {}),
        ({"file": "x", "url": "x", "state_dict": {}, "custom_load": True, "source": "hf-hub", "num_classes": 7}, {}),
    ],
)
def test_options_of_timm(arguments: dict[str, Any], kept: dict[str, Any] | None) -> None:
    assert timm_options(parsed(**TIMM, model_args=arguments)) == (arguments if kept is None else kept)


@pytest.mark.parametrize(
    "arguments",
    [
        {"block_fn": "x"}, {"cfg": {"a": 1}}, {"foo": 1}, {"norm_layer": "a/b"}, {"act_layer": "../x"},
        {"depths": [[[[1]]]]}, {"depths": {"a": 1}}, {"embed_dim": 2**40}, {"depths": [0] * 1001},
    ],
)  # fmt: skip
def test_other_arguments_refuse_the_model(arguments: dict[str, Any]) -> None:
    with pytest.raises(ModelError) as caught:
        timm_options(parsed(**TIMM, model_args=arguments))
    assert caught.value.status is Status.MALFORMED_CONFIG
    assert next(iter(arguments)) in caught.value.reason


def test_no_option_is_an_argument_of_timms_loaders() -> None:
    import timm
    from timm.models import build_model_with_cfg, load_pretrained

    for function in (timm.create_model, build_model_with_cfg, load_pretrained):
        assert TIMM_OPTIONS & set(inspect.signature(function).parameters) <= {"in_chans"}
    assert not TIMM_OPTIONS & {"pruned", "features_only", "feature_cls", "num_classes"}


def test_settings_of_transformers() -> None:
    known = {"": {"hidden_size", "hidden_act", "backbone", "dtype", "vision_config"}, "vision_config": {"depth", "_x"}}
    evil = {"backbone": "a/b", "dtype": "load", "attn_implementation": "a/b", "transformers_weights": "../x"}
    nested = {"depth": 2, "_x": 1, "other": 3, "attn_implementation": "a/b"}
    read = parsed(**VIT, hidden_size=8, hidden_act="gelu", vision_config=nested, **evil)
    kept = transformers_options(read, known)
    assert kept == {"hidden_size": 8, "hidden_act": "gelu", "vision_config": {"depth": 2}}
    for odd in ({"hidden_act": "a/b"}, {"hidden_size": [[[[1]]]]}, {"hidden_size": {"/": 1}}, {"vision_config": 3}):
        with pytest.raises(ModelError):
            transformers_options(parsed(**VIT, **odd), known)


@pytest.mark.parametrize("many", [{f"k{i}": 0 for i in range(500_000)}, {"x": [{}] * 500_000}])
def test_more_settings_than_are_looked_through_are_refused(many: dict[str, Any]) -> None:
    assert refused(**VIT, **many) is Status.MALFORMED_CONFIG


def test_labels_under_other_names_are_no_settings_too_many() -> None:
    assert refused(**VIT, names={f"label {i}": i for i in range(200_000)}) is None


@pytest.mark.parametrize(
    ("name", "fits", "others"),
    [
        ("input_size", [[1, 1, 1], [3, 224, 64]], [[3, 224], [3, 0, 4], [3, 4, -1], [3, 4.0, 4], [3, 4, 4, 4], "3"]),
        ("pool_size", [[], [7, 7], [1, 2, 3]], [[1, 2, 3, 4], [7, 7.0], 7, "7"]),
        ("crop_pct", [0, 0.5, -1, 3], [True, "1", [1]]),
        ("mean", [0.5, [0.5], [0.5] * 100], [[], [0.5] * 101, [0.5, "x"], [True]]),
        ("crop_mode", ["", "x" * 200], ["x" * 201, 1, ["x"]]),
        ("first_conv", ["a", [], ["a"] * 20], [["a"] * 21, ["a", 1], ["x" * 201], 1]),
        ("fixed_input_size", [True, False], [0, 1, "true"]),
        ("label_offset", [0, 1, 2**31 - 1], [-1, 2**31, 1.0, True]),
    ],
)
def test_a_setting_is_kept_up_to_its_edges_and_refused_beyond(name: str, fits: list[Any], others: list[Any]) -> None:
    for value in fits:
        read = parsed(architecture="resnet50", pretrained_cfg={name: value, "num_classes": 7})
        assert (read.pretrained[name], name in read.stated) == (value, True)
    for value in others:
        with pytest.raises(ModelError, match=f"its {name} is not"):
            parsed(architecture="resnet50", pretrained_cfg={name: value})
    assert name not in parsed(architecture="resnet50", pretrained_cfg={name: None}).stated
    assert "tag" not in parsed(architecture="resnet50", pretrained_cfg={"tag": "x" * 201}).pretrained


@pytest.mark.parametrize(
    ("size", "edge"),
    [
        (224, 224), (1, 1), (0, None), (-5, None), (224.7, 224), (2**31 - 1, 2**31 - 1), (10**12, 2**31 - 1),
        ([64, 96], 96), ([96, 64], 96), ({"height": 64, "width": 96}, 96), ({"shortest_edge": 48}, 48), ([], None),
        ([True, "7", None, 5], 5), ([1] * 8 + [9], 1), ([1] * 7 + [9], 9), ("224", None), (None, None), (True, None),
    ],
)  # fmt: skip
def test_the_longest_edge_of_a_size(size: Any, edge: int | None) -> None:
    assert longest(size) == edge
    if size is not None:
        assert parsed(**VIT, image_size=size).image_size == edge


@pytest.mark.parametrize(
    ("arguments", "sizes", "fixed"),
    [
        ({"in_chans": 1}, [1, 8, 9], True), ({"in_chans": 0}, [3, 8, 9], True), ({"in_chans": True}, [3, 8, 9], True),
        ({"in_chans": 4, "img_size": 16}, [4, 16, 16], True), ({"img_size": [16, 12]}, [3, 16, 12], True),
        ({"img_size": [16, 0]}, [3, 8, 9], True), ({"img_size": [16]}, [3, 8, 9], True),
        ({"img_size": 16, "dynamic_img_size": True}, [3, 8, 9], False), ({"use_naflex": True}, [3, 8, 9], False),
        ({"strict_img_size": False}, [3, 8, 9], False), ({"strict_img_size": None}, [3, 8, 9], True),
        ({"strict_img_size": True}, [3, 8, 9], True),
    ],
)  # fmt: skip
def test_a_saved_models_arguments_repair_its_sizes(arguments: dict[str, Any], sizes: list[int], fixed: bool) -> None:
    settings = {"input_size": [3, 8, 9], "test_input_size": [3, 10, 11], "fixed_input_size": True, "num_classes": 7}
    read = parsed(architecture="resnet50", pretrained_cfg=settings, model_args=arguments)
    assert read.pretrained["input_size"] == sizes
    assert read.pretrained["test_input_size"] == [sizes[0], 10, 11]
    assert read.pretrained["fixed_input_size"] is fixed
    assert read.image_size == max(sizes[1:])


@pytest.mark.parametrize(
    ("config", "timm"),
    [
        ({"model_type": "timm_wrapper"}, True),
        ({"architecture": "resnet50"}, True),
        ({"architecture": 3}, False),
        ({"architecture": "resnet50", "model_type": "vit"}, False),
        ({"model_type": "vit"}, False),
        ({}, False),
        ({"architecture": "resnet50", "model_type": "vit", "pretrained_cfg": {}}, True),
        ({"architecture": "resnet50", "model_type": "vit", "pretrained_cfg": []}, False),
        ({"architecture": "resnet50", "model_type": "vit", "num_classes": 3}, True),
        ({"architecture": "resnet50", "model_type": "vit", "num_classes": 3, "architectures": ["X"]}, False),
    ],
)
def test_which_library_a_config_is_for(config: dict[str, Any], timm: bool) -> None:
    assert is_timm(config) is timm


def test_what_is_too_deep_too_long_or_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nested = b'{"a":' * (MAX_DEPTH - 1) + b"[]" + b"}" * (MAX_DEPTH - 1)
    assert parse_config(nested, 9).kind == ""
    with pytest.raises(ModelError, match="levels"):
        parse_config(nested.replace(b"[]", b"[[]]"), 9)
    path = tmp_path / "config.json"
    with pytest.raises(ModelError) as caught:
        read_config(path, 9)
    assert caught.value.status is Status.NO_CONFIG
    whole = json.dumps(VIT).encode()
    path.write_bytes(whole)
    monkeypatch.setattr(model_config, "MAX_CONFIG", len(whole))
    assert read_config(path, 9).kind == "transformers"
    path.write_bytes(whole + b" ")
    with pytest.raises(ModelError, match="more than"):
        read_config(path, 9)


@pytest.mark.parametrize("most", [1, 4, 5, 6, 9])
@pytest.mark.parametrize("kind", [VIT, {"architecture": "resnet50"}])
def test_one_label_more_than_allowed_is_kept_at_most(kind: dict[str, Any], most: int) -> None:
    names = [f"thing {i}" for i in range(6)]
    config = kind | {"id2label": {str(i): name for i, name in enumerate(names)}, "num_labels": 6, "num_classes": 6}
    read = parse_config(json.dumps(config).encode(), most)
    assert read.labels == tuple(names[: most + 1])
    assert read.num_labels == 6
