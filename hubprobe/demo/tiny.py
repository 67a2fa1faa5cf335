"""A vision transformer of 5,000 parameters, in the files a real one has: what broken repositories are broken from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from hubprobe.demo.repository import Files

LABELS = ("apple", "bicycle", "cloud", "drum", "eagle")

_FILES = Path(__file__).parent / "tiny_files"
_CONFIG: dict[str, Any] = json.loads((_FILES / "config.json").read_bytes())
_PROCESSOR = (_FILES / "preprocessor_config.json").read_bytes()
_HIDDEN, _MLP, _PATCH, _IMAGE = 16, 32, 16, 32

Tensors = dict[str, NDArray[Any]]


def config(labels: tuple[str, ...] = LABELS, **changes: Any) -> dict[str, Any]:
    """Return the config of a ``ViTForImageClassification`` that `weights` fits."""
    ids = {name: i for i, name in enumerate(labels)}
    return _CONFIG | {"id2label": {str(i): name for i, name in enumerate(labels)}, "label2id": ids} | changes


def weights(rows: int = len(LABELS), seed: int = 0) -> Tensors:
    """Return random float32 weights by the names transformers saves, with ``rows`` outputs."""
    shapes: dict[str, tuple[int, ...]] = {
        "vit.embeddings.cls_token": (1, 1, _HIDDEN),
        "vit.embeddings.position_embeddings": (1, (_IMAGE // _PATCH) ** 2 + 1, _HIDDEN),
        "vit.embeddings.patch_embeddings.projection.weight": (_HIDDEN, 3, _PATCH, _PATCH),
        "vit.embeddings.patch_embeddings.projection.bias": (_HIDDEN,),
        "classifier.weight": (rows, _HIDDEN),
        "classifier.bias": (rows,),
    }
    layer = "vit.encoder.layer.0"
    for name, (inner, outer) in {
        "attention.attention.query": (_HIDDEN, _HIDDEN),
        "attention.attention.key": (_HIDDEN, _HIDDEN),
        "attention.attention.value": (_HIDDEN, _HIDDEN),
        "attention.output.dense": (_HIDDEN, _HIDDEN),
        "intermediate.dense": (_HIDDEN, _MLP),
        "output.dense": (_MLP, _HIDDEN),
    }.items():
        shapes[f"{layer}.{name}.weight"] = (outer, inner)
        shapes[f"{layer}.{name}.bias"] = (outer,)
    tensors = normal(shapes, seed)
    for norm in (f"{layer}.layernorm_before", f"{layer}.layernorm_after", "vit.layernorm"):
        tensors[f"{norm}.weight"] = np.ones(_HIDDEN, np.float32)
        tensors[f"{norm}.bias"] = np.zeros(_HIDDEN, np.float32)
    return tensors


def normal(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Tensors:
    """Return float32 tensors of these shapes, drawn from N(0, 0.2)."""
    random = np.random.default_rng(seed)
    return {name: random.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}


def safetensors(tensors: Tensors) -> bytes:
    """Return a safetensors file as PyTorch users write it."""
    return bytes(save(tensors, metadata={"format": "pt"}))


def header(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    """Return a safetensors header alone, length included, for tensors given as (dtype, shape, bytes)."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, (dtype, shape, size) in tensors.items():
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode()
    return len(text).to_bytes(8, "little") + text


def card(repo_id: str, about: str, **metadata: str) -> bytes:
    """Return a README.md whose front matter lists the repository under image-classification."""
    task = {"license": "apache-2.0", "library_name": "transformers", "pipeline_tag": "image-classification"}
    lines = "\n".join(f"{name}: {value}" for name, value in (task | metadata).items())
    return f"---\n{lines}\n---\n# {repo_id}\n\n{about}\n".encode()


def files(**changes: Any) -> Files:
    """Return the model files of a healthy repository; ``changes`` go into the config."""
    return {
        "config.json": json_file(config(**changes)),
        "preprocessor_config.json": _PROCESSOR,
        "model.safetensors": safetensors(weights()),
    }


def json_file(value: Any) -> bytes:
    """Return a JSON file the way transformers writes it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
