"""Repositories that must not be probed, each for a reason of its own and each ending in a status of its own.

They are made from one tiny healthy model (`tiny`) when the demo hub starts. Two of them carry code that would write a
file (`canary`) if anything ever ran it.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hubprobe.demo import tiny
from hubprobe.demo.repository import Files, Repo, RepoFile, padded
from workspace.status import Status

OWNER = "trouble"
CANARIES = ("pickle", "custom_code")
"""What would write a canary file if it ran: see `canary`."""


def repo_id(status: Status) -> str:
    """Return the id of the repository that must end in ``status``: ``trouble/head-missing-vision``."""
    return f"{OWNER}/{status.value.replace('_', '-')}-vision"


def canary(name: str) -> Path:
    """Return the file that the code in a repository would write; it must never exist."""
    return Path(tempfile.gettempdir()) / f"hubprobe-canary-{name}.txt"


def repos(home: Repo) -> list[Repo]:
    """Return all of them. ``home`` is a healthy repository: the new name of the renamed one."""
    made = [_repo(status, files()) for status, files in _FILES.items()]
    made += [_repo(status, tiny.files(), facts=facts) for status, facts in _FACTS.items()]
    made.append(_repo(Status.GONE, tiny.files(), gone=True))
    made.append(Repo(repo_id(Status.RENAMED), home.files, facts={}, renamed_to=home.id))
    made += [_corrupt(), _listed_only(), _too_many_bytes()]
    return sorted(made, key=lambda repo: repo.id)


def _repo(status: Status, files: Files, **changes: Any) -> Repo:
    name = repo_id(status)
    about = f"Made for hubprobe's demo hub, to be refused: {status.meaning}."
    library = {"library_name": "peft"} if status is Status.ADAPTER else {}
    return Repo.of(name, {"README.md": tiny.card(name, about, **library)} | files, **changes)


def _corrupt() -> Repo:
    """One bit of the weights flipped since they were uploaded: the listing states the hash of what was uploaded."""
    repo = _repo(Status.CORRUPT_FILE, tiny.files())
    sound = repo.files["model.safetensors"]
    data = bytearray(sound.content.read(0, sound.size))
    data[-5] ^= 0x10
    broken = RepoFile.of(sound.path, bytes(data), stated_sha256=sound.sha256)
    return replace(repo, files={**repo.files, sound.path: broken})


def _listed_only() -> Repo:
    repo = _repo(Status.FILE_MISSING, tiny.files())
    weights = repo.files["model.safetensors"]
    return replace(repo, files={**repo.files, weights.path: replace(weights, served=False)})


def _too_many_bytes() -> Repo:
    """9.2 GB of zeros, whose hash nobody computes: the listing states one."""
    edge = 34_000
    data = edge * edge * 8  # bytes of doubles
    head = tiny.header({"vit.embeddings.everything": ("F64", [edge, edge], data)})
    repo = _repo(Status.TOO_MANY_BYTES, tiny.files())
    weights = RepoFile.of("model.safetensors", padded(head, len(head) + data), stated_sha256="9" * 64)
    return replace(repo, files={**repo.files, weights.path: weights})


def _without(*names: str, **changes: Any) -> Files:
    return {path: content for path, content in tiny.files(**changes).items() if path not in names}


def _with_weights(tensors: tiny.Tensors) -> Files:
    return tiny.files() | {"model.safetensors": tiny.safetensors(tensors)}


class _Payload:
    """Unpickles by running code: harmless here, and what any pickle may do."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (_canary_code("pickle"),)


def _canary_code(name: str) -> str:
    return (
        "import pathlib, tempfile\n"
        f"path = pathlib.Path(tempfile.gettempdir()) / {canary(name).name!r}\n"
        "path.write_text('code from a repository was run')\n"
    )


def _custom_code() -> Files:
    auto = {
        "AutoConfig": "modeling_trouble.TroubleConfig",
        "AutoModelForImageClassification": "modeling_trouble.TroubleForImageClassification",
    }
    files = tiny.files(model_type="trouble_vit", architectures=["TroubleForImageClassification"], auto_map=auto)
    return files | {"modeling_trouble.py": _canary_code("custom_code").encode()}


def _adapter() -> Files:
    config = {
        "base_model_name_or_path": "google/vit-base-patch16-224-in21k",
        "modules_to_save": ["classifier"],
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["query", "value"],
        "task_type": None,
    }
    layer = "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_"
    tensors: tiny.Tensors = {f"{layer}A.weight": np.ones((4, 16), "f4"), f"{layer}B.weight": np.ones((16, 4), "f4")}
    return {"adapter_config.json": tiny.json_file(config), "adapter_model.safetensors": tiny.safetensors(tensors)}


def _changed(name: str, value: float) -> Files:
    tensors = tiny.weights()
    tensors[name] = np.full_like(tensors[name], value)
    return _with_weights(tensors)


def _regression() -> Files:
    config = tiny.config(("LABEL_0",), problem_type="regression")
    return _with_weights(tiny.weights(rows=1)) | {"config.json": tiny.json_file(config)}


def _zero_shot() -> Files:
    towers = {
        "text_config": {"hidden_size": 16, "model_type": "clip_text_model", "num_hidden_layers": 1},
        "vision_config": {"hidden_size": 16, "model_type": "clip_vision_model", "num_hidden_layers": 1},
    }
    config = {"architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 8, **towers}
    tensors: tiny.Tensors = {
        "logit_scale": np.ones((), "f4"),
        "text_projection.weight": np.ones((8, 16), "f4"),
        "visual_projection.weight": np.ones((8, 16), "f4"),
    }
    return _with_weights(tensors) | {"config.json": tiny.json_file(config)}


def _too_many_parameters() -> Files:
    """Twelve parameters per squared width and layer: 10^12 in all, from a config of one kilobyte."""
    width = 131_072
    huge = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": 5, "num_attention_heads": 1024}
    return tiny.files(**huge)


def _too_many_labels() -> Files:
    config = tiny.config(()) | {"num_labels": 300_000}
    del config["id2label"], config["label2id"]
    return tiny.files() | {"config.json": tiny.json_file(config)}


_FILES: dict[Status, Callable[[], Files]] = {
    Status.ADAPTER: _adapter,
    Status.CONSTANT_OUTPUT: lambda: _changed("classifier.weight", 0.0),
    Status.CUSTOM_CODE: _custom_code,
    Status.FOREIGN_FORMAT: lambda: _without("model.safetensors") | {"tf_model.h5": b"\x89HDF\r\n\x1a\n" + bytes(64)},
    Status.HEAD_MISMATCH: lambda: _with_weights(tiny.weights(rows=3)),
    Status.HEAD_MISSING: lambda: _with_weights(
        {name: value for name, value in tiny.weights().items() if not name.startswith("classifier")}
    ),
    Status.IMAGE_TOO_LARGE: lambda: tiny.files(image_size=65_536),
    Status.INVALID_HEADER: lambda: tiny.files() | {
        "model.safetensors": (64).to_bytes(8, "little") + b"not a header " * 100
    },
    Status.MALFORMED_CONFIG: lambda: tiny.files() | {"config.json": b'{"model_type": "vit", "id2label": {"0": '},
    Status.NOT_A_CLASSIFIER: lambda: tiny.files(
        architectures=["SegformerForSemanticSegmentation"], model_type="segformer"
    ),
    Status.NO_CONFIG: lambda: _without("config.json"),
    Status.NO_WEIGHTS: lambda: _without("model.safetensors"),
    Status.NONFINITE_OUTPUT: lambda: _changed("classifier.weight", 3e38),
    Status.NONFINITE_WEIGHTS: lambda: _changed("vit.layernorm.weight", float("nan")),
    Status.ONNX_ONLY: lambda: _without("model.safetensors") | {"onnx/model.onnx": b"\x08\x08\x12\x07pytorch" * 16},
    Status.PICKLE_ONLY: lambda: _without("model.safetensors") | {
        "pytorch_model.bin": pickle.dumps(_Payload(), protocol=2)
    },
    Status.QUANTISED: lambda: tiny.files(
        quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}
    ),
    Status.REGRESSION: _regression,
    Status.TOO_MANY_LABELS: _too_many_labels,
    Status.TOO_MANY_PARAMETERS: _too_many_parameters,
    Status.TRUNCATED_WEIGHTS: lambda: tiny.files() | {
        "model.safetensors": (whole := tiny.safetensors(tiny.weights()))[: len(whole) * 2 // 3]
    },
    Status.UNKNOWN_ARCHITECTURE: lambda: tiny.files(
        model_type="hypervision", architectures=["HypervisionForImageClassification"]
    ),
    Status.UNSAFE_PATH: lambda: tiny.files() | dict.fromkeys(
        ("../../evil.txt", "/tmp/evil.txt", "..\\..\\evil.txt"), b"left the folder\n"
    ),
    Status.ZERO_SHOT: _zero_shot,
}  # fmt: skip
"""Repositories whose files are wrong."""

_FACTS: dict[Status, dict[str, Any]] = {
    Status.GATED: {"gated": "manual"},
    Status.DISABLED: {"disabled": True},
    Status.MALFORMED_ROW: {"sha": 12345, "tags": "image-classification", "downloads": "many", "lastModified": None},
}
"""Repositories whose files are sound but whose row says something else."""

_OTHERS = (Status.GONE, Status.RENAMED, Status.CORRUPT_FILE, Status.FILE_MISSING, Status.TOO_MANY_BYTES)

EXPECTED: dict[str, Status] = {repo_id(status): status for status in (*_FILES, *_FACTS, *_OTHERS)}
"""The status each must end in, by id."""
