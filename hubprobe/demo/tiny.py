"""A vision transformer of 5,000 parameters, in the files a real one has: what broken repositories are broken from."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from hubprobe.demo.repository import Files

LABELS = ("apple", "bicycle", "cloud", "drum", "eagle")

_HIDDEN, _MLP, _PATCH, _IMAGE = 16, 32, 16, 32

Tensors = dict[str, NDArray[Any]]


def config(labels: tuple[str, ...] = LABELS, **changes: Any) -> dict[str, Any]:
    """Return the config of a ``ViTForImageClassification`` that `weights` fits."""
    return {
        "architectures": ["ViTForImageClassification"],
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_size": _HIDDEN,
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "image_size": _IMAGE,
        "intermediate_size": _MLP,
        "label2id": {name: i for i, name in enumerate(labels)},
        "model_type": "vit",
        "num_attention_heads": 2,
        "num_channels": 3,
        "num_hidden_layers": 1,
        "patch_size": _PATCH,
        "problem_type": "single_label_classification",
        "qkv_bias": True,
        "transformers_version": "5.23.0",
    } | changes


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
    matter = {
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "image-classification",
    } | metadata
    lines = "\n".join(f"{name}: {value}" for name, value in matter.items())
    return f"---\n{lines}\n---\n# {repo_id}\n\n{about}\n".encode()


def files(**changes: Any) -> Files:
    """Return the model files of a healthy repository; ``changes`` go into the config."""
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"height": _IMAGE, "width": _IMAGE},
    }
    return {
        "config.json": json_file(config(**changes)),
        "preprocessor_config.json": json_file(processor),
        "model.safetensors": safetensors(weights()),
    }


def json_file(value: Any) -> bytes:
    """Return a JSON file the way transformers writes it."""
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
