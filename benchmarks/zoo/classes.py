"""A tiny random model of every class in transformers' mapping of image classifiers, as its repository has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from benchmarks.zoo import modules
from benchmarks.zoo.repositories import Case, each, enliven, labels, read_json, write_json

if TYPE_CHECKING:
    from PIL import Image

OUTPUTS = 6

_PLAIN = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_SQUARE = {"size": {"height": 64, "width": 64}}
_CROP = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
_STAGES = {"depths": [1, 1, 1, 1], "hidden_sizes": [16, 24, 32, 48]}
_TEXT = {"text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}}
_VISION = _PLAIN | {"image_size": 64, "patch_size": 16}

SMALL: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "beit": (_VISION, _SQUARE | {"do_center_crop": False}),
    "bit": ({"embedding_size": 16, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 4}, _CROP),
    "clip": (_TEXT | {"vision_config": _VISION}, _CROP),
    "convnext": (_STAGES, {"size": {"shortest_edge": 64}}),
    "convnextv2": (_STAGES, {"size": {"shortest_edge": 384}}),
    "cvt": (
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3]}, {"size": {"shortest_edge": 64}}
    ),
    "data2vec-vision": (_VISION, _SQUARE | {"do_center_crop": False}),
    "deit": (_VISION, {"size": {"height": 72, "width": 72}, "crop_size": {"height": 64, "width": 64}}),
    "dinat": ({"embed_dim": 16, "depths": [1, 1], "num_heads": [1, 2], "dilations": [[1], [1]]}, _SQUARE),
    "dinov2": (_VISION, _CROP),
    "dinov2_with_registers": (_VISION, {"image_processor_type": "BitImageProcessor"} | _CROP),
    "donut-swin": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
                   _SQUARE | {"do_align_long_axis": False}),
    "efficientnet": ({"image_size": 64, "width_coefficient": 0.25, "depth_coefficient": 0.25, "hidden_dim": 320},
                     _SQUARE),
    "focalnet": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1], "focal_levels": [1, 1],
                  "focal_windows": [3, 3], "hidden_sizes": [16, 32]}, _CROP),
    "hgnet_v2": ({"embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1],
                  "stem_channels": [3, 8, 16], "stage_in_channels": [16, 32, 48, 64],
                  "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [32, 48, 64, 96],
                  "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2]},
                 {"image_processor_type": "ViTImageProcessor"} | _SQUARE),
    "hiera": ({"embed_dim": 16, "image_size": [64, 64], "patch_stride": [4, 4], "depths": [1, 1, 1, 1],
               "num_heads": [1, 1, 2, 2]}, _CROP),
    "ijepa": (_VISION, _SQUARE),
    "imagegpt": ({"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64, "vocab_size": 65},
                 {"size": {"height": 8, "width": 8},
                  "clusters": np.random.default_rng(0).uniform(-1, 1, (64, 3)).round(3).tolist()}),
    "levit": ({"image_size": 64, "hidden_sizes": [16, 24, 32], "num_attention_heads": [1, 1, 1], "depths": [1, 1, 1],
               "key_dim": [8, 8, 8]}, _CROP),
    "metaclip_2": (_TEXT | {"vision_config": _VISION}, _CROP),
    "mobilenet_v1": ({"image_size": 64, "depth_multiplier": 0.25}, _CROP),
    "mobilenet_v2": ({"image_size": 64, "depth_multiplier": 0.25}, _CROP),
    "mobilevit": ({"image_size": 64, "hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 8, 16, 24, 32, 40, 64]},
                  _CROP),
    "mobilevitv2": ({"image_size": 64, "width_multiplier": 0.25}, _CROP),
    "perceiver": ({"num_latents": 8, "d_latents": 16, "num_blocks": 1, "num_self_attends_per_block": 1,
                   "num_self_attention_heads": 2, "num_cross_attention_heads": 1, "image_size": 64},
                  {"size": {"height": 64, "width": 64}, "crop_size": {"height": 72, "width": 72}}),
    "poolformer": (_STAGES, {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "pp_lcnet": ({"scale": 0.25}, {"resize_short": 72, "crop_size": 64}),
    "pvt": ({"image_size": 64, "num_labels": OUTPUTS, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
             "num_attention_heads": [1, 2, 2, 2]}, _SQUARE),
    "pvt_v2": ({"image_size": 64, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1],
                "num_attention_heads": [1, 2, 2, 2]}, _SQUARE),
    "regnet": ({"embedding_size": 8, "hidden_sizes": [16, 16, 32, 32], "depths": [1, 1, 1, 1], "groups_width": 8},
               {"size": {"shortest_edge": 64}}),
    "resnet": ({"embedding_size": 8, "hidden_sizes": [16, 24, 32, 48], "depths": [1, 1, 1, 1]},
               {"size": {"shortest_edge": 64}}),
    "segformer": ({"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "num_attention_heads": [1, 2, 2, 2],
                   "decoder_hidden_size": 16}, _SQUARE),
    "siglip": (_TEXT | {"vision_config": _VISION}, _SQUARE),
    "siglip2": (_TEXT | {"vision_config": _PLAIN | {"num_patches": 64, "patch_size": 16}},
                {"max_num_patches": 64, "patch_size": 16}),
    "swiftformer": ({"image_size": 64, "embed_dims": [16, 16, 24, 32], "depths": [1, 1, 1, 1]}, _SQUARE),
    "swin": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, _SQUARE),
    "swinv2": ({"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}, _SQUARE),
    "textnet": ({"stem_out_channels": 16, "hidden_sizes": [16, 16, 24, 32, 32]}, {"size": {"shortest_edge": 64}}),
    "vit": (_VISION, _SQUARE),
    "vit_msn": (_VISION, _SQUARE),
}  # fmt: skip
"""By ``model_type``: the config of a tiny model, and what its processor is saved with. Perceiver's three classes and
their like share one, but for `_OF_CLASS`."""

_OF_CLASS: Mapping[str, Mapping[str, Any]] = {
    "PerceiverForImageClassificationFourier": {"image_size": 224},
    "PerceiverForImageClassificationConvProcessing": {},
}

NOT_RUN = {
    "ShieldGemma2ForImageClassification": ("not_a_classifier", "a language model that answers yes or no to policies"),
    "DinatForImageClassification": ("load_error", "needs natten, which is not installed: transformers refuses it, too"),
}
"""Classes that are not run: the status they end in, and why."""


def cases() -> Iterator[Case]:
    """Yield a case for each class of the mapping, tuples apart."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as NAMES

    for model_type, classes in NAMES.items():
        for name in (classes,) if isinstance(classes, str) else classes:
            if name in NOT_RUN:
                status, why = NOT_RUN[name]
                yield Case(name, partial(write_config, model_type, name), None, status, why, model_type)
            elif model_type == "timm_wrapper":
                yield Case(name, write_wrapper, pipeline, of=model_type)
            else:
                yield Case(name, partial(write, model_type, name), ORACLES.get(name, pipeline), of=model_type)


def write(model_type: str, name: str, folder: Path, more: Mapping[str, Any] | None = None) -> None:
    """Write a repository with a tiny model of a class and with its processor."""
    import transformers
    from transformers.models.auto import image_processing_auto as auto

    small, settings = SMALL[model_type]
    build(model_type, name, folder, small | _OF_CLASS.get(name, {}) | (more or {}))
    library: Any = auto
    kinds = library.IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type) or {}
    kind = settings.get("image_processor_type") or kinds.get("torchvision") or kinds["pil"]
    given = {k: v for k, v in settings.items() if k != "image_processor_type"}
    getattr(transformers, kind)(**given).save_pretrained(folder)


def write_config(model_type: str, name: str, folder: Path) -> None:
    """Write a repository of a class that cannot be built here: its config, and weights that are none."""
    from safetensors.torch import save_file

    small, _ = SMALL.get(model_type, ({}, {}))
    content = {"model_type": model_type, "architectures": [name], "id2label": labels(OUTPUTS), **small}
    write_json(folder / "config.json", content)
    save_file({"classifier.weight": torch.zeros(OUTPUTS, 32)}, folder / "model.safetensors")


def write_wrapper(folder: Path) -> None:
    """Write a timm model as transformers' wrapper saves it, once it has opened timm's own repository."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    modules.write("test_vit", {}, folder / "timm")
    config = read_json(folder / "timm" / "config.json")
    config["model_args"].pop("num_classes")  # the wrapper of transformers 5.24 passes it twice
    write_json(folder / "timm" / "config.json", config)
    auto: Any = AutoModelForImageClassification
    make: Any = AutoImageProcessor
    auto.from_pretrained(folder / "timm").save_pretrained(folder)
    make.from_pretrained(folder / "timm").save_pretrained(folder)
    shutil.rmtree(folder / "timm")


def build(model_type: str, name: str, folder: Path, settings: Mapping[str, Any], outputs: int = OUTPUTS) -> None:
    """Write ``config.json`` and ``model.safetensors`` of a random model of a class."""
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    mapping: Any = CONFIG_MAPPING
    config = mapping[model_type](**settings, id2label={int(k): v for k, v in labels(outputs).items()})
    torch.manual_seed(0)
    model = getattr(transformers, name)(config)
    enliven(model, model, (3, _edge(config), _edge(config)))
    model.save_pretrained(folder)


def _edge(config: Any) -> int:
    size = getattr(config, "image_size", 64)
    return int(size[0] if isinstance(size, (list, tuple)) else size)


def head_of(folder: Path, images: list[Image.Image]) -> np.ndarray[Any, Any]:
    """Ask a class whose output has no ``logits``, so that no pipeline takes it: what its head gives is the state."""
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    auto: Any = AutoModelForImageClassification
    make: Any = AutoImageProcessor
    model, processor = auto.from_pretrained(folder, dtype=torch.float32), make.from_pretrained(folder)
    made = [model(**processor(images=image, return_tensors="pt")).last_hidden_state for image in images]
    return np.concatenate([one.numpy() for one in made])


ORACLES = {"PPLCNetForImageClassification": head_of}


def pipeline(folder: Path, images: list[Image.Image]) -> np.ndarray[Any, Any]:
    """Ask transformers' own pipeline, an image at a time."""
    from transformers import pipeline as make

    run: Any = make("image-classification", model=str(folder), dtype=torch.float32, device="cpu")
    named = {v: int(k) for k, v in run.model.config.id2label.items()}
    if len(named) < len(run.model.config.id2label):
        raise AssertionError("labels that are not distinct: the pipeline cannot say which output is which")

    def one(image: Image.Image) -> Any:
        answers = np.zeros((1, len(named)))
        for answer in run(image, top_k=len(named), function_to_apply="none"):
            answers[0, named[answer["label"]]] = answer["score"]
        return answers

    return each(one, images)
