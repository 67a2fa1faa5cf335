"""Folders of hostile repositories, by name: what a stranger can put into the files that a probe fetches.

Each is made from one small healthy model. Code in them would leave a file (`CANARY`) in the folder that `bait` is in.
"""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np

from hubprobe.demo import tiny

CANARY = "canary.txt"
"""What code of a repository would write, beside the bait."""

Files = dict[str, Any]
"""Content by file name: bytes, or a `Path` that a symbolic link is to point at."""


class _Payload:
    def __init__(self, bait: Path) -> None:
        self._bait = bait

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_code(self._bait),)


def _code(bait: Path) -> str:
    return f"import pathlib; pathlib.Path({str(bait / CANARY)!r}).write_text('run')\n"


def _pickled(bait: Path) -> bytes:
    return pickle.dumps(_Payload(bait), protocol=2)


def make(root: Path, bait: Path) -> dict[str, Path]:
    """Write all of them to ``root`` and what they are after to ``bait``; return their folders by name."""
    bait.mkdir(parents=True)
    (bait / "weights.pth").write_bytes(_pickled(bait))
    (bait / "model.safetensors").write_bytes(tiny.files()["model.safetensors"])
    (bait / "config.json").write_bytes(_json(tiny.config()))
    (bait / "evil.py").write_text(_code(bait))
    (bait / "secret").write_text("secret")
    made = {}
    for name, files in {**_configs(bait), **_weights(bait), **_processors(bait), **_beside(bait)}.items():
        folder = root / name
        folder.mkdir(parents=True)
        for path, content in files.items():
            if isinstance(content, Path):
                (folder / path).symlink_to(content)
            elif content is not None:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_bytes(content)
        made[name] = folder
    return made


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _vit(**changes: Any) -> Files:
    """Return the healthy model with other settings in its config."""
    return _files(**{"config.json": _json(tiny.config(**changes))})


def _files(**changes: Any) -> Files:
    return dict(tiny.files()) | changes


def _raw(config: bytes) -> Files:
    return _files(**{"config.json": config})


def _timm(config: dict[str, Any]) -> Files:
    whole = {"architecture": "resnet10t", "num_classes": 3, "pretrained_cfg": {"input_size": [3, 32, 32]}} | config
    return _raw(_json(whole))


def _configs(bait: Path) -> dict[str, Files]:
    outside, labels = str(bait), tiny.LABELS
    auto = {
        "AutoConfig": "evil.C", "AutoModelForImageClassification": "evil.M", "AutoImageProcessor": "evil.P",
    }  # fmt: skip
    layers = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    clip = {"architectures": ["CLIPForImageClassification"], "model_type": "clip"}
    return {
        "code": _vit(auto_map=auto) | {"evil.py": _code(bait).encode()},
        "code-of-unknown-type": _vit(auto_map=auto, model_type="evil") | {"evil.py": _code(bait).encode()},
        "code-elsewhere": _vit(auto_map={k: f"{outside}--{v}" for k, v in auto.items()}),
        "code-in-a-sub-config": _vit(vision_config={"auto_map": auto}) | {"evil.py": _code(bait).encode()},
        "custom-pipeline": _vit(custom_pipelines={"image-classification": {"impl": "evil.P", "pt": ["M"]}}),
        "kernel": _vit(attn_implementation="evil/kernel"),
        "private-kernel": _vit(_attn_implementation="evil/kernel"),
        "internal-kernel": _vit(_attn_implementation_internal="evil/kernel"),
        "kernel-by-part": _vit(attn_implementation={"": "evil/kernel:evil"}),
        "experts": _vit(experts_implementation="evil/kernel"),
        "type-is-a-path": _vit(model_type="../../evil"),
        "architecture-is-a-path": _vit(architectures=["../../evil.M"]),
        "name-or-path": _vit(_name_or_path=outside, name_or_path=outside, _commit_hash="x" * 40),
        "base-model": _vit(base_model_name_or_path=outside, adapter_name_or_path=outside),
        "activation": _vit(hidden_act="__import__('os').system"),
        "dtype-complex": _vit(dtype="complex64", torch_dtype="complex64"),
        "dtype-code": _vit(dtype="os.system", torch_dtype="os.system"),
        "backbone": _vit(backbone=outside, use_pretrained_backbone=True, use_timm_backbone=True),
        "backbone-config": _vit(backbone_config={"model_type": "timm_backbone", "backbone": "resnet18"}),
        "timm-checkpoint": _timm({"model_args": {"checkpoint_path": f"{outside}/weights.pth"}}),
        "timm-safetensors": _timm({"model_args": {"checkpoint_path": f"{outside}/model.safetensors"}}),
        "timm-cfg-file": _timm({"pretrained_cfg": {"file": f"{outside}/weights.pth", "custom_load": True}}),
        "timm-cfg-url": _timm({"pretrained_cfg": {"url": f"file://{outside}/weights.pth"}}),
        "timm-cfg-in-arguments": _timm({"model_args": {"pretrained_cfg": {"file": f"{outside}/weights.pth"}}}),
        "timm-overlay": _timm({"model_args": {"pretrained_cfg_overlay": {"file": f"{outside}/weights.pth"}}}),
        "timm-cache": _timm({"model_args": {"cache_dir": outside}}),
        "timm-not-strict": _timm({"model_args": {"pretrained_strict": False}}),
        "timm-features": _timm({"model_args": {"features_only": True}}),
        "timm-scripted": _timm({"model_args": {"scriptable": True, "exportable": True}}),
        "timm-hub-name": _timm({"architecture": "hf_hub:evil/model"}),
        "timm-local-name": _timm({"architecture": f"local-dir:{outside}"}),
        "timm-deep": _timm({"model_args": {"layers": [100_000, 1, 1, 1]}}),
        "timm-depth": _timm({"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 10**6}}),
        "timm-wide": _timm({"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 10**9}}),
        "timm-classes": _timm({"num_classes": 10**9}),
        "timm-layer-by-name": _timm({"model_args": {"act_layer": "os.system", "norm_layer": "evil"}}),
        "wrapper-checkpoint": _raw(
            _json({
                "model_type": "timm_wrapper", "architecture": "resnet10t", "num_classes": 3,
                "architectures": ["TimmWrapperForImageClassification"],
                "model_args": {"checkpoint_path": f"{outside}/weights.pth"},
            })
        ),
        "wrapper-cfg": _raw(
            _json({
                "model_type": "timm_wrapper", "architecture": f"local-dir:{outside}", "num_classes": 3,
                "pretrained_cfg": {"file": f"{outside}/weights.pth", "custom_load": True},
            })
        ),
        "wide": _vit(hidden_size=2**40, num_attention_heads=1),
        "deep": _vit(num_hidden_layers=10**9),
        "nested-deep": _raw(_json(clip | {"vision_config": layers | {"num_hidden_layers": 10**7}})),
        "deep-stages": _raw(_json({"model_type": "swin", "depths": [3000] * 4, "num_heads": [1] * 4, "embed_dim": 16})),
        "many-stages": _raw(_json({"model_type": "convnext", "depths": [1] * 100_000, "hidden_sizes": [8] * 100_000})),
        "heads": _vit(num_attention_heads=0),
        "negative": _vit(hidden_size=-16, num_hidden_layers=-1),
        "patch": _vit(patch_size=0),
        "image": _vit(image_size=10**6),
        "image-list": _vit(image_size=[10**6, 10**6]),
        "channels": _vit(num_channels=10**7),
        "labels-beside": _raw(_json(tiny.config() | {"num_labels": 10**7})),
        "labels-many": _raw(_json(tiny.config(tuple(map(str, range(300_000)))))),
        "labels-far": _raw(_json(tiny.config() | {"id2label": {str(2**62): "x", "-1": "y"}})),
        "labels-of-escapes": _raw(_json(tiny.config(tuple(f"\x1b]0;{x}\x07\u202e<b>{x}" for x in labels)))),
        "labels-lone-surrogate": _raw(_json(tiny.config(("\ud800", "\udfff\ud800", "\0", "\n\r\t", "'=1+1")))),
        "labels-long": _raw(_json(tiny.config(("x" * 5_000_000, "b", "c", "d", "e")))),
        "labels-objects": _raw(_json(tiny.config() | {"id2label": {str(i): {"a": [i]} for i in range(5)}})),
        "not-a-number": _raw(_json(tiny.config()).replace(b'"hidden_size": 16', b'"hidden_size": NaN')),
        "infinite": _raw(_json(tiny.config()).replace(b'"hidden_size": 16', b'"hidden_size": 1e400')),
        "digits": _raw(_json(tiny.config()).replace(b'"hidden_size": 16', b'"hidden_size": 1' + b"0" * 100_000)),
        "boolean": _vit(hidden_size=True, num_hidden_layers=False),
        "nested-json": _raw(b'{"model_type": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "long-json": _raw(b'{"model_type": "vit", "x": "' + b"x" * (33 * 2**20) + b'"}'),
        "list-json": _raw(b"[1, 2]"),
        "binary-json": _raw(bytes(range(256)) * 16),
        "empty-json": _raw(b""),
        "twice-json": _raw(_json(tiny.config())[:-1] + b', "model_type": "evil", "auto_map": {"AutoConfig": "a.C"}}'),
        "quantised": _vit(quantization_config={"quant_method": "gptq", "bits": 4, "tokenizer": outside}),
        "quantised-oddly": _vit(quantization_config={"quant_method": "evil", "modules_to_not_convert": [outside]}),
    }  # fmt: skip


def _safetensors(header: bytes, data: bytes = b"", length: int | None = None) -> Files:
    size = len(header) if length is None else length
    return _files(**{"model.safetensors": struct.pack("<Q", size) + header + data})


def _tensors(**changes: Any) -> Files:
    tensors = tiny.weights() | changes
    return _files(**{"model.safetensors": tiny.safetensors({k: v for k, v in tensors.items() if v is not None})})


def _entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def _as_dtype(dtype: str, size: int) -> Files:
    """Return weights whose head is stored as ``dtype`` of ``size`` bytes, with values that look like any."""
    whole = tiny.files()["model.safetensors"]
    assert isinstance(whole, bytes)
    length = struct.unpack("<Q", whole[:8])[0]
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    end, shape = len(data), header["classifier.weight"]["shape"]
    header["classifier.weight"] = _entry(dtype, shape, end, end + size * shape[0] * shape[1])
    head = {"old": _entry("F32", shape, 0, 0)} | header
    kept = {name: value for name, value in head.items() if name != "old"}
    gap = tiny.weights()["classifier.weight"].nbytes
    kept["unused"] = json.loads(whole[8 : 8 + length])["classifier.weight"]
    return _safetensors(_json(kept), data + np.ones(gap * size, np.uint8).tobytes()[: size * shape[0] * shape[1]])


def _weights(bait: Path) -> dict[str, Files]:
    whole = tiny.files()["model.safetensors"]
    assert isinstance(whole, bytes)
    flat = tiny.weights()
    nan = np.full_like(flat["classifier.bias"], np.nan)
    index = {"metadata": {"total_size": 1}, "weight_map": {"classifier.weight": "../../bait/model.safetensors"}}
    to_pickle = {"metadata": {}, "weight_map": dict.fromkeys(flat, "pytorch_model.bin")}
    without = {"model.safetensors": None}
    return {
        "weights-empty": _files(**{"model.safetensors": b""}),
        "weights-seven-bytes": _files(**{"model.safetensors": b"1234567"}),
        "weights-cut": _files(**{"model.safetensors": whole[: len(whole) // 2]}),
        "weights-cut-by-one": _files(**{"model.safetensors": whole[:-1]}),
        "weights-longer": _files(**{"model.safetensors": whole + b"x"}),
        "weights-header-endless": _safetensors(b"{}", length=2**63 - 1),
        "weights-header-negative": _safetensors(b"{}", length=2**64 - 1),
        "weights-header-90-mb": _safetensors(b"{" + b" " * (90 * 2**20) + b"}"),
        "weights-header-deep": _safetensors(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "weights-header-list": _safetensors(b"[]"),
        "weights-header-binary": _safetensors(bytes(range(256))),
        "weights-none-in-it": _safetensors(b"{}"),
        "weights-overlap": _safetensors(_json({"a": _entry("U8", [8], 0, 8), "b": _entry("U8", [5], 4, 9)}), bytes(9)),
        "weights-hole": _safetensors(_json({"a": _entry("F32", [2], 8, 16)}), bytes(16)),
        "weights-huge-shape": _safetensors(_json({"classifier.weight": _entry("F32", [2**62, 2**62], 0, 8)}), bytes(8)),
        "weights-backwards": _safetensors(_json({"classifier.weight": _entry("F32", [2], 8, 0)}), bytes(8)),
        "weights-many-names": _safetensors(_json({f"t{i}": _entry("F32", [0], 0, 0) for i in range(200_000)})),
        "weights-odd-names": _tensors(**{"\x1b[2J": flat["classifier.bias"], "../../x": flat["classifier.bias"]}),
        "weights-metadata": _safetensors(_json({"__metadata__": {"format": "os.system"}}), b""),
        "weights-of-flax": _files(**{"model.safetensors": whole.replace(b'"format":"pt"', b'"format":"np"')}),
        "weights-nan": _tensors(**{"classifier.bias": nan}),
        "weights-infinite": _tensors(**{"classifier.bias": nan + np.inf}),
        "weights-no-head": _tensors(**{"classifier.weight": None, "classifier.bias": None}),
        "weights-no-body": _tensors(**{"vit.embeddings.cls_token": None}),
        "weights-other-shape": _tensors(**{"classifier.weight": np.ones((5, 17), np.float32)}),
        "weights-transposed": _tensors(**{"classifier.weight": flat["classifier.weight"].T.copy()}),
        "weights-more-rows": _tensors(**{"classifier.weight": np.ones((50, 16), np.float32)}),
        "weights-complex": _as_dtype("C64", 8),
        "weights-integers": _as_dtype("I64", 8),
        "weights-boolean": _as_dtype("BOOL", 1),
        "weights-eight-bit": _as_dtype("F8_E4M3", 1),
        "weights-unknown-type": _as_dtype("EVIL", 4),
        "weights-are-a-link": _files(**{"model.safetensors": bait / "model.safetensors"}),
        "weights-are-a-broken-link": _files(**{"model.safetensors": bait / "nothing"}),
        "weights-are-a-folder": _files(**without) | {"model.safetensors/x": b"x"},
        "weights-are-a-pickle": _files(**{"model.safetensors": _pickled(bait)}),
        "weights-are-a-zip": _files(**{"model.safetensors": b"PK\x03\x04" + bytes(100)}),
        "weights-elsewhere": _files(**without) | {"model.safetensors.index.json": _json(index)},
        "weights-in-pickles": _files(**without)
        | {"model.safetensors.index.json": _json(to_pickle), "pytorch_model.bin": _pickled(bait)},
        "weights-index-too": _files() | {"model.safetensors.index.json": _json(index)},
        "weights-missing-shard": _files(**without)
        | {"model.safetensors.index.json": _json({"weight_map": {"a": "model-00001-of-00002.safetensors"}})},
    }  # fmt: skip


def _processor(**changes: Any) -> Files:
    plain = json.loads(tiny.files()["preprocessor_config.json"])  # type: ignore[arg-type]
    return _files(**{"preprocessor_config.json": _json(plain | changes)})


def _processors(bait: Path) -> dict[str, Files]:
    square = {"height": 32, "width": 32}
    nested = {"image_processor_type": "utils.hub", "auto_map": {"AutoImageProcessor": "evil.P"}}
    return {
        "processor-is-a-model": _processor(image_processor_type="AutoModelForImageClassification"),
        "processor-is-a-function": _processor(image_processor_type="pipeline"),
        "processor-is-a-module": _processor(image_processor_type="utils.hub"),
        "processor-is-a-tokenizer": _processor(image_processor_type="BertTokenizer", vocab_file=str(bait / "secret")),
        "processor-code": _processor(auto_map={"AutoImageProcessor": "evil.P"}) | {"evil.py": _code(bait).encode()},
        "processor-code-elsewhere": _processor(auto_map={"AutoImageProcessor": f"{bait}--evil.P"}),
        "processor-class": _processor(feature_extractor_type="__main__.X", processor_class="os.system"),
        "processor-type-list": _processor(image_processor_type=["ViTImageProcessor"]),
        "processor-huge": _processor(size={"height": 20_000, "width": 20_000}),
        "processor-huge-edge": _processor(size={"shortest_edge": 9**9}, image_processor_type="ConvNextImageProcessor"),
        "processor-huge-crop": _processor(do_center_crop=True, crop_size={"height": 10**6, "width": 10**6}),
        "processor-huge-pad": _processor(do_pad=True, pad_size={"height": 10**6, "width": 10**6}),
        "processor-endless": _processor(size={"height": 10**30, "width": 10**30}),
        "processor-zero": _processor(size={"height": 0, "width": 0}),
        "processor-negative": _processor(size={"height": -32, "width": -32}),
        "processor-size-text": _processor(size="os.system"),
        "processor-size-nested": _processor(size={"height": square, "width": [[32]]}),
        "processor-resample": _processor(resample=99),
        "processor-mean-nan": _processor(image_mean=[float("nan")] * 3),
        "processor-std-zero": _processor(image_std=[0, 0, 0]),
        "processor-mean-many": _processor(image_mean=[0.5] * 100_000),
        "processor-rescale": _processor(rescale_factor=1e300),
        "processor-rescale-text": _processor(rescale_factor="x" * 100),
        "processor-switch": _processor(do_resize="yes", do_normalize={"a": 1}, do_rescale=[]),
        "processor-device": _processor(device="cuda:99", data_format="evil", return_tensors="evil"),
        "processor-list": _files(**{"preprocessor_config.json": b"[]"}),
        "processor-deep": _files(**{"preprocessor_config.json": b"[" * 100_000}),
        "processor-binary": _files(**{"preprocessor_config.json": bytes(range(256))}),
        "processor-is-a-link": _files(**{"preprocessor_config.json": bait / "config.json"}),
        "processor-in-processor": _files(
            **{"preprocessor_config.json": None, "processor_config.json": _json({"image_processor": nested})}
        ),
    }  # fmt: skip


def _beside(bait: Path) -> dict[str, Files]:
    pickled, code = _pickled(bait), _code(bait).encode()
    adapter = {"base_model_name_or_path": str(bait), "peft_type": "LORA", "auto_mapping": {"parent_library": "evil"}}
    modules = ("evil.py", "__init__.py", "sitecustomize.py", "torch.py", "vit.py")
    names = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth", "flax_model.msgpack", "x.npz")
    return {
        "beside-pickles": _files(**dict.fromkeys(names, pickled)),
        "beside-pickles-only": _files(**{"model.safetensors": None, "pytorch_model.bin": pickled}),
        "beside-code": _files(**dict.fromkeys(modules, code)),
        "beside-adapter": _files(**{"adapter_config.json": _json(adapter)}),
        "beside-generation": _files(**{"generation_config.json": _json({"transformers_version": [], "a": "b"})}),
        "beside-links": _files(**{"tokenizer.json": bait / "secret", "b.safetensors": bait / "model.safetensors"}),
        "beside-second-weights": _files(**{"other.safetensors": b"", "zz.safetensors": b"\xff" * 64}),
        "beside-odd-names": _files(**{"\x1b[2J\n.txt": b"x", "\u202egnp.exe": b"x", "x" * 200: b"x", "-rf *": b"x"}),
        "beside-config-link": _files(**{"config.json": bait / "config.json"}),
        "healthy": _files(),
    }  # fmt: skip
