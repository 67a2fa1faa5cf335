"""The image processors of the demo hub's models, as varied as on the real Hub.

Training only resizes and normalises, for the augmentation covers crops; evaluation goes through
the saved processor, crop and all.
"""

from typing import Any, NamedTuple

import transformers as hf

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
OWN = {"image_mean": [0.72, 0.69, 0.66], "image_std": [0.31, 0.31, 0.33]}
"""As of somebody who measured the mean and deviation of their own data."""


class Normalisation(NamedTuple):
    """What training has to imitate: mean and deviation per channel of 0..1, and whether BGR."""

    mean: list[float]
    std: list[float]
    reversed_channels: bool


def processor(kind: str, size: int) -> Any:
    """Return a transformers image processor of the named kind, for images of ``size`` pixels."""
    square, shortest = {"height": size, "width": size}, {"shortest_edge": size}
    larger = {"shortest_edge": round(size * 8 / 7)}
    builders: dict[str, tuple[Any, dict[str, Any]]] = {
        "vit": (hf.ViTImageProcessor, {"size": square, **IMAGENET}),
        "vit_half": (hf.ViTImageProcessor, {"size": square, **HALF}),
        "vit_own": (hf.ViTImageProcessor, {"size": square, "resample": 3, **OWN}),
        "convnext": (hf.ConvNextImageProcessor, {"size": shortest, "crop_pct": 0.95, **IMAGENET}),
        "convnext_crop": (hf.ConvNextImageProcessor, {"size": shortest, "crop_pct": 0.875, **IMAGENET}),
        "bit": (hf.BitImageProcessor, {"size": shortest, "crop_size": square, **HALF}),
        "deit": (hf.DeiTImageProcessor, {"size": larger, "crop_size": square, **IMAGENET}),
        "beit": (hf.BeitImageProcessor, {"size": square, "do_center_crop": False, **HALF}),
        "levit": (hf.LevitImageProcessor, {"size": shortest, "crop_size": square, **IMAGENET}),
        "pvt": (hf.PvtImageProcessor, {"size": square, **IMAGENET}),
        "poolformer": (hf.PoolFormerImageProcessor, {"size": shortest, "crop_size": square, "crop_pct": 0.9}),
        "mobilenet_v1": (hf.MobileNetV1ImageProcessor, {"size": larger, "crop_size": square, **HALF}),
        "mobilenet_v2": (hf.MobileNetV2ImageProcessor, {"size": larger, "crop_size": square, **HALF}),
        "mobilevit": (hf.MobileViTImageProcessor, {"size": larger, "crop_size": square}),
        "efficientnet": (hf.EfficientNetImageProcessor, {"size": square, "rescale_offset": False, **IMAGENET}),
    }
    cls, options = builders[kind]
    return cls(**options)


def normalisation(kind: str) -> Normalisation:
    """Return how a kind of processor normalises."""
    made = processor(kind, 64)
    flipped = bool(getattr(made, "do_flip_channel_order", False))
    if not getattr(made, "do_normalize", False):
        return Normalisation([0.0] * 3, [1.0] * 3, flipped)
    mean, std = list(made.image_mean), list(made.image_std)
    if getattr(made, "include_top", False):
        std = [value * value for value in std]  # EfficientNet's processor divides by it twice
    return Normalisation(mean, std, flipped)
