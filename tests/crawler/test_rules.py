"""The rules and what they read: configs, labels, headers and heads, as strangers write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from crawler.decide.rules import (
    CONFIG_RULES,
    LIST_RULES,
    STAGES,
    WEIGHTS_RULES,
    Facts,
    Head,
    find_head,
    first_refusal,
    is_safe_path,
    may_be_converted,
)
from crawler.listing.rows import File, Listed
from workspace import CrawlConfig, ModelError, Status
from workspace.architectures import Architectures
from workspace.model_config import parse_config
from workspace.safetensors_header import MAX_HEADER, Header, Tensor, header_length, parse_header

KNOWN = Architectures.of(
    {
        "classifiers": {"vit": ["ViTForImageClassification"], "clip": ["CLIPForImageClassification"]},
        "zero_shot": {"clip": ["CLIPModel"], "align": ["AlignModel"]},
        "model_types": ["vit", "clip", "bert", "align"],
        "timm": ["resnet50", "vit_tiny"],
    }
)


def listing(*paths: str, **changes: Any) -> Status | None:
    names = paths or ("config.json", "model.safetensors")
    listed = Listed("a/b", "0" * 40, gated="false", files=tuple(File(name) for name in names), **changes)
    verdict = first_refusal(LIST_RULES, Facts(listed, CrawlConfig(excluded_licenses=("gpl",), opt_out=("Shy",))))
    return verdict.status if verdict else None


def configured(**config: Any) -> Status | None:
    parsed = parse_config(json.dumps(config).encode(), 200_000)
    verdict = first_refusal(CONFIG_RULES, Facts(Listed("a/b", "0" * 40), CrawlConfig(), KNOWN, parsed))
    return verdict.status if verdict else None


@pytest.mark.parametrize(
    ("paths", "status"),
    [
        ((), None),
        (("config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors"), None),
        (("config.json", "pytorch_model.bin"), Status.PICKLE_ONLY),
        (("config.json", "weights/best.pt"), Status.PICKLE_ONLY),
        (("config.json", "training_args.bin"), Status.NO_WEIGHTS),
        (("config.json", "model.onnx"), Status.ONNX_ONLY),
        (("config.json", "tf_model.h5"), Status.FOREIGN_FORMAT),
        (("config.json", "unet.safetensors"), Status.FOREIGN_FORMAT),
        (("README.md",), Status.NO_WEIGHTS),
        (("model.safetensors",), Status.NO_CONFIG),
        (("adapter_config.json", "adapter_model.safetensors"), Status.ADAPTER),
        (("adapter_config.json", "config.json", "model.safetensors"), None),
        (("config.json", "model.safetensors", "../x"), Status.UNSAFE_PATH),
    ],
)
def test_files_decide_without_a_request(paths: tuple[str, ...], status: Status | None) -> None:
    assert listing(*paths) is status


@pytest.mark.parametrize(
    ("paths", "asked"),
    [
        (("config.json", "pytorch_model.bin"), True),
        (("config.json", "pytorch_model.bin", "model.safetensors"), False),
        (("config.json", "pytorch_model.bin", "../x"), False),
        (("pytorch_model.bin",), False),
        (("config.json", "model.onnx"), False),
    ],
)
def test_a_conversion_is_looked_for_where_pickles_are_all_that_is_wrong(paths: tuple[str, ...], asked: bool) -> None:
    listed = Listed("a/b", "0" * 40, gated="false", files=tuple(map(File, paths)))
    assert may_be_converted(Facts(listed, CrawlConfig())) is asked
    assert not may_be_converted(Facts(listed, CrawlConfig(converted=False)))


def test_what_the_row_says_decides_without_a_request() -> None:
    assert listing(disabled=True) is Status.DISABLED
    assert listing(tags=("license:gpl",)) is Status.LICENCE_EXCLUDED
    assert listing(tags=("custom_code",)) is None, "the tag also stands for code of a processor alone: config.json says"
    assert listing(total=3_000_000_000) is Status.TOO_MANY_PARAMETERS
    facts = Facts(Listed("shy/model", "0" * 40, gated="auto"), CrawlConfig(opt_out=("Shy",)))
    assert first_refusal(LIST_RULES, facts).status is Status.OPTED_OUT  # type: ignore[union-attr]
    facts = Facts(Listed("a/b", "0" * 40, gated="auto"), CrawlConfig())
    assert first_refusal(LIST_RULES, facts).status is Status.GATED  # type: ignore[union-attr]


VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"]}


@pytest.mark.parametrize(
    ("config", "status"),
    [
        (VIT, None),
        ({"model_type": "vit"}, None),
        (VIT | {"problem_type": "multi_label_classification"}, None),
        (VIT | {"problem_type": "regression"}, Status.REGRESSION),
        (VIT | {"auto_map": {"AutoModelForImageClassification": "x.Y"}}, Status.CUSTOM_CODE),
        (VIT | {"auto_map": {"AutoImageProcessor": "x.Y"}}, None),
        (VIT | {"auto_map": {}}, None),
        (VIT | {"quantization_config": {}}, None),
        (VIT | {"quantization_config": {"bits": 4}}, Status.QUANTISED),
        (VIT | {"num_labels": 200_001}, Status.TOO_MANY_LABELS),
        (VIT | {"image_size": [224, 4096]}, Status.IMAGE_TOO_LARGE),
        (VIT | {"hidden_size": 10**6, "num_hidden_layers": 12}, Status.TOO_MANY_PARAMETERS),
        (VIT | {"hidden_size": 1408, "num_hidden_layers": 40, "intermediate_size": 6144}, None),  # ViT-g, 10^9
        ({"model_type": "vit", "architectures": ["ViTModel"]}, Status.NOT_A_CLASSIFIER),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, Status.NOT_A_CLASSIFIER),
        ({"model_type": "clip", "architectures": ["CLIPModel"]}, Status.ZERO_SHOT),
        ({"model_type": "clip", "architectures": ["CLIPForImageClassification"]}, None),
        ({"model_type": "align"}, Status.ZERO_SHOT),
        ({"model_type": "new-thing"}, Status.UNKNOWN_ARCHITECTURE),
        ({}, Status.UNKNOWN_ARCHITECTURE),
        ({"architecture": "resnet50", "num_classes": 10}, None),
        ({"architecture": "resnet50.a1_in1k", "pretrained_cfg": {"num_classes": 10}}, None),
        ({"architecture": "resnet50", "num_classes": 0}, Status.NOT_A_CLASSIFIER),
        ({"architecture": "secret_net", "pretrained_cfg": {"tag": "x"}}, Status.UNKNOWN_ARCHITECTURE),
        ({"architecture": "vit_tiny", "pretrained_cfg": {"input_size": [3, 2000, 2000]}}, Status.IMAGE_TOO_LARGE),
    ],
)
def test_configs(config: dict[str, Any], status: Status | None) -> None:
    assert configured(**config) is status


@pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'"x"', b"\xff\xfe{}", b"[" * 100_000, b"nul"])
def test_what_is_no_config_is_malformed(raw: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        parse_config(raw, 100)
    assert caught.value.status is Status.MALFORMED_CONFIG


def test_the_installed_libraries_are_asked(names: Path) -> None:
    known = Architectures.load(names)
    assert "ViTForImageClassification" in known.classifiers["vit"]
    assert "CLIPModel" in known.zero_shot["clip"]
    assert known.knows_timm("tf_efficientnet_lite0.in1k")
    assert not known.knows_timm("tf_efficientnet_lite99")


def test_timm_labels_come_from_either_place() -> None:
    inner = parse_config(b'{"architecture": "r", "pretrained_cfg": {"num_classes": 2, "label_names": ["a", "b"]}}', 9)
    outer = parse_config(b'{"architecture": "r", "num_classes": 2, "label_names": ["a", "b"]}', 9)
    assert inner.labels == outer.labels == ("a", "b")
    assert parse_config(b'{"architecture": "r", "pretrained_cfg": {"tag": 1}}', 9).num_labels == 1000
    assert parse_config(b'{"model_type": "vit"}', 9).num_labels == 2


# ── headers and heads ───────────────────────────────────────────────────────────────────────────────────────────────
def header(**shapes: tuple[int, ...]) -> Header:
    return Header(tuple(Tensor(name.replace("__", "."), "F32", shape) for name, shape in shapes.items()), 0)


@pytest.mark.parametrize(
    ("shapes", "labels", "found"),
    [
        ({"classifier__weight": (5, 16), "classifier__bias": (5,)}, 5, Head.FOUND),
        ({"classifier__1__weight": (5, 16)}, 5, Head.FOUND),
        ({"fc__weight": (5, 16)}, 5, Head.FOUND),
        ({"head__fc__weight": (5, 16, 1, 1)}, 5, Head.FOUND),
        ({"timm_model__head__weight": (5, 16)}, 5, Head.FOUND),
        ({"cls_classifier__weight": (5, 16), "distillation_classifier__weight": (5, 16)}, 5, Head.FOUND),
        ({"strange_name__weight": (5, 16)}, 5, Head.FOUND),
        ({"classifier__weight": (6, 16)}, 5, Head.MISMATCH),
        ({"classifier__weight": (6, 16), "strange__weight": (5, 16)}, 5, Head.MISMATCH),
        ({"vit__encoder__layer__0__output__dense__weight": (5, 16)}, 5, Head.MISSING),
        ({"vit__layernorm__weight": (5,)}, 5, Head.MISSING),
        ({"s3__b2__se__fc1__weight": (5, 16, 1, 1)}, 5, Head.MISSING),
        ({}, 5, Head.MISSING),
    ],
)
def test_heads(shapes: dict[str, tuple[int, ...]], labels: int, found: Head) -> None:
    assert find_head(header(**shapes), labels)[0] is found


@pytest.mark.parametrize(
    ("shapes", "limits", "status"),
    [
        ({"classifier__weight": (5, 16)}, {"max_parameters": 80, "max_weights_bytes": 1_000}, None),
        ({"classifier__weight": (5, 16)}, {"max_parameters": 79}, Status.TOO_MANY_PARAMETERS),
        ({"classifier__weight": (5, 16)}, {"max_weights_bytes": 999}, Status.TOO_MANY_BYTES),
        ({"classifier__weight": (6, 16)}, {}, Status.HEAD_MISMATCH),
        ({"vit__layernorm__weight": (5,)}, {}, Status.HEAD_MISSING),
    ],
)
def test_what_a_header_says_decides(shapes: dict[str, Any], limits: dict[str, int], status: Status | None) -> None:
    config = parse_config(json.dumps(VIT | {"num_labels": 5}).encode(), 200_000)
    weights = Header(header(**shapes).tensors, 1_000)
    facts = Facts(Listed("a/b", "0" * 40), CrawlConfig(**limits), KNOWN, config, weights)
    verdict = first_refusal(WEIGHTS_RULES, facts)
    assert (verdict.status if verdict else None) is status


def sound() -> bytes:
    return bytes(save({"classifier.weight": np.ones((5, 16), "f4"), "n": np.ones((), "i8")}))


def test_a_header_is_read_as_safetensors_writes_it() -> None:
    raw = sound()
    length = header_length(raw, len(raw))
    read = parse_header(raw[8 : 8 + length], len(raw))
    assert {(t.name, t.dtype, t.shape) for t in read.tensors} == {
        ("classifier.weight", "F32", (5, 16)), ("n", "I64", ()),
    }  # fmt: skip
    assert (read.parameters, read.size) == (80, len(raw))


@pytest.mark.parametrize(
    ("first", "size", "status"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", 130, Status.INVALID_HEADER),
        (b"", 0, Status.TRUNCATED_WEIGHTS),
        (b"abc", 3, Status.TRUNCATED_WEIGHTS),
        ((5 * 1024**3).to_bytes(8, "little"), 10**12, Status.INVALID_HEADER),
        ((MAX_HEADER + 1).to_bytes(8, "little"), 10**12, Status.INVALID_HEADER),
        ((0).to_bytes(8, "little"), 100, Status.INVALID_HEADER),
        ((93).to_bytes(8, "little"), 100, Status.TRUNCATED_WEIGHTS),
    ],
)
def test_impossible_lengths(first: bytes, size: int, status: Status) -> None:
    with pytest.raises(ModelError) as caught:
        header_length(first, size)
    assert caught.value.status is status


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes


@pytest.mark.parametrize(
    "content",
    [
        {"a": entry(dtype="X7")},
        {"a": entry(shape=[2, -2])},
        {"a": entry(shape=[2, 2.0])},
        {"a": entry(shape=[2, True])},
        {"a": entry(data_offsets=[0])},
        {"a": entry(data_offsets=[0, 17])},
        {"a": entry(), "b": entry()},
        {"a": entry(data_offsets=[4, 20])},
        {"a": entry(shape=[10**30])},
        {"a": None},
        [],
        7,
    ],
)
def test_headers_that_cannot_be(content: Any) -> None:
    raw = json.dumps(content).encode()
    with pytest.raises(ModelError) as caught:
        parse_header(raw, 8 + len(raw) + 16)
    assert caught.value.status in (Status.INVALID_HEADER, Status.TRUNCATED_WEIGHTS)


def test_a_file_too_short_or_too_long_for_its_header() -> None:
    raw = json.dumps({"a": entry()}).encode()
    for extra, status in ((-1, Status.TRUNCATED_WEIGHTS), (1, Status.INVALID_HEADER)):
        with pytest.raises(ModelError) as caught:
            parse_header(raw, 8 + len(raw) + 16 + extra)
        assert caught.value.status is status


# ── the table ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_rule_says_what_it_looks_for() -> None:
    for stage, rules in STAGES:
        assert stage in ("list", "config", "weights")
        assert all(rule.__doc__ for rule in rules)


@pytest.mark.parametrize(
    ("path", "safe"),
    [
        ("model.safetensors", True),
        ("onnx/model.onnx", True),
        ("名前.txt", True),
        ("a b/c.d", True),
        ("../x", False),
        ("a/../x", False),
        ("/etc/passwd", False),
        ("C:\\x", False),
        ("c:x", False),
        ("a\\..\\b", False),
        ("~/x", False),
        ("a//b", False),
        ("./a", False),
        ("a\x00b", False),
        ("a\x1b[31m", False),
        ("x" * 300, False),
        ("", False),
    ],
)
def test_paths(path: str, safe: bool) -> None:
    assert is_safe_path(path) is safe
