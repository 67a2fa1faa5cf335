"""A random model of every module of timm that registers one: the smallest that it has, as its repository has it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.zoo.repositories import Case, each, enliven

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

OUTPUTS = 6

SMALLEST: Mapping[str, str] = {
    "beit": "beit_base_patch16_224", "byoanet": "eca_halonext26ts", "byobnet": "test_byobnet", "cait": "cait_xxs24_224",
    "coat": "coat_tiny", "convit": "convit_tiny", "convmixer": "convmixer_768_32", "convnext": "test_convnext",
    "cpubone": "cpubone_nano", "crossvit": "crossvit_tiny_240", "csatv2": "csatv2", "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny", "davit": "davit_tiny", "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_patch16_224", "densenet": "densenet121", "dla": "dla46x_c", "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small", "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0", "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1", "efficientvit_mit": "efficientvit_b0", "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb", "fasternet": "fasternet_t0", "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf", "gcvit": "gcvit_xxtiny", "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050", "hardcorenas": "hardcorenas_b", "hgnet": "hgnetv2_b0", "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny", "hrnet": "hrnet_w18_small", "iformer": "iformer_t",
    "inception_next": "inception_next_atto", "inception_resnet_v2": "ens_adv_inception_resnet_v2",
    "inception_v3": "adv_inception_v3", "inception_v4": "inception_v4", "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s", "lowformer": "lowformer_b0", "mambaout": "test_mambaout", "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12", "mlp_mixer": "gmlp_ti16_224", "mobilenetv3": "mobilenetv3_small_050",
    "mobilenetv5": "mobilenetv5_300m", "mobilevit": "mobilevit_xxs", "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_gap", "nasnet": "nasnetalarge", "nest": "jx_nest_tiny",
    "nextvit": "nextvit_small", "nfnet": "test_nfnet", "pit": "pit_ti_224", "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0", "qwen3_vit": "qwen3_vit_88m", "rdnet": "rdnet_tiny", "regnet": "regnetx_002",
    "repghost": "repghostnet_050", "repvit": "repvit_m1", "res2net": "res2next50", "resnest": "resnest14d",
    "resnet": "test_resnet", "resnetv2": "resnetv2_18", "rexnet": "rexnet_100", "selecsls": "selecsls42",
    "senet": "legacy_seresnet18", "sequencer": "sequencer2d_s", "shvit": "shvit_s1", "sknet": "skresnet18",
    "starnet": "starnet_s050", "swiftformer": "swiftformer_xs", "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window16_256", "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224", "tnt": "tnt_s_legacy_patch16_224", "tresnet": "tresnet_m",
    "twins": "twins_svt_small", "vgg": "vgg11", "visformer": "visformer_tiny", "vision_transformer": "test_vit",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224", "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16", "vitamin": "vitamin_small_224", "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw", "xception": "legacy_xception", "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}  # fmt: skip
"""By module: its architecture with the fewest parameters. (byoanet: halonet_h1 has fewer, and is chaotic with random
weights: its own float32 and float64 are 2.8 deviations apart.)"""

NARROWER: Mapping[str, Mapping[str, Any]] = {
    "beit": {"depth": 2},
    "deepseek_vit": {"depth": 2},
    "gemma4_vit": {"depth": 2},
    "mobilenetv5": {"channel_multiplier": 0.25},
    "naflexvit": {"depth": 2},
    "qwen3_vit": {"depth": 2},
    "vision_transformer_sam": {"depth": 2, "img_size": 256},
}
"""Arguments that make it smaller still, where it has more than 80 million parameters."""


def cases() -> Iterator[Case]:
    """Yield a case for each module of the installed timm."""
    from timm.models import _registry

    known: Mapping[str, Any] = vars(_registry)["_module_to_models"]
    for module, names in sorted(known.items()):
        name = SMALLEST.get(module) or min(names)
        exactly = partial(create_model, dtype=torch.float64)
        yield Case(name, partial(write, name, NARROWER.get(module, {})), create_model, of=module, exactly=exactly)


def write(name: str, arguments: Mapping[str, Any], folder: Path) -> None:
    """Write a repository as timm's own export does."""
    import timm
    from safetensors.torch import save_file
    from timm.models import _hub

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=OUTPUTS, **arguments)
    enliven(model, model, vars(model)["pretrained_cfg"]["input_size"])
    folder.mkdir(parents=True, exist_ok=True)
    # as `_hub.save_for_hf`, which cannot save what is there under two names: the files on the Hub hold it twice
    _hub.save_config_for_hf(model, str(folder / "config.json"), model_args=dict(arguments) or None)
    save_file({k: v.clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip


def create_model(folder: Path, images: list[Image.Image], dtype: torch.dtype = torch.float32) -> np.ndarray[Any, Any]:
    """Ask timm's own model with its own transforms, an image at a time."""
    import timm
    from timm.data import create_transform, resolve_model_data_config

    model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True).eval().to(dtype)
    transform: Any = create_transform(**resolve_model_data_config(model), is_training=False)
    mode = "L" if vars(model)["pretrained_cfg"]["input_size"][0] == 1 else "RGB"
    return each(lambda image: model(transform(image.convert(mode))[None].to(dtype)).numpy(), images)
