"""A model's own image processor, or the default of its family, as one function from images to arrays.

Most processors end by scaling and shifting 8-bit pixels: ``x = (u - shift) / scale`` per channel. Where that is so, the
pixels ``u`` are what is worth keeping (`probing.inputs`), because every model with the same geometry shares them; and
asking the processor to leave that step out is quicker than undoing it.

Images go in as lists: a call of a transformers processor costs about as much as shrinking a small photograph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probing.pictures import Picture
from workspace import ModelError, Status
from workspace.files import canonical_json, short_hash
from workspace.model_config import ModelConfig, read_object

if TYPE_CHECKING:
    from PIL.Image import Image

Arrays = list[npt.NDArray[Any]]

_AFFINE_KEYS = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "mean", "std"}
_FILES = ("preprocessor_config.json", "processor_config.json")


@dataclass(frozen=True)
class Affine:
    """``x = (u - shift) / scale``, float32, for 8-bit pixels ``u`` of each channel."""

    shift: tuple[float, ...]
    scale: tuple[float, ...]


@dataclass(frozen=True)
class Processor:
    """An image processor.

    Attributes:
        apply: from pictures to float32 [channels, height, width] each, as the model wants them.
        name: its class.
        source: ``repo``, ``timm`` (from a timm config), or ``default`` (the repository has none).
        settings: its whole configuration; `hash` is that of this.
        affine: its last step, when that is a scale and a shift of 8-bit pixels.
        mode: what Pillow converts the image to first: ``RGB``, or ``L`` for models of one channel.
        pixels: from pictures to the 8-bit pixels before the last step, where the processor can be asked for them. It
            is taken at its word only where it agrees with `apply` (`probing.inputs`).
        alone: give it one picture at a time: what it makes of one depends on the others in the list.
    """

    apply: Callable[[Sequence[Picture]], Arrays]
    name: str
    source: str
    settings: dict[str, Any]
    affine: Affine | None
    mode: str = "RGB"
    pixels: Callable[[Sequence[Picture]], Arrays] | None = None
    alone: bool = False

    @property
    def hash(self) -> str:
        """Hash of class and configuration, 16 hex digits."""
        return short_hash(canonical_json([self.name, self.mode, self.settings]))

    @property
    def geometry(self) -> str:
        """Hash of what decides the 8-bit pixels: everything but scale and shift, 16 hex digits."""
        kept = {k: v for k, v in self.settings.items() if k not in _AFFINE_KEYS}
        return short_hash(canonical_json([self.name, self.mode, kept]))


def for_transformers(folder: Path, config: Any) -> Processor:
    """Return the image processor of a transformers model in ``folder``; its family's default when there is none."""
    from transformers import AutoImageProcessor

    named = next((folder / name for name in _FILES if (folder / name).is_file()), None)
    timm_wrapper = getattr(config, "model_type", "") == "timm_wrapper"
    if named is not None:
        raw = read_object(named, Status.PROCESSOR_ERROR, Status.PROCESSOR_ERROR)
        if "auto_map" in raw:
            raise ModelError(Status.PROCESSOR_ERROR, "its image processor is code of its own, which is never run")
    if named is not None or timm_wrapper:
        auto: Any = AutoImageProcessor
        processor = auto.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        source = "repo" if named is not None else "timm"
    else:
        processor, source = _default(config), "default"
    if hasattr(processor, "val_transforms"):  # TimmWrapper: the transforms are all there is
        return _timm(processor.data_config, source)
    settings = {k: v for k, v in processor.to_dict().items() if not k.startswith("_")}
    channels = getattr(config, "num_channels", 3)
    mode = "L" if channels == 1 else "RGB"

    on_tensors = getattr(processor, "backend", "") == "torchvision"

    def run(pictures: Sequence[Picture], **changes: bool) -> Arrays:
        import torch

        if mode == "L" or not on_tensors:
            images: list[Any] = [_image(picture, mode) for picture in pictures]
        else:
            images = [torch.from_numpy(picture) for picture in pictures]
        return [np.asarray(value) for value in processor(images=images, **changes)["pixel_values"]]

    return Processor(
        lambda pictures: [array.astype(np.float32, copy=False) for array in run(pictures)],
        type(processor).__name__,
        source,
        _plain(settings),
        _hf_affine(settings, channels),
        mode,
        lambda pictures: run(pictures, do_rescale=False, do_normalize=False),
        alone=bool(settings.get("do_pad")) and not settings.get("pad_size"),
    )


def for_timm(config: ModelConfig, model: Any) -> Processor:
    """Return timm's evaluation transforms for ``model``, from the config's ``pretrained_cfg`` as timm completes it."""
    from timm.data.config import resolve_data_config

    resolve: Any = resolve_data_config
    data = resolve(pretrained_cfg=dict(config.pretrained), model=model)
    return _timm(data, "timm" if "mean" in config.stated else "default")


def _timm(data: dict[str, Any], source: str) -> Processor:
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
        return [_resized(_image(picture, mode), steps[:-2]) for picture in pictures]

    splits = last == ["MaybeToTensor", "Normalize"]
    return Processor(apply, "timm", source, _plain(data), affine, mode, pixels if splits else None)


def _resized(image: Any, steps: Sequence[Callable[[Any], Any]]) -> npt.NDArray[Any]:
    for step in steps:
        image = step(image)
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _image(picture: Picture, mode: str) -> Image:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
    return image if mode == "RGB" else image.convert(mode)


def _default(config: Any) -> Any:
    """Return the image processor that transformers pairs with this architecture, at the config's image size."""
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING

    try:
        classes: Any = IMAGE_PROCESSOR_MAPPING[type(config)]
    except KeyError as error:
        raise ModelError(Status.PROCESSOR_ERROR, "has no image processor, and its architecture no default") from error
    if isinstance(classes, dict):
        candidates = [classes.get("torchvision"), classes.get("pil")]
    else:
        candidates = list(classes)[::-1] if isinstance(classes, (tuple, list)) else [classes]
    chosen = next((c for c in candidates if c is not None), None)
    if chosen is None:
        raise ModelError(Status.PROCESSOR_ERROR, "has no image processor, and its architecture no default")
    size = getattr(config, "image_size", None)
    if type(size) is not int:
        return chosen()
    plain = chosen().to_dict()
    sized: dict[str, Any] = {}
    for key in ("size", "crop_size"):
        if isinstance(plain.get(key), dict):
            sized[key] = {k: size for k, v in plain[key].items() if v is not None}
    return chosen(**sized)


def _hf_affine(settings: dict[str, Any], channels: int) -> Affine | None:
    """Return the last step of a transformers processor: rescale and normalise, fused as transformers fuses them."""
    factor = float(settings.get("rescale_factor") or 1 / 255) if settings.get("do_rescale", True) else 1.0
    if (
        settings.get("do_normalize")
        and settings.get("image_mean") is not None
        and settings.get("image_std") is not None
    ):
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
