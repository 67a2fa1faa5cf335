"""Odd image processors: settings of every kind for classes of transformers', made and run on one small picture."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.security import odd
from benchmarks.security.watch import Report, attempt, watching
from workspace import ModelError

KEYS = (
    "image_processor_type", "feature_extractor_type", "processor_class", "auto_map", "size", "crop_size",
    "pad_size", "crop_pct",
    "do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_pad", "do_convert_rgb", "image_mean", "image_std",
    "rescale_factor", "resample", "shortest_edge", "longest_edge", "height", "width", "size_divisor", "patch_size",
    "max_pixels", "min_pixels", "max_num_patches", "device", "data_format", "_processor_class", "interpolation",
)  # fmt: skip
KINDS = (
    "ViTImageProcessor", "ViTFeatureExtractor", "ConvNextImageProcessor", "MobileNetV2ImageProcessor",
    "CLIPImageProcessor",
    "BeitFeatureExtractor", "EfficientNetImageProcessor", "SegformerImageProcessor", "LevitImageProcessor",
    "AutoTokenizer",
    "PreTrainedModel", "os.system", "PerceiverImageProcessor", "BitImageProcessor", "Siglip2ImageProcessor", "pipeline",
)  # fmt: skip


def run(count: int, seed: int) -> Report:
    """Try ``count`` processors; return the report."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import ViTConfig

    from probing.attempts import Attempt
    from probing.images.processors import check_settings, for_transformers
    from tests.probing.conftest import PROCESSOR, vit_config

    config: Any = ViTConfig.from_dict(vit_config())
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path = folder / "preprocessor_config.json"

        def make(raw: bytes) -> None:
            path.write_bytes(raw)
            with Attempt("someone/model", "a" * 40, 1).phase("preprocess"):
                made = for_transformers(folder, config)
                check_settings(made.settings, 1024)

        path.write_text(json.dumps(PROCESSOR), encoding="utf-8")
        make(path.read_bytes())  # what is imported once belongs to no input
        with watching("processors", seed) as report:
            for number in range(seed, seed + count):
                chance = Random(number)
                given = dict(PROCESSOR)
                if chance.random() < 0.4:
                    given["image_processor_type"] = chance.choice(KINDS)
                if chance.random() < 0.3:
                    given["size"] = {chance.choice(KEYS[14:24]): chance.choice(odd.NUMBERS) for _ in range(2)}
                raw = odd.encoded(odd.changed(given, KEYS, chance), chance)
                attempt(report, lambda raw=raw: make(raw), f"seed {number}: {raw[:300]!r}", ModelError)  # type: ignore[misc]
    return report
