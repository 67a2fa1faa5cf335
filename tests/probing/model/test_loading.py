"""What a stranger's repository makes of the libraries that load it: its own model, whole, or none."""

from __future__ import annotations

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from probing.model.loading import Caps, load
from tests.probing.conftest import vit_config, write_model
from workspace import ModelError, Status

CAPS = Caps(10_000_000, 1000, 256)
TIMM = {
    "architecture": "test_vit",
    "num_classes": 6,
    "pretrained_cfg": {"input_size": [3, 160, 160], "fixed_input_size": True, "mean": [0.5] * 3, "std": [0.5] * 3},
}
_OPENED: list[str] = []


@cache
def _listen() -> None:
    def heard(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str):
            _OPENED.append(args[0])

    sys.addaudithook(heard)


@pytest.fixture
def opened() -> list[str]:
    """The files opened since it was cleared: an audit hook hears of each, whatever opens it."""
    _listen()
    return _OPENED


@pytest.fixture
def no_pickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("torch.load was reached")

    monkeypatch.setattr(torch, "load", refuse)


@pytest.fixture(scope="module")
def timm_tensors() -> dict[str, torch.Tensor]:
    import timm

    torch.manual_seed(0)
    return {k: v.contiguous() for k, v in timm.create_model("test_vit", num_classes=6).state_dict().items()}


def _end(folder: Path, caps: Caps = CAPS) -> Status | None:
    try:
        load(folder, caps)
    except ModelError as error:
        return error.status
    return None


# ── arguments ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("wrapped", [False, True])
def test_arguments_of_a_stranger_open_no_file_and_forgive_nothing(
    tmp_path: Path, wrapped: bool, timm_tensors: Any, opened: list[str], no_pickles: None
) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"not for strangers")
    opened.clear()
    kind = {"model_type": "timm_wrapper", "architectures": ["TimmWrapperForImageClassification"]} if wrapped else {}
    lost = {k: v for k, v in timm_tensors.items() if "blocks.3.mlp" not in k}
    evil: list[dict[str, Any]] = [
        {"checkpoint_path": str(secret)},
        {"pretrained": True, "pretrained_cfg": {"file": str(secret)}},
        {"pretrained_cfg_overlay": {"file": str(secret), "source": "file"}},
        {"file": str(secret), "url": "http://localhost/x", "hf_hub_id": "a/b", "custom_load": True},
        {"cache_dir": str(tmp_path / "cache"), "pretrained_strict": False, "features_only": True, "scriptable": True},
    ]
    for i, arguments in enumerate(evil):
        config = TIMM | kind | {"model_args": arguments}
        config["pretrained_cfg"] = TIMM["pretrained_cfg"] | {"file": str(secret), "custom_load": True}  # type: ignore[operator]
        loaded = load(write_model(tmp_path / f"whole-{i}", config, timm_tensors, None), CAPS)
        assert loaded.architecture == "test_vit"
        assert torch.equal(loaded.module.state_dict()["head.weight"], timm_tensors["head.weight"])
        with pytest.raises(ModelError) as caught:
            load(write_model(tmp_path / f"part-{i}", config, lost, None), CAPS)
        assert caught.value.status is Status.LOAD_ERROR
    assert str(secret) not in opened
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"attn_implementation": "owner/kernel"}, {"_attn_implementation": "owner/kernel"}, {"dtype": "load"},
        {"torch_dtype": "float16"}, {"backbone": "owner/model", "use_pretrained_backbone": True},
        {"use_timm_backbone": True, "backbone_kwargs": {"a": 1}}, {"transformers_weights": "../secret"},
        {"configuration_files": ["config.4.0.0.json"]}, {"_name_or_path": "/etc"}, {"fusion_config": {"a": {}}},
        {"pruned_heads": {"0": [0]}}, {"per_layer_config": {"0": {}}}, {"return_dict": False}, {"torchscript": True},
        {"quantization_config": {}}, {"auto_map": {"AutoTokenizer": "x.Y"}}, {"label2id": {"x": {}}},
        {"output_hidden_states": True, "output_attentions": True},
    ],
)  # fmt: skip
def test_settings_of_a_stranger_leave_the_model_as_it_is(
    tmp_path: Path, changes: dict[str, Any], vit_tensors: Any, no_pickles: None
) -> None:
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain = load(write_model(tmp_path / "plain", vit_config(), vit_tensors(), None), CAPS)
    odd = load(write_model(tmp_path / "odd", vit_config(**changes), vit_tensors(), None), CAPS)
    with torch.inference_mode():
        assert torch.equal(plain.forward(x), odd.forward(x))
    assert next(odd.module.parameters()).dtype == torch.float32


def test_other_files_of_the_folder_are_not_read(
    tmp_path: Path, vit_tensors: Any, opened: list[str], no_pickles: None
) -> None:
    folder = write_model(tmp_path / "m", vit_config(), vit_tensors(), None)
    for name in ("adapter_config.json", "generation_config.json", "pytorch_model.bin", "config.4.0.0.json"):
        (folder / name).write_text('{"base_model_name_or_path": "/etc"}')
    opened.clear()
    load(folder, CAPS)
    inside = {Path(name).name for name in opened if name.startswith(str(folder))}
    assert "config.json" in inside
    assert inside <= {"config.json", "model.safetensors"}


# ── weights ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("architecture", "lost", "status"),
    [
        ("test_resnet", "running_var", Status.LOAD_ERROR),
        ("dla34", "level3", Status.LOAD_ERROR),  # timm loads it leniently, whatever is asked
        ("dla34", "fc.weight", Status.HEAD_MISSING),
        ("test_vit", "pos_embed", Status.LOAD_ERROR),
    ],
)
def test_no_number_stays_as_timm_made_it(tmp_path: Path, architecture: str, lost: str, status: Status) -> None:
    import timm

    whole = {k: v.contiguous() for k, v in timm.create_model(architecture, num_classes=5).state_dict().items()}
    config = {"architecture": architecture, "num_classes": 5, "pretrained_cfg": {"classifier": "fc"}}
    part = {k: v for k, v in whole.items() if lost not in k}
    assert 0 < len(part) < len(whole)
    caps = Caps(100_000_000, 1000, 256)
    assert _end(write_model(tmp_path / "part", config, part, None), caps) is status
    if architecture != "test_vit":
        assert _end(write_model(tmp_path / "whole", config, whole, None), caps) is None


def test_no_number_stays_as_transformers_made_it(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = {"hidden_sizes": [8, 8], "depths": [1, 1], "embedding_size": 8, "num_labels": 4}
    model = ResNetForImageClassification(ResNetConfig(**shape))
    model.save_pretrained(tmp_path / "whole")
    assert _end(tmp_path / "whole") is None
    tensors = {k: v for k, v in model.state_dict().items() if "running_mean" not in k}
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert _end(write_model(tmp_path / "part", config, tensors, None)) is Status.LOAD_ERROR
    uncounted = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    assert _end(write_model(tmp_path / "uncounted", config, uncounted, None)) is None, "a counter is no weight"


def test_what_transformers_forgives_is_no_weight() -> None:
    import re

    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    for names in NAMES.values():
        for name in [names] if isinstance(names, str) else names:
            forgiven = getattr(transformers, name)._keys_to_ignore_on_load_missing or ()
            assert set(forgiven) <= {"num_batches_tracked"}, name
            assert not any(re.search(pattern, "classifier.weight") for pattern in forgiven)


def test_dtypes_of_weights(tmp_path: Path, vit_tensors: Any, timm_tensors: Any) -> None:
    ends = {
        torch.float64: None, torch.float16: None, torch.complex64: Status.QUANTISED, torch.int64: Status.QUANTISED,
        torch.int8: Status.QUANTISED,
    }  # fmt: skip
    for dtype, status in ends.items():
        for name, config, tensors in (("hf", vit_config(), vit_tensors()), ("timm", TIMM, timm_tensors)):
            stored = {k: v.to(dtype) for k, v in tensors.items()}
            assert _end(write_model(tmp_path / f"{name}-{dtype}", config, stored, None)) is status
    bias = vit_tensors() | {"classifier.bias": torch.ones(5, dtype=torch.int32)}
    assert _end(write_model(tmp_path / "bias", vit_config(), bias, None)) is Status.QUANTISED


def test_weights_in_parts_and_under_the_wrappers_prefix(tmp_path: Path, timm_tensors: Any) -> None:
    from safetensors.torch import save_file

    x = torch.rand(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    plain = load(write_model(tmp_path / "plain", TIMM, timm_tensors, None), CAPS)
    prefixed = {f"timm_model.{k}": v for k, v in timm_tensors.items()}
    wrapper = TIMM | {"model_type": "timm_wrapper"}
    others = [
        write_model(tmp_path / "prefixed", wrapper, prefixed, None),
        write_model(tmp_path / "parts", TIMM, None, None),
    ]
    names = sorted(timm_tensors)
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for file in set(places.values()):
        save_file({k: timm_tensors[k] for k in names if places[k] == file}, others[1] / file)
    index = others[1] / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for folder in others:
        other = load(folder, CAPS)
        assert torch.equal(other.forward(x), plain.forward(x))
    index.write_text(json.dumps({"weight_map": places | {"x": "../plain/model.safetensors"}}))
    assert _end(others[1]) is Status.INVALID_HEADER
    index.write_text('{"weight_map": 7}')
    assert _end(others[1]) is Status.INVALID_HEADER


def test_files_that_are_too_short(tmp_path: Path, vit_tensors: Any) -> None:
    folder = write_model(tmp_path / "m", vit_config(), vit_tensors(), None)
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    for content, status in (
        (b"", Status.TRUNCATED_WEIGHTS), (whole[:5], Status.TRUNCATED_WEIGHTS), (whole[:-1], Status.TRUNCATED_WEIGHTS),
        (whole + b"x", Status.INVALID_HEADER), (b"version https://git-lfs", Status.INVALID_HEADER),
    ):  # fmt: skip
        weights.write_bytes(content)
        assert _end(folder) is status


# ── sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    "config",
    [
        vit_config(num_hidden_layers=3000),
        vit_config(num_labels=10**7),
        vit_config(vision_config={"num_hidden_layers": 3000}),
        vit_config(hidden_size=10**6),
        vit_config(intermediate_size=10**8),
        vit_config(num_channels=10**8),
        vit_config(image_size=256, patch_size=1, hidden_size=1000),
        {"model_type": "resnet", "depths": [900], "hidden_sizes": [10**5], "num_labels": 3},
        {"model_type": "convnext", "depths": [999, 1], "hidden_sizes": [4096, 4096], "num_stages": 2, "num_labels": 3},
        TIMM | {"model_args": {"depth": 3000}},
        TIMM | {"architecture": "resnet18", "model_args": {"layers": [100_000, 1, 1, 1]}},
        {"architecture": "resnet50", "num_classes": 6, "model_args": {"base_width": 10**9}},
        TIMM | {"model_args": {"mlp_ratio": 1e9}},
    ],
)
def test_configs_that_ask_for_the_absurd_cost_little(tmp_path: Path, config: Any, vit_tensors: Any) -> None:
    folder = write_model(tmp_path / "m", config, vit_tensors(), None)
    started = time.process_time()
    assert _end(folder) in (Status.TOO_MANY_PARAMETERS, Status.TOO_MANY_LABELS)
    assert time.process_time() - started < 10


def test_buffers_count_as_memory(tmp_path: Path, vit_tensors: Any) -> None:
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "num_classes": 3,
        "pretrained_cfg": {"input_size": [3, 256, 256], "fixed_input_size": True},
        "model_args": {"window_size": 64, "depths": [1], "embed_dim": 24},
    }
    folder = write_model(tmp_path / "m", config, vit_tensors(), None)
    assert _end(folder, Caps(10_000_000, 1000, 256, memory_bytes=100_000_000)) is Status.EXCEEDS_MEMORY


def test_a_model_far_larger_than_its_files_is_not_built(tmp_path: Path, vit_tensors: Any) -> None:
    folder = write_model(tmp_path / "m", vit_config(intermediate_size=50_000_000), vit_tensors(), None)
    with pytest.raises(ModelError, match=r"asks for 1,[0-9,]* parameters, its files hold [0-9,]*$") as refused:
        load(folder, Caps(2_000_000_000, 1000, 256))
    assert refused.value.status is Status.LOAD_ERROR
