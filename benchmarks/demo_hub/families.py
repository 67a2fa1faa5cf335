"""The architectures: tiny configurations of transformers' image classifiers and their processors.

Every builder takes the number of logits and a width factor and returns a configuration whose
model has at most about 190,000 parameters (400 KB in half precision) at a factor of 1.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers

hf: Any = transformers
"""Untyped, for the configurations' constructors take more than their signatures say."""


def _even(width: float, step: int = 4) -> int:
    return max(step, round(width / step) * step)


def resnet(n: int, w: float = 1.0) -> Any:
    """ResNet with basic blocks."""
    sizes = [_even(s * w) for s in (24, 40, 60, 72)]
    return hf.ResNetConfig(
        num_labels=n, embedding_size=sizes[0], hidden_sizes=sizes, depths=[1, 1, 1, 1], layer_type="basic"
    )


def resnet_bottleneck(n: int, w: float = 1.0) -> Any:
    """ResNet with bottleneck blocks, three stages deep."""
    sizes = [_even(s * w) for s in (48, 96, 160)]
    return hf.ResNetConfig(num_labels=n, embedding_size=24, hidden_sizes=sizes, depths=[2, 2, 2])


def regnet(n: int, w: float = 1.0) -> Any:
    """RegNetY: grouped convolutions with squeeze and excitation."""
    sizes = [_even(s * w, 8) for s in (32, 48, 96, 136)]
    return hf.RegNetConfig(
        num_labels=n, embedding_size=24, hidden_sizes=sizes, depths=[1, 1, 2, 1], groups_width=8, layer_type="y"
    )


def regnet_x(n: int, w: float = 1.0) -> Any:
    """RegNetX: as above, without squeeze and excitation."""
    sizes = [_even(s * w, 16) for s in (32, 64, 96, 160)]
    return hf.RegNetConfig(
        num_labels=n, embedding_size=24, hidden_sizes=sizes, depths=[1, 1, 2, 1], groups_width=16, layer_type="x"
    )


def convnext(n: int, w: float = 1.0) -> Any:
    """ConvNeXt; the layer scale starts at 0.1, for the training is short."""
    sizes = [_even(s * w) for s in (32, 56, 88)]
    return hf.ConvNextConfig(
        num_labels=n, num_stages=3, hidden_sizes=sizes, depths=[1, 1, 2], patch_size=4, layer_scale_init_value=0.5
    )


def convnextv2(n: int, w: float = 1.0) -> Any:
    """ConvNeXt V2."""
    sizes = [_even(s * w) for s in (32, 56, 88)]
    return hf.ConvNextV2Config(num_labels=n, num_stages=3, hidden_sizes=sizes, depths=[1, 1, 2], patch_size=4)


def mobilenet_v1(n: int, w: float = 1.0) -> Any:
    """MobileNet V1; its widest layer has 1,024 channels times the multiplier."""
    return hf.MobileNetV1Config(num_labels=n, depth_multiplier=0.22 * w, min_depth=8, classifier_dropout_prob=0.05)


def mobilenet_v2(n: int, w: float = 1.0) -> Any:
    """MobileNet V2; the last layer shrinks with the rest."""
    return hf.MobileNetV2Config(
        num_labels=n, depth_multiplier=0.25 * w, finegrained_output=False, classifier_dropout_prob=0.05
    )


def efficientnet(n: int, w: float = 1.0) -> Any:
    """EfficientNet with four of the seven block groups."""
    return hf.EfficientNetConfig(
        num_labels=n,
        width_coefficient=0.5,
        depth_coefficient=1.0,
        in_channels=[32, 16, 48, 80],
        out_channels=[16, 48, 80, _even(128 * w, 8)],
        kernel_sizes=[3, 3, 5, 3],
        strides=[1, 2, 2, 2],
        num_block_repeats=[1, 1, 1, 1],
        expand_ratios=[1, 4, 4, 4],
        depthwise_padding=[],
        hidden_dim=640,
        dropout_rate=0.05,
        drop_connect_rate=0.0,
        batch_norm_momentum=0.1,
    )


def mobilevit(n: int, w: float = 1.0) -> Any:
    """MobileViT: convolutions with small transformers inside."""
    return hf.MobileViTConfig(
        num_labels=n,
        image_size=64,
        hidden_sizes=[24, 32, 36],
        neck_hidden_sizes=[16, 16, 24, 28, 32, 36, _even(96 * w)],
        expand_ratio=2.0,
        mlp_ratio=2.0,
        output_stride=16,
        classifier_dropout_prob=0.0,
    )


def poolformer(n: int, w: float = 1.0) -> Any:
    """PoolFormer: average pooling as the token mixer."""
    sizes = [_even(s * w) for s in (24, 48, 64, 80)]
    return hf.PoolFormerConfig(
        num_labels=n, hidden_sizes=sizes, depths=[1, 1, 1, 1], mlp_ratio=3.0, drop_path_rate=0.0,
        use_layer_scale=False,
    )  # fmt: skip


def _plain_transformer(n: int, w: float, size: int) -> dict[str, Any]:
    width = _even(64 * w, 16)
    return {
        "num_labels": n,
        "image_size": size,
        "patch_size": 8,
        "hidden_size": width,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def vit(n: int, w: float = 1.0) -> Any:
    """Vision Transformer, patches of 8."""
    return hf.ViTConfig(**_plain_transformer(n, w, 64))


def deit(n: int, w: float = 1.0) -> Any:
    """DeiT, patches of 8."""
    return hf.DeiTConfig(**_plain_transformer(n, w, 64), architectures=["DeiTForImageClassification"])


def beit(n: int, w: float = 1.0) -> Any:
    """BEiT with relative positions and mean pooling."""
    return hf.BeitConfig(
        **_plain_transformer(n, w, 64), use_relative_position_bias=True, use_mean_pooling=True, drop_path_rate=0.0,
        layer_scale_init_value=0.1, out_indices=[1, 2, 3, 4],
    )  # fmt: skip


def swin(n: int, w: float = 1.0) -> Any:
    """Swin, windows of 3 on patches of 4."""
    return hf.SwinConfig(
        num_labels=n, image_size=64, patch_size=4, embed_dim=_even(28 * w), depths=[1, 2, 1], num_heads=[2, 2, 4],
        window_size=3, mlp_ratio=2.0, drop_path_rate=0.0,
    )  # fmt: skip


def swinv2(n: int, w: float = 1.0) -> Any:
    """Swin V2, windows of 4 on patches of 4."""
    return hf.Swinv2Config(
        num_labels=n, image_size=64, patch_size=4, embed_dim=_even(28 * w), depths=[1, 2, 1], num_heads=[2, 2, 4],
        window_size=4, mlp_ratio=2.0, drop_path_rate=0.0,
    )  # fmt: skip


def levit(n: int, w: float = 1.0) -> Any:
    """LeViT: a convolutional stem, then attention with learnt biases."""
    sizes = [_even(s * w, 16) for s in (48, 64, 80)]
    return hf.LevitConfig(
        num_labels=n, image_size=64, hidden_sizes=sizes, num_attention_heads=[2, 3, 4], depths=[1, 1, 1],
        key_dim=[16, 16, 16], patch_size=16, mlp_ratio=[2, 2, 2], attention_ratio=[2, 2, 2], drop_path_rate=0,
        architectures=["LevitForImageClassification"],
    )  # fmt: skip


def pvt(n: int, w: float = 1.0) -> Any:
    """Pyramid Vision Transformer."""
    sizes = [_even(s * w, 8) for s in (24, 40, 56, 72)]
    return hf.PvtConfig(
        num_labels=n, image_size=64, hidden_sizes=sizes, depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        sequence_reduction_ratios=[8, 4, 2, 1], mlp_ratios=[2, 2, 2, 2], drop_path_rate=0.0,
    )  # fmt: skip


def focalnet(n: int, w: float = 1.0) -> Any:
    """FocalNet: focal modulation in place of attention."""
    return hf.FocalNetConfig(
        num_labels=n, image_size=64, patch_size=4, embed_dim=_even(28 * w), depths=[1, 2, 1],
        hidden_sizes=[_even(28 * w), _even(28 * w) * 2, _even(28 * w) * 3], focal_levels=[2, 2, 2],
        focal_windows=[3, 3, 3], mlp_ratio=2.0, drop_path_rate=0.0,
    )  # fmt: skip


def bit(n: int, w: float = 1.0) -> Any:
    """BiT: ResNet V2 with group norm and weight standardisation."""
    sizes = [_even(s * w, 32) for s in (64, 96, 160)]
    return hf.BitConfig(
        num_labels=n, embedding_size=32, hidden_sizes=sizes, depths=[1, 2, 1], layer_type="preactivation",
        num_groups=8,
    )  # fmt: skip


FAMILIES: dict[str, Callable[[int, float], Any]] = {
    function.__name__: function
    for function in (
        resnet, resnet_bottleneck, regnet, regnet_x, convnext, convnextv2, mobilenet_v1, mobilenet_v2, efficientnet,
        mobilevit, poolformer, vit, deit, beit, swin, swinv2, levit, pvt, focalnet, bit,
    )
}  # fmt: skip


def scale(model: transformers.PreTrainedModel) -> None:
    """Draw the weights of linear and convolutional layers with deviation 1 / sqrt(inputs).

    Most classes draw with deviation 0.02, meant for widths of 768: narrow models start nearly dead.
    """
    for module in model.modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            torch.nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)


def build(family: str, labels: int, width: float = 1.0, size: int = 64) -> transformers.PreTrainedModel:
    """Return a freshly initialised classifier of a family for images of ``size`` pixels a side."""
    config = FAMILIES[family](labels, width)
    if hasattr(config, "image_size"):
        config.image_size = size
    model: transformers.PreTrainedModel = hf.AutoModelForImageClassification.from_config(config)
    if not family.startswith(("resnet", "regnet")):  # these are drawn by fan-in already
        scale(model)
    return model
