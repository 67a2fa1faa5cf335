"""Repositories that are odd in one way each: their processors, their configs, their weights, timm's several forms.

Most ask the library about the very same files: it must end in ``ok``, with the library's numbers, exactly where the
library itself runs it. Where transformers refuses its own older files the question is put to the same repository with
the one line that a person would mend.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.zoo import classes, modules
from benchmarks.zoo.repositories import Case, Oracle, labels, read_json, write_json

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

Change = Callable[[dict[str, Any]], Any]
"""What is odd: it changes a file's object in place, or returns another."""

CONFIG, PROCESSOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"


def cases() -> Iterator[Case]:
    """Yield them all, kind by kind."""
    yield from old_names()
    yield from sizes()
    yield from without_a_file()
    yield from other_processors()
    yield from configs()
    yield from weights()
    yield from timm_configs()


# ── how one is made ─────────────────────────────────────────────────────────────────────────────────────────────────
@cache
def _base(name: str) -> Path:
    """Return the folder of a whole repository of a tiny model, made once."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-"))
    if name in _TIMM:
        modules.write(name, _TIMM[name], folder)
    else:
        model_type, small = _BASES[name]
        classes.write(model_type, name.partition(" ")[0], folder, small)
    return folder


_BASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ViTForImageClassification": ("vit", {}),
    "ViTForImageClassification 64 x 96": ("vit", {"image_size": [64, 96]}),
    "ViTForImageClassification gray": ("vit", {"num_channels": 1}),
    "ConvNextForImageClassification": ("convnext", {}),
    "MobileNetV2ForImageClassification": ("mobilenet_v2", {}),
    "ResNetForImageClassification": ("resnet", {}),
    "CLIPForImageClassification": ("clip", {}),
    "DeiTForImageClassification": ("deit", {}),
    "BeitForImageClassification": ("beit", {}),
    "Dinov2ForImageClassification": ("dinov2", {}),
    "SiglipForImageClassification": ("siglip", {}),
    "Siglip2ForImageClassification": ("siglip2", {}),
    "SwinForImageClassification": ("swin", {}),
    "LevitForImageClassification": ("levit", {}),
    "PerceiverForImageClassificationLearned": ("perceiver", {}),
    "MobileViTForImageClassification": ("mobilevit", {}),
    "TextNetForImageClassification": ("textnet", {}),
    "ImageGPTForImageClassification": ("imagegpt", {}),
}
_TIMM: Mapping[str, Mapping[str, Any]] = {
    "test_vit": {}, "test_resnet": {}, "test_convnext": {}, "test_efficientnet": {}, "test_mambaout": {},
    "test_vit2": {"in_chans": 1},
}  # fmt: skip


def _write(base: str, changes: Mapping[str, Change | None], folder: Path) -> None:
    for path in _base(base).iterdir():
        shutil.copy(path, folder / path.name)
    for name, change in changes.items():
        path = folder / name
        if change is None:
            path.unlink()
        elif name == WEIGHTS:
            _rewrite(path, change)
        else:
            content = read_json(path) if path.exists() else {}
            changed = change(content)
            write_json(path, content if changed is None else changed)


def _rewrite(path: Path, change: Change) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    changed = change(tensors) or tensors
    path.unlink()
    if isinstance(changed, list):  # parts
        places = {}
        for i, part in enumerate(changed, 1):
            file = f"model-{i:05d}-of-{len(changed):05d}.safetensors"
            save_file(part, path.with_name(file), metadata={"format": "pt"})
            places |= dict.fromkeys(part, file)
        write_json(path.with_name("model.safetensors.index.json"), {"metadata": {}, "weight_map": places})
    else:
        save_file(changed, path, metadata={"format": "pt"})


def _mended(changes: Mapping[str, Change | None], oracle: Oracle = classes.pipeline) -> Oracle:
    """Ask the library about the same repository with some files changed as a person would mend them."""

    def ask(folder: Path, images: list[Image.Image]) -> np.ndarray[Any, Any]:
        with tempfile.TemporaryDirectory() as made:
            copy = Path(made) / "mended"
            shutil.copytree(folder, copy)
            for name, change in changes.items():
                content = read_json(copy / name) if (copy / name).exists() else {}
                assert change is not None
                changed = change(content)
                write_json(copy / name, content if changed is None else changed)
            return oracle(copy, images)

    return ask


def _case(
    name: str,
    base: str,
    changes: Mapping[str, Change | None],
    mend: Mapping[str, Change | None] | None = None,
    **more: Any,
) -> Case:
    library = modules.create_model if base in _TIMM else classes.pipeline
    oracle = library if mend is None else _mended(mend, library)
    return Case(name.replace(" ", "-").replace("/", "-"), partial(_write, base, changes), oracle, of=base, **more)


def _set(**values: Any) -> Change:
    return lambda content: content.update(values)


def _only(**values: Any) -> Change:
    return lambda _: values


def _without(*names: str) -> Change:
    return lambda content: {k: v for k, v in content.items() if k not in names}


# ── processors ──────────────────────────────────────────────────────────────────────────────────────────────────────
_SQUARE = {"size": {"height": 64, "width": 64}}
_CROPPED = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
_OLD: Mapping[str, Mapping[str, Any]] = {
    "BeitFeatureExtractor": {"size": 64, "crop_size": 64, "do_center_crop": False},
    "ChineseCLIPFeatureExtractor": _SQUARE | {"crop_size": 64},
    "CLIPFeatureExtractor": {"size": 64, "crop_size": 64},
    "ConvNextFeatureExtractor": {"size": 64, "crop_pct": 0.875},
    "DeiTFeatureExtractor": {"size": 72, "crop_size": 64},
    "DonutFeatureExtractor": {"size": [64, 64], "do_align_long_axis": False},
    "DPTFeatureExtractor": {"size": 64, "keep_aspect_ratio": False},
    "FlavaFeatureExtractor": {"size": 64, "crop_size": 64},
    "GLPNFeatureExtractor": {"size_divisor": 32},
    "LevitFeatureExtractor": {"size": 64, "crop_size": 64},
    "MobileNetV1FeatureExtractor": _CROPPED,
    "MobileNetV2FeatureExtractor": _CROPPED,
    "MobileViTFeatureExtractor": {"size": 72, "crop_size": 64, "do_flip_channel_order": True},
    "OwlViTFeatureExtractor": {"size": 72, "crop_size": 64, "do_center_crop": True},
    "PerceiverFeatureExtractor": {"size": 64, "crop_size": 72},
    "PoolFormerFeatureExtractor": {"size": 64, "crop_pct": 0.95},
    "SegformerFeatureExtractor": {"size": 64, "reduce_labels": False},
    "ViltFeatureExtractor": {"size": 64, "size_divisor": 32},
    "VideoMAEFeatureExtractor": {"size": 64},
    "ViTFeatureExtractor": {"size": 64},
    "YolosFeatureExtractor": {"size": 64, "max_size": 128, "format": "coco_detection"},
}
"""Names of classes that transformers 4 wrote, and the sizes as it wrote them."""


def old_names() -> Iterator[Case]:
    """Yield processors under the names of transformers 4, for a model that takes any size."""
    base = "ConvNextForImageClassification"
    for name, given in _OLD.items():
        new = name.replace("FeatureExtractor", "ImageProcessor")
        settings = {"do_resize": True, "do_normalize": True, **given}
        mend = {PROCESSOR: _set(image_processor_type=new)}
        yield _case(f"old {name}", base, {PROCESSOR: _only(image_processor_type=name, **settings)}, mend)
    for name in ("ViTFeatureExtractor", "BeitFeatureExtractor"):
        given = {"feature_extractor_type": name, "size": 64, "do_center_crop": False}
        yield _case(f"old {name} under its own key", "ViTForImageClassification", {PROCESSOR: _only(**given)})
    for name in ("ViTImageProcessorFast", "ViTImageProcessorPil"):
        yield _case(f"new {name}", "ViTForImageClassification",
                    {PROCESSOR: _only(image_processor_type=name, size=64)})  # fmt: skip
    both = {"image_processor_type": "ViTImageProcessor", "feature_extractor_type": "ViTFeatureExtractor", "size": 64}
    yield _case("old and new name", "ViTForImageClassification", {PROCESSOR: _only(**both)})


_SIZES: Mapping[str, Any] = {
    "a number": 64,
    "a float": 64.0,
    "a list": [64, 96],
    "height and width": {"height": 64, "width": 96},
    "shortest edge": {"shortest_edge": 64},
    "longest edge": {"longest_edge": 96},
    "both edges": {"shortest_edge": 64, "longest_edge": 96},
    "most height and width": {"max_height": 128, "max_width": 192},
}
_KINDS: Mapping[str, Mapping[str, Any]] = {
    "ViTImageProcessor": {},
    "CLIPImageProcessor": {"do_center_crop": False},
    "BitImageProcessor": {"crop_size": {"height": 48, "width": 48}},
    "ConvNextImageProcessor": {},
    "SiglipImageProcessor": {},
    "EfficientNetImageProcessor": {"crop_size": 48},
}


def sizes() -> Iterator[Case]:
    """Yield processors by how they say sizes, for a model that takes any size."""
    base = "ConvNextForImageClassification"
    for kind, more in _KINDS.items():
        for words, size in _SIZES.items():
            settings = {"image_processor_type": kind, "size": size, **more}
            yield _case(f"{kind} {words}", base, {PROCESSOR: _only(**settings)})
    thin = {"image_processor_type": "ViTImageProcessor", "size": {"max_height": 64, "max_width": 96}}
    yield _case("too thin for the model", base, {PROCESSOR: _only(**thin)}, ends="forward_error",
                why="one picture becomes too thin: the pipeline fails on that alone, we on the model")  # fmt: skip
    for words, crop in (("a list", [48, 64]), ("shortest edge", {"shortest_edge": 48}), ("null", None)):
        settings = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 72}, "crop_size": crop}
        yield _case(f"crop {words}", base, {PROCESSOR: _only(**settings)})
    for kind in ("ViTImageProcessor", "CLIPImageProcessor", "ConvNextImageProcessor"):
        settings = {"image_processor_type": kind, "do_resize": False, "do_center_crop": False}
        yield _case(f"{kind} does not resize", base, {PROCESSOR: _only(**settings)})
    settings = {"image_processor_type": "CLIPImageProcessor", "do_resize": False, "crop_size": 64}
    yield _case("crops without resizing", base, {PROCESSOR: _only(**settings)})


def _as_made(**settings: Any) -> Mapping[str, Change | None]:
    return {PROCESSOR: _only(**settings)}


def without_a_file() -> Iterator[Case]:
    """Yield repositories without a processor: the class's own ratio of resize to crop at the config's size, by hand."""
    cropped = {"crop_size": {"height": 64, "width": 64}}
    expected: Mapping[str, Mapping[str, Any]] = {
        "ViTForImageClassification": {"image_processor_type": "ViTImageProcessor", **_SQUARE},
        "ViTForImageClassification 64 x 96": {
            "image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 96},
        },
        "CLIPForImageClassification": {
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 64}, **cropped,
        },
        "DeiTForImageClassification": {  # 256 to 224 by default
            "image_processor_type": "DeiTImageProcessor", "size": {"height": 73, "width": 73}, **cropped,
        },
        "BeitForImageClassification": {"image_processor_type": "BeitImageProcessor", **_SQUARE},
        "Dinov2ForImageClassification": {
            "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 64}, **cropped,
        },
        "SiglipForImageClassification": {"image_processor_type": "SiglipImageProcessor", **_SQUARE},
        "SwinForImageClassification": {"image_processor_type": "ViTImageProcessor", **_SQUARE},
        "MobileNetV2ForImageClassification": {  # 256 to 224 by default
            "image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 73}, **cropped,
        },
        "ConvNextForImageClassification": {  # its config's own default
            "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 224},
        },
        "ResNetForImageClassification": {"image_processor_type": "ConvNextImageProcessor"},
        "TextNetForImageClassification": {"image_processor_type": "TextNetImageProcessor"},
    }  # fmt: skip
    for base, settings in expected.items():
        changes: dict[str, Change | None] = {PROCESSOR: None}
        if base.startswith("ConvNext"):
            changes[CONFIG] = _without("image_size")
        yield _case(f"no processor {base}", base, changes, _as_made(**settings))
    yield _case("an empty processor", "ViTForImageClassification", {PROCESSOR: _only(**_SQUARE)},
                _as_made(image_processor_type="ViTImageProcessor", **_SQUARE))  # fmt: skip


def other_processors() -> Iterator[Case]:
    """Yield processors in other places, and those that make something else than a square."""
    vit = "ViTForImageClassification"

    def moved(folder: Path) -> None:
        _write(vit, {}, folder)
        write_json(folder / "processor_config.json", {"image_processor": read_json(folder / PROCESSOR)})
        (folder / PROCESSOR).unlink()

    yield Case("in-processor_config.json", moved, classes.pipeline, of=vit)
    whole = {"processor_class": "CLIPProcessor", "image_processor": {"image_processor_type": "ViTImageProcessor",
             "size": {"height": 64, "width": 64}, "image_mean": [0.1, 0.2, 0.3]}}  # fmt: skip
    yield _case("in both files", vit, {"processor_config.json": _only(**whole)})
    own = {"AutoImageProcessor": "own.Own"}
    yield _case("auto_map of a known class", vit, {PROCESSOR: _set(auto_map=own)}, {PROCESSOR: _without("auto_map")})
    yield _case("code of its own", vit,
                {PROCESSOR: _only(image_processor_type="Own", auto_map=own)},
                ends="processor_error", why="code of its own is never run")  # fmt: skip
    yield _case("gray", "ViTForImageClassification gray",
                {PROCESSOR: _set(image_mean=[0.5], image_std=[0.5])}, ends="ok",
                why="the pipeline gives it three channels; we make one, as its processor is for")  # fmt: skip
    for name, settings in {
        "a mean for all": {"image_mean": 0.5, "image_std": 0.5},
        "no normalisation": {"do_normalize": False},
        "no rescaling": {"do_rescale": False},
        "factor of 1 to 127.5": {"rescale_factor": 1 / 127.5},
        "nearest": {"resample": 0},
        "lanczos": {"resample": 1},
        "hamming": {"resample": 5},
        "converts to RGB": {"do_convert_rgb": True},
        "unknown keys": {"crop_margin": 7, "foo": "bar", "transformers_version": "4.2"},
        "null settings": {"image_mean": None, "crop_size": None, "do_center_crop": None},
        "flags as numbers": {"do_resize": 1, "do_normalize": 1},
    }.items():
        yield _case(name, vit, {PROCESSOR: _set(**settings)})
    naflex = "Siglip2ForImageClassification"
    yield _case("NaFlex of 36 patches", naflex, {PROCESSOR: _set(max_num_patches=36)})
    yield _case("NaFlex of its default", naflex, {PROCESSOR: _without("max_num_patches")})
    text = "TextNetForImageClassification"
    yield _case("TextNet of 96", text, {PROCESSOR: _set(size={"shortest_edge": 96}, size_divisor=32)})
    yield _case("TextNet of its default", text, {PROCESSOR: _without("size", "size_divisor")})
    yield _case("an old ImageGPT", "ImageGPTForImageClassification",
                {PROCESSOR: _set(image_processor_type="ImageGPTFeatureExtractor", size=8)},
                {PROCESSOR: _set(image_processor_type="ImageGPTImageProcessor")})  # fmt: skip


# ── configs and weights ─────────────────────────────────────────────────────────────────────────────────────────────
def configs() -> Iterator[Case]:
    """Yield configs as people write them."""
    vit = "ViTForImageClassification"
    for name, change in {
        "auto_map empty": _set(auto_map={}),
        "auto_map of a processor": _set(auto_map={"AutoImageProcessor": "own.Own"}),
        "label2id of another shape": _set(label2id={"cat": {"a": 1}}),
        "keys of labels in another order": _set(id2label=dict(reversed(labels(classes.OUTPUTS).items()))),
        "num_labels beside labels": _set(num_labels=classes.OUTPUTS),
        "unknown settings": _set(foo={"bar": [1, "x"]}, torchscript=True, _name_or_path="a/b"),
        "use_cache and other old keys": _set(use_cache=True, pruned_heads={}, output_attentions=False),
        "dtype half in the config": _set(dtype="float16"),
        "torch_dtype half in the config": _set(torch_dtype="float16"),
        "attention of a kernel": _set(_attn_implementation="eager"),
    }.items():
        yield _case(name, vit, {CONFIG: change})
    for name, change in {
        "auto_map null": _set(auto_map=None),
        "quantization_config empty": _set(quantization_config={}),
        "labels null": _set(id2label={str(i): None for i in range(classes.OUTPUTS)}),
        "labels from 1": _set(id2label={str(i + 1): f"thing {i}" for i in range(classes.OUTPUTS)}),
        "labels in a list": _set(id2label=list(labels(classes.OUTPUTS).values())),
        "labels as objects": _set(id2label={str(i): {"name": i} for i in range(classes.OUTPUTS)}),
        "labels as keys": _set(id2label={f"thing {i}": i for i in range(classes.OUTPUTS)}),
        "num_labels alone": lambda c: {k: v for k, v in c.items() if "label" not in k} | {"num_labels": 6},
        "_num_labels alone": lambda c: {k: v for k, v in c.items() if "label" not in k} | {"_num_labels": 6},
        "no architectures": _without("architectures"),
        "several architectures": _set(architectures=["Own", "ViTForImageClassification"]),
    }.items():
        yield _case(name, vit, {CONFIG: change}, {CONFIG: lambda _: read_json(_base(vit) / CONFIG)})
    yield _case("a head of another name", vit, {CONFIG: _set(architectures=["ViTModel"])},
                ends="not_a_classifier", why="its config says that it has no head")  # fmt: skip
    yield _case("code of its own in the config", vit, {CONFIG: _set(auto_map={"AutoModel": "own.Own"})},
                ends="custom_code", why="code of its own is never run")  # fmt: skip
    yield _case("quantised", vit, {CONFIG: _set(quantization_config={"quant_method": "bitsandbytes"})},
                ends="quantised", why="needs a runtime of its own")  # fmt: skip


def weights() -> Iterator[Case]:
    """Yield weights as people save them."""
    for base in ("ViTForImageClassification", "test_resnet"):
        for kind in (torch.float64, torch.float16, torch.bfloat16):
            yield _case(f"{base} in {str(kind)[6:]}", base, {WEIGHTS: partial(_to, kind)})
        yield _case(f"{base} with more in it", base,
                    {WEIGHTS: lambda t: t | {"own.weight": torch.ones(3, 3), "step": torch.ones(1)}})  # fmt: skip
    yield _case("in parts", "ViTForImageClassification", {WEIGHTS: lambda t: [dict(p) for p in _halves(t)]})
    yield _case("no head", "ViTForImageClassification",
                {WEIGHTS: lambda t: {k: v for k, v in t.items() if "classifier" not in k}},
                ends="head_missing", why="its outputs would be random")  # fmt: skip
    yield _case("a layer is missing", "ViTForImageClassification",
                {WEIGHTS: lambda t: {k: v for k, v in t.items() if "layernorm.weight" not in k}},
                ends="load_error", why="its outputs would be random")  # fmt: skip


def _to(kind: torch.dtype, tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}


def _halves(tensors: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
    names = sorted(tensors)
    return [{n: tensors[n] for n in part} for part in (names[::2], names[1::2])]


# ── timm ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def _flat(**more: Any) -> Change:
    """Return the older form: the settings of ``pretrained_cfg`` at the root."""

    def change(config: dict[str, Any]) -> dict[str, Any]:
        settings = config.pop("pretrained_cfg")
        kept = {k: v for k, v in config.items() if k in ("architecture", "num_classes", "num_features")}
        return settings | kept | more

    return change


def _cfg(**changes: Any) -> Change:
    """Change ``pretrained_cfg``: None takes a setting out."""

    def change(config: dict[str, Any]) -> None:
        config["pretrained_cfg"] = {k: v for k, v in (config["pretrained_cfg"] | changes).items() if v is not None}

    return change


def _kept(*names: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["pretrained_cfg"] = {k: v for k, v in config["pretrained_cfg"].items() if k in names}

    return change


def timm_configs() -> Iterator[Case]:
    """Yield the forms that timm's configs have had, and what people make of them."""
    names = [f"thing {i}" for i in range(modules.OUTPUTS)]
    for base in ("test_vit", "test_resnet"):
        for name, change in {
            "flat": _flat(),
            "flat with labels": _flat(labels=names),
            "flat of another mean": _flat(mean=[0.1, 0.2, 0.3], std=[0.3, 0.3, 0.3]),
            "partial": _kept("input_size"),
            "partial with mean": _kept("mean", "std"),
            "empty": _kept(),
            "no classes at the root": _without("num_classes"),
            "beside a foreign model_type": _set(model_type="vit", architectures=["ViTForImageClassification"]),
            "tag after the name": lambda c: c | {"architecture": c["architecture"] + ".in1k"},
        }.items():
            yield _case(f"{base} {name}", base, {CONFIG: change})
    for name, change in {
        "another size": _cfg(input_size=[3, 128, 128]),
        "not square": _cfg(input_size=[3, 96, 160]),
        "a test size": _cfg(test_input_size=[3, 192, 192], test_crop_pct=1.0),
        "squash": _cfg(crop_mode="squash", crop_pct=1.0),
        "border": _cfg(crop_mode="border"),
        "bilinear": _cfg(interpolation="bilinear"),
        "lanczos": _cfg(interpolation="lanczos"),
        "random interpolation": _cfg(interpolation="random"),
        "crop of 1": _cfg(crop_pct=1.0),
        "crop over 1": _cfg(crop_pct=1.2),
        "one mean": _cfg(mean=[0.5], std=[0.5]),
        "a mean that is a number": _cfg(mean=0.5, std=0.5),
        "mean null": _cfg(mean=None, std=None),
        "label_names": _set(label_names=names),
        "label_names of an object": _set(label_names={str(i): n for i, n in enumerate(names)}),
        "fewer label_names": _set(label_names=names[:3]),
        "label_descriptions": _set(label_names=names, label_descriptions={names[0]: "a thing"}),
        "quantization_config empty": _set(quantization_config={}),
    }.items():
        yield _case(f"timm {name}", "test_resnet", {CONFIG: change})
    yield _case("timm unknown keys", "test_resnet", {CONFIG: _cfg(foo="bar", paper_ids="y")},
                {CONFIG: _cfg(foo=None, paper_ids=None)})  # fmt: skip
    loading = {"pretrained": True, "checkpoint_path": "", "num_classes": 6}
    yield _case("timm arguments of loading", "test_resnet", {CONFIG: _set(model_args=loading)},
                {CONFIG: _set(model_args={})})  # fmt: skip
    fixed = {"fixed_input_size": True, "input_size": [3, 224, 224]}

    def exported(config: dict[str, Any]) -> None:
        config["pretrained_cfg"] |= fixed
        config["model_args"] = {"img_size": 160, "in_chans": 3}

    yield _case("timm an export with another img_size", "test_vit", {CONFIG: exported})
    yield _case("timm of one channel", "test_vit2", {})
    yield _case("timm says three channels", "test_vit2",
                {CONFIG: _cfg(input_size=[3, 160, 160])})  # fmt: skip
    for base in ("test_convnext", "test_efficientnet", "test_mambaout"):
        yield _case(f"timm {base}", base, {})


def names() -> list[str]:
    """Return their names; each is there once."""
    found = [case.name for case in cases()]
    assert len(found) == len(set(found)), json.dumps(found)
    return found
