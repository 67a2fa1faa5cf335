"""Odd ``config.json`` files beside the weights of a tiny model: read as the crawler reads them, then built and loaded.

Crawler and prober are asked both, and must agree: a config that the one refuses is refused by the other, for the same
reason.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from workspace import CrawlConfig, ModelError

KEYS = (
    "model_type", "architectures", "architecture", "id2label", "label2id", "num_labels", "_num_labels", "num_classes",
    "image_size", "patch_size", "hidden_size", "hidden_sizes", "num_hidden_layers", "num_attention_heads", "depths",
    "embed_dim", "num_channels", "intermediate_size", "auto_map", "quantization_config", "problem_type", "torch_dtype",
    "dtype", "attn_implementation", "_attn_implementation", "use_pretrained_backbone", "backbone", "backbone_config",
    "vision_config", "text_config", "model_args", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path",
    "features_only", "cache_dir", "label_names", "label_descriptions", "labels", "input_size", "mean", "std",
    "crop_pct", "interpolation", "global_pool", "pretrained_strict", "file", "url", "custom_load", "hf_hub_id",
    "trust_remote_code", "pruned_heads", "hidden_act", "layers", "block", "act_layer", "norm_layer", "drop_rate",
    "transformers_version", "initializer_range", "layer_norm_eps", "qkv_bias", "in_chans", "img_size",
    "tie_word_embeddings", "_name_or_path",
)  # fmt: skip
MODEL_TYPES = (
    "vit",
    "resnet",
    "timm_wrapper",
    "swin",
    "convnext",
    "clip",
    "siglip",
    "bert",
    "beit",
    "mobilenet_v2",
    "zzz",
)


def run(count: int, seed: int) -> Report:
    """Try ``count`` configs; return the report."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from probing.attempts import Attempt
    from probing.model.loading import Caps, load
    from tests.probing.conftest import vit_config, write_model
    from workspace.architectures import Architectures
    from workspace.model_config import parse_config
    from workspace.model_rules import refusal

    limits, known = CrawlConfig(), Architectures.here()
    caps = Caps(limits.max_parameters, limits.max_labels, limits.max_image_size, memory_bytes=2 * 1024**3, probes=100)
    genuine: list[dict[str, Any]] = [
        vit_config(),
        {"architecture": "test_vit", "num_classes": 5, "pretrained_cfg": {"input_size": [3, 160, 160], "tag": "in1k"}},
        {"model_type": "timm_wrapper", "architecture": "test_vit", "num_labels": 5, "model_args": {}},
    ]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_model(Path(scratch) / "model", genuine[0], _weights(), None)
        load(folder, caps)  # what is imported once belongs to no input

        def both(raw: bytes) -> None:
            (folder / "config.json").write_bytes(raw)
            said: str | None = None
            try:
                config = parse_config(raw, limits.max_labels)
                verdict = refusal(config, limits, known)
                said = None if verdict is None else verdict.status.value
            except ModelError as error:
                said = error.status.value
            try:
                with Attempt("someone/model", "a" * 40, 1).phase("load"):  # as the prober books what a library raises
                    load(folder, caps)
            except ModelError as error:
                if said is not None and error.status.value != said:
                    raise AssertionError(f"the crawler says {said}, the prober {error}") from error
                raise
            if said is not None:
                raise AssertionError(f"the crawler refuses it ({said}), the prober runs it")

        with watching("configs", seed) as report:
            for number in range(seed, seed + count):
                chance = Random(number)
                made = odd.changed(chance.choice(genuine), KEYS, chance)
                if chance.random() < 0.2:
                    made["model_type"] = chance.choice(MODEL_TYPES)
                raw = odd.encoded(made, chance)
                attempt(report, lambda raw=raw: both(raw), f"seed {number}: {raw[:300]!r}", ModelError)  # type: ignore[misc]
    return report


def _weights() -> dict[str, Any]:
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    from tests.probing.conftest import vit_config

    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig.from_dict(vit_config()))
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
