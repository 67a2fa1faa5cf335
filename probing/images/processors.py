"""A model's own image processor, or the default of its family, as one function from images to arrays.

Most processors end by scaling and shifting 8-bit pixels: ``x = (u - shift) / scale`` per channel. Where that is so, the
pixels ``u`` are what is worth keeping (`probing.images.inputs`), because every model with the same geometry shares
them; and asking the processor to leave that step out is quicker than undoing it.

Images go in as lists: a call of a transformers processor costs about as much as shrinking a small photograph.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_origin

import numpy as np
import numpy.typing as npt

from probing.images.pictures import Picture
from workspace import ModelError, Status
from workspace.files import canonical_json, short_hash
from workspace.model_config import ModelConfig, read_object
from workspace.text import printable

if TYPE_CHECKING:
    from PIL.Image import Image

Arrays = list[npt.NDArray[Any]]

_AFFINE_KEYS = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "mean", "std"}


@dataclass(frozen=True)
class Affine:
    """``x = (u - shift) / scale``, float32, for 8-bit pixels ``u`` of each channel."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Processor:
    """An image processor."""

    # from pictures to float32 [channels, height, width] each, as the model wants them
    apply: Callable[[Sequence[Picture]], Arrays]
    name: str  # its class
    source: str  # ``repo``, ``timm`` (from a timm config), or ``default`` (the repository has none)
    settings: dict[str, Any]  # its whole configuration; `hash` is that of this
    affine: Affine | None  # its last step, when that is a scale and a shift of 8-bit pixels
    mode: str = "RGB"  # what Pillow converts the image to first: ``RGB``, or ``L`` for models of one channel
    # from pictures to the 8-bit pixels before the last step, where the processor can be asked for them. It is taken at
    # its word only where it agrees with `apply` (`probing.images.inputs`).
    pixels: Callable[[Sequence[Picture]], Arrays] | None = None
    alone: bool = False  # give it one picture at a time: what it makes of one depends on the others in the list
    beside: tuple[str, ...] = ()  # names of what the model reads beside the image, such as masks of patches
    # those inputs for one picture, by these names
    others: Callable[[Picture], dict[str, npt.NDArray[Any]]] | None = None
    assumed: str = ""  # in words, what the repository does not state and was assumed; empty when nothing was

    @property
    def hash(self) -> str:
        """Hash of class and configuration, 16 hex digits."""
        return short_hash(canonical_json([self.name, self.mode, self.settings, *self.beside]))

    @property
    def geometry(self) -> str:
        """Hash of what decides the 8-bit pixels: everything but scale and shift, 16 hex digits."""
        kept = {k: v for k, v in self.settings.items() if k not in _AFFINE_KEYS}
        return short_hash(canonical_json([self.name, self.mode, kept, *self.beside]))


def for_transformers(folder: Path, config: Any, reads: Collection[str] = ()) -> Processor:
    """Return the image processor of a transformers model in ``folder``; its family's default when there is none.

    Its class must be one that transformers itself pairs with a model, and it is made here from the settings that it
    knows: the repository's file is read as data. ``reads`` are names of the model's arguments: what else a processor
    makes is left out, as the pipeline leaves it out. Raises `ModelError` (processor_error).
    """
    raw = _read(folder)
    kind = _class(raw, config)
    assumed = "" if _name(raw) else f"{kind.__name__}, as transformers pairs it with its architecture"
    if raw is None:
        settings, size = _default(kind, config)
        assumed += f"; {size}"
    else:
        settings = _filtered(raw, kind)
    try:
        processor = kind(**settings)
    except Exception as error:
        text = f"{kind.__name__} cannot be made with its settings: {printable(error, 200)}"
        raise ModelError(Status.PROCESSOR_ERROR, text) from error
    known = {k: v for k, v in processor.to_dict().items() if not k.startswith("_")}
    unsaid = [k for k, flag in _GUARDS.items() if known.get(flag) and known.get(k) is not None and k not in settings]
    if raw is not None and unsaid:
        assumed += f"{'; ' if assumed else ''}{kind.__name__}'s own {', '.join(unsaid)}"
    channels = getattr(config, "num_channels", 3)
    mode = "L" if channels == 1 else "RGB"
    names = list(getattr(processor, "model_input_names", ["pixel_values"]))
    beside = tuple(name for name in names[1:] if name in reads)

    on_tensors = getattr(processor, "backend", "") == "torchvision"

    def run(pictures: Sequence[Picture], **changes: bool) -> Any:
        import torch

        if mode == "L" or not on_tensors:
            images: list[Any] = [_image(picture, mode) for picture in pictures]
        else:
            images = [torch.from_numpy(picture) for picture in pictures]
        return processor(images=images, **changes)

    def arrays(pictures: Sequence[Picture], **changes: bool) -> Arrays:
        made = run(pictures, **changes)
        return [np.asarray(value) for value in made[names[0] if names[0] in made else "pixel_values"]]

    def others(picture: Picture) -> dict[str, npt.NDArray[Any]]:
        made = run([picture])
        return {name: np.asarray(made[name][0]) for name in beside if name in made}

    return Processor(
        lambda pictures: [a.astype(np.float32, copy=False) if a.dtype.kind == "f" else a for a in arrays(pictures)],
        type(processor).__name__,
        "default" if raw is None else "repo",
        _plain(known),
        _hf_affine(known, channels),
        mode,
        lambda pictures: arrays(pictures, do_rescale=False, do_normalize=False),
        alone=bool(known.get("do_pad")) and not known.get("pad_size"),
        beside=beside,
        others=others if beside else None,
        assumed=assumed,
    )


_GUARDS = {
    "size": "do_resize", "resample": "do_resize", "crop_size": "do_center_crop", "image_mean": "do_normalize",
    "image_std": "do_normalize",
}  # fmt: skip
"""Settings that decide the numbers, and the flag under which they do: the class's own are booked where none is said."""


def _read(folder: Path) -> dict[str, Any] | None:
    """Return the settings of the image processor in ``folder``, from where transformers takes them; None for none."""

    def read(name: str) -> dict[str, Any] | None:
        path, wrong = folder / name, Status.PROCESSOR_ERROR
        return read_object(path, wrong, wrong) if path.is_file() else None

    nested = (read("processor_config.json") or {}).get("image_processor")
    raw = nested if isinstance(nested, dict) else read("preprocessor_config.json")
    if raw is not None and raw.get("auto_map") and _name(raw) not in _known_classes():
        raise ModelError(Status.PROCESSOR_ERROR, "its image processor is code of its own, which is never run")
    return raw


def _name(raw: Mapping[str, Any] | None) -> str:
    """Return the name of its class as it is called today: without "FeatureExtractor" and "Fast"; "" where none is."""
    value = (raw or {}).get("image_processor_type") or (raw or {}).get("feature_extractor_type") or ""
    name = str(value).replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")
    return _RENAMED.get(name, name)


_RENAMED = {"ImageProcessor": "", "AutoImageProcessor": ""}
"""Names in old files that say nothing: the class goes by the architecture."""


def _known_classes() -> dict[str, Mapping[str, Any]]:
    """Return the classes of transformers' own mapping: by the name of each, the classes by backend."""
    from transformers.models.auto import image_processing_auto as auto

    library: Any = auto
    return {name: kinds for kinds in library.IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in kinds.values() if name}


def _class(raw: Mapping[str, Any] | None, config: Any) -> Any:
    """Return the class of an image processor, by its name, else by the architecture. Raises `ModelError`."""
    from transformers.models.auto import image_processing_auto as auto

    library: Any = auto
    name, known = _name(raw), _known_classes()
    kinds = known.get(name)
    if name and kinds is None:
        text = f"its image processor is of the class {printable(name)!r}, which transformers pairs with no model"
        raise ModelError(Status.PROCESSOR_ERROR, text)
    if kinds is None:
        kinds = library.IMAGE_PROCESSOR_MAPPING_NAMES.get(getattr(config, "model_type", None))
    if not kinds:
        what = "names no class of image processor" if raw is not None else "has no image processor"
        raise ModelError(Status.PROCESSOR_ERROR, f"{what}, and its architecture no default")
    slow_first = kinds.get("torchvision") in library.DEFAULT_TO_PIL_BACKEND_IMAGE_PROCESSORS
    order = ("pil", "torchvision") if slow_first else ("torchvision", "pil")
    chosen = next(kinds[backend] for backend in order if kinds.get(backend))
    kind = library.get_image_processor_class_from_name(chosen)
    settings = getattr(getattr(kind, "valid_kwargs", None), "__annotations__", {})
    if not settings or _SEVERAL & set(settings):
        text = f"{chosen} does not make one input of one image: no classifier here reads what it gives"
        raise ModelError(Status.PROCESSOR_ERROR, text)
    return kind


_SEVERAL = {
    "class_info_file", "crop_to_patches", "do_image_splitting", "do_pan_and_scan", "do_split_image", "header_text",
    "image_grid_pinpoints", "max_crops", "max_image_tiles", "max_num_tiles", "max_slice_nums", "max_tiles",
    "repo_path", "split_image", "temporal_patch_size", "transform",
}  # fmt: skip
"""Settings of the processors that cut an image into several, draw text into it, or read files of their own."""

_UNREAD = {
    "apply_ocr", "data_format", "device", "disable_grouping", "input_data_format", "image_seq_length", "num_labels",
    "ignore_index", "return_tensors",
}  # fmt: skip
"""Settings that classes know and that are not taken from a repository: where to compute, in what order of axes."""


_OLD_SETTINGS = {"max_size": int}
"""Settings of transformers 4 that classes still translate, though they do not declare them."""


def _filtered(raw: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Return the settings of ``raw`` that the class knows: flags, numbers, and lists and objects of numbers.

    Raises `ModelError` for one of another type. Null is passed on: it is not the class's default in transformers 5.
    """
    kept = {}
    for name, annotation in (kind.valid_kwargs.__annotations__ | _OLD_SETTINGS).items():
        value, kinds = raw.get(name), () if get_origin(annotation) in (dict, list) else get_args(annotation)
        if name not in raw or name in _UNREAD or (isinstance(value, str) and str in (annotation, *kinds)):
            continue
        if value is not None and name.startswith("do_"):
            if type(value) is not bool and value not in (0, 1):
                raise ModelError(Status.PROCESSOR_ERROR, f"its {name} is neither true nor false")
            value = bool(value)
        elif not _is_numeric(value):
            raise ModelError(Status.PROCESSOR_ERROR, f"its {name} is no number, nor a list or object of numbers")
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if v is not None}
        kept[name] = value
    if "apply_ocr" in kind.valid_kwargs.__annotations__:
        kept["apply_ocr"] = False  # starts another program
    return kept


def _is_numeric(value: Any, depth: int = 2) -> bool:
    if isinstance(value, (list, dict)) and depth:
        return all(_is_numeric(v, depth - 1) for v in (value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, (bool, int, float))


def check_settings(settings: Mapping[str, Any], max_edge: int) -> None:
    """Refuse a processor by its settings, defaults included, before it makes any image.

    Raises `ModelError`: ``image_too_large`` for sizes above ``max_edge`` pixels, ``processor_error`` for numbers that
    are not finite or make no sense.
    """
    found = list(numbers(settings))
    if len(found) > MAX_NUMBERS:
        raise ModelError(Status.PROCESSOR_ERROR, f"its processor has {len(found):,} numbers")
    paths = {path for path, _ in found}
    shrunk = min([1.0, *(n for path, n in found if path == "crop_pct")])  # edges are divided by it before they are cut
    patch = max([1.0, *(n for path, n in found if path.startswith("patch_size"))])
    for path, number in found:
        key = path.partition(".")[0]
        text = f"its processor's {path} is {number:g}"
        if not np.isfinite(number):
            raise ModelError(Status.PROCESSOR_ERROR, text)
        if any(word in key for word in ("mean", "std", "factor", "resample", "crop_pct")):
            low, high = next(bounds for word, bounds in _BOUNDS.items() if word in key)
            if not low <= number <= high:
                raise ModelError(Status.PROCESSOR_ERROR, f"{text}: it is to be {low:g} to {high:g}")
            continue
        if path in _OLD_SETTINGS or (path.endswith(".longest_edge") and f"{key}.shortest_edge" in paths):
            continue  # a bound of what the shortest edge makes
        areas = any(word in key for word in ("pixels", "area", "patches", "tokens")) or "pixels" in path
        most = max_edge**2 / (patch**2 if "patches" in key or "tokens" in key else 1) if areas else max_edge
        if abs(number) > most or (key in ("size", "input_size") and not areas and number / shrunk > 2 * max_edge):
            raise ModelError(Status.IMAGE_TOO_LARGE, f"{text}: images of at most {max_edge} pixels are allowed")


MAX_NUMBERS = 10_000
"""Numbers in the settings of a processor: 512 colours of three, of ImageGPT, are 1,536."""

_BOUNDS = {"mean": (-1e4, 1e4), "std": (1e-6, 1e4), "factor": (1e-6, 1e4), "resample": (0, 5), "crop_pct": (0.05, 5)}
"""Smallest and largest value of the settings that are no sizes."""


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number in the settings of a processor, flags left out, with the keys that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from numbers(inner, path)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield path, float(value)


def _default(kind: Any, config: Any) -> tuple[dict[str, Any], str]:
    """Return the settings of a class at the config's image size, and that in words.

    Resize and crop keep the ratio that they have by default: what the class makes of an image is made as large as the
    model's input.
    """
    vision = getattr(config, "vision_config", None)
    size = getattr(config, "image_size", None) or getattr(vision, "image_size", None)
    edges = [size, size] if type(size) is int else list(size) if isinstance(size, (list, tuple)) else []
    if len(edges) != 2 or not all(type(edge) is int and 0 < edge < 2**31 for edge in edges):
        return {}, "at its default size"
    plain = kind()
    try:
        made = np.asarray(plain(images=[_image(np.zeros((3, 256, 256), np.uint8), "RGB")])["pixel_values"][0])
        height, width = made.shape[-2:]
    except (TypeError, ValueError, KeyError):  # it needs settings that only a repository can state
        return {}, "at its default size"
    scales = {"height": edges[0] / height, "width": edges[1] / width}
    either = min(scales.values()), max(scales.values())
    settings: dict[str, Any] = {}
    for name in ("size", "crop_size"):
        now = plain.to_dict().get(name)
        if isinstance(now, Mapping):
            each = {k: scales.get(k, either[1] if "shortest" in k else either[0]) for k in now}
            settings[name] = {k: round(v * each[k]) for k, v in now.items() if v is not None}
    return settings, f"at {edges[0]} x {edges[1]} pixels"


def for_timm(config: ModelConfig, model: Any) -> Processor:
    """Return timm's evaluation transforms for ``model``, from the config's ``pretrained_cfg`` as timm completes it."""
    from timm.data.config import resolve_data_config

    resolve: Any = resolve_data_config
    data = resolve(pretrained_cfg=dict(config.pretrained), model=model)
    unsaid = [name for name in ("input_size", "mean", "std", "interpolation", "crop_pct") if name not in config.stated]
    assumed = f"timm's own {', '.join(unsaid)}" if unsaid else ""
    return _timm(data, "timm" if "mean" in config.stated else "default", assumed)


def _timm(data: dict[str, Any], source: str, assumed: str) -> Processor:
    from timm.data.transforms_factory import create_transform

    transform = create_transform(**data, is_training=False)
    channels = int(data["input_size"][0])
    mean, std = (_per_channel(data[k], channels) for k in ("mean", "std"))
    affine = Affine(tuple(255.0 * m for m in mean), tuple(255.0 * s for s in std))

    mode = "L" if channels == 1 else "RGB"
    steps = list(getattr(transform, "transforms", []))
    last = [type(step).__name__ for step in steps[-2:]]

    def apply(pictures: Sequence[Picture]) -> Arrays:
        return [np.asarray(transform(_image(picture, mode)), dtype=np.float32) for picture in pictures]

    def pixels(pictures: Sequence[Picture]) -> Arrays:
        images = (reduce(lambda made, step: step(made), steps[:-2], _image(picture, mode)) for picture in pictures)
        return [np.atleast_3d(np.asarray(image)).transpose(2, 0, 1) for image in images]

    splits = last == ["MaybeToTensor", "Normalize"]
    return Processor(apply, "timm", source, _plain(data), affine, mode, pixels if splits else None, assumed=assumed)


def _image(picture: Picture, mode: str) -> Image:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return image if mode == "RGB" else image.convert(mode)


def _hf_affine(settings: dict[str, Any], channels: int) -> Affine | None:
    """Return the last step of a transformers processor: rescale and normalise, fused as transformers fuses them."""
    factor = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    if settings.get("do_normalize") and None not in (settings.get("image_mean"), settings.get("image_std")):
        mean, std = (_per_channel(settings[k], channels) for k in ("image_mean", "image_std"))
    else:
        mean, std = (0.0,) * channels, (1.0,) * channels
    if any(s == 0 for s in std) or factor == 0:
        return None
    return Affine(tuple(m / factor for m in mean), tuple(s / factor for s in std))


def _per_channel(value: Any, channels: int) -> tuple[float, ...]:
    values = [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)]
    if len(values) == 1:
        values = values * channels
    if len(values) != channels:
        raise ModelError(Status.PROCESSOR_ERROR, f"normalises {len(values)} channels of images that have {channels}")
    return tuple(values)


def _plain(value: Any) -> Any:
    """Return ``value`` as JSON has it: what is hashed must not hold addresses of objects."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(getattr(value, "value", type(value).__name__))
