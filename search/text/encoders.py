"""Image-text encoders: what a concept's name, or an example image, has in common with every probe.

They are folders in Hugging Face layout that transformers loads. No pickle, no remote code. A release or a workspace of
a stranger's names them, so their files are his: as with the models that are probed, the config is read as data and made
anew from the numbers and words that its class knows; nothing of it can name a kernel, code, another file or a backbone
to be fetched, and what it asks for is counted before any memory is.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from search.text.contrast import unit
from search.text.encoder_files import UnfitEncoderError, fetch, folder_hash
from search.text.tokens import Reader, tokenizer_of
from search.text.tower import Tower
from workspace import CrawlConfig, HubError, HubprobeError, ModelError, QueryError, Status, Workspace
from workspace.architectures import Architectures
from workspace.model_config import longest, read_config, read_object
from workspace.model_options import known_settings, transformers_options
from workspace.model_rules import Announced, image_size, labels_count, layers, parameters_announced, quantised
from workspace.safetensors_header import weights_of
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image


_LOG = logging.getLogger(__name__)

TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
"""Prompt ensemble: the text embedding is the normalised mean over these. The paper does not publish its own."""

MAX_TEXT = 1_000
"""Characters of a text query: a concept, not a document. Encoders read about 77 tokens in any case."""


class TextReader(Protocol):
    """Embeds texts, rows of unit length: an `Encoder`, or its text side alone."""

    name: str  # how the configuration names it, e.g. ``clip:openai/clip-vit-large-patch14``.
    commit: str  # the exact version; embeddings are cached under it

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dim]``, each row of unit length."""
        ...


@runtime_checkable
class Encoder(TextReader, Protocol):
    """Embeds texts and images into one space, rows of unit length."""

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return float32 ``[len(images), dim]``, each row of unit length; images are RGB."""
        ...


KINDS = ("clip", "captions", "images")
"""What can encode: an image-text model, a sentence encoder over the probes' captions, an image backbone."""


def load_encoder(workspace: Workspace, name: str, *, commit: str | None = None, token: str | None = None) -> Encoder:
    """Return the encoder ``<kind>:<repo>`` from the workspace's Hub, or ``<kind>:<folder>`` from disk.

    Kinds: ``clip`` (CLIP, SigLIP, SigLIP2: texts and images), ``captions`` (any sentence encoder, such as all-MiniLM:
    texts, compared with the probes' captions) and ``images`` (any vision backbone: example images only).
    The commit is resolved once and every file is fetched at it. Raises `QueryError` for an unknown kind and `HubError`
    when it cannot be fetched or loaded.
    """
    kind, folder, found = _files(workspace, name, commit, token)
    encoder = MODELS[kind](folder, name, found)
    if commit is None and isinstance(encoder, ClipEncoder):  # else an index has it, and a text needs no processor
        _ = encoder.processor
    return encoder


def load_tower(workspace: Workspace, name: str, commit: str, token: str | None = None) -> Tower | None:
    """Return the text side of an image-text model without torch, or None where only `load_encoder` can load it."""
    kind, folder, found = _files(workspace, name, commit, token)
    return Tower.of(folder, name, found) if kind == "clip" else None


def _files(workspace: Workspace, name: str, commit: str | None, token: str | None) -> tuple[str, Path, str]:
    kind, repo, folder = parts_of(name)
    if folder is not None:
        return kind, folder, folder_hash(folder)
    return kind, *fetch(workspace, kind, repo, commit, token)


def parts_of(name: str) -> tuple[str, str, Path | None]:
    """Return an encoder's kind, its repository, and its folder where it is one on this disk.

    Raises `QueryError` for a name that is none, `HubError` for a folder that holds no model.
    """
    kind, _, what = name.partition(":")
    if kind not in KINDS or not what:
        raise QueryError(
            f"unknown encoder '{printable(name)}': write clip:<repo>, captions:<repo> or images:<repo>, "
            "a folder in place of the repo, auto, or none"
        )
    path = Path(what)
    if not (path.is_absolute() or what.startswith((".", "~"))):
        return kind, what, None
    folder = path.expanduser()
    if not (folder / "config.json").is_file():
        raise HubError(f"{folder} is no model folder: it has no config.json")
    return kind, what, folder


def text_embeddings(
    encoder: TextReader, texts: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> NDArray[np.float32]:
    """Return the prompt ensemble's embedding of each text, float32 ``[len(texts), dim]`` of unit length.

    Raises `QueryError` for a text that is empty or longer than `MAX_TEXT` characters.
    """
    prompts = [template.replace("{}", checked_text(text)) for text in texts for template in templates]
    rows = encoder.encode_texts(prompts)
    mean: NDArray[np.float32] = rows.reshape(len(texts), len(templates), -1).mean(axis=1)
    return unit(mean)


def read_of(encoder: TextReader, text: str, templates: Sequence[str] = TEMPLATES) -> str:
    """Return the part of a text that ``encoder`` reads in the longest of its prompts: all of it, unless it is too long.

    An encoder that does not say (``kept`` is no part of `TextReader`) is taken to read everything.
    """
    kept = getattr(encoder, "kept", None)
    if kept is None:
        return text
    shortest = text
    for template in templates:
        before = len(template.partition("{}")[0])
        prompt = template.replace("{}", text)
        if (part := kept(prompt)) != prompt and len(found := part[before:][: len(text)].rstrip()) < len(shortest):
            shortest = found
    return shortest


def checked_text(text: str) -> str:
    """Return ``text`` with its white space collapsed, or raise `QueryError` when it cannot be a concept."""
    if len(text) > MAX_TEXT:
        raise QueryError(f"a text query has at most {MAX_TEXT} characters, this one {len(text)}: name a concept")
    clean = " ".join(text.encode("utf-8", "replace").decode().replace("\x00", " ").split())
    if not clean:
        raise QueryError("the text query is empty: name a concept, for example 'dog'")
    return clean


def _answered(encode: Callable[[Any, Any], NDArray[np.float32]]) -> Callable[[Any, Any], NDArray[np.float32]]:
    """Have ``encode`` return finite rows, or raise a `HubError` that names the encoder."""

    @wraps(encode)
    def answer(encoder: Any, given: Any) -> NDArray[np.float32]:
        try:
            rows = encode(encoder, given)
        except HubprobeError:
            raise
        except Exception as error:  # whatever a library makes of a stranger's settings
            raise HubError(f"the encoder {encoder.name} cannot be used: {printable(error, 300)}") from error
        if not np.isfinite(rows).all():
            raise HubError(f"the encoder {encoder.name} gives embeddings that are not finite: choose another")
        return rows

    return answer


class _Model:
    """A model from a folder in Hugging Face layout; safetensors only, nothing fetched, CPU or GPU.

    Raises `HubError` when transformers cannot load it, or its weights are not all there.
    """

    def __init__(self, folder: Path, name: str, commit: str) -> None:
        import torch
        from transformers import AutoModel
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]  # one bar a weight file says nothing here, and quiet means quiet
        self.name, self.commit, self._folder = name, commit, folder
        with _refused(name):
            config, dtype = _checked_config(folder)
            model, about = AutoModel.from_pretrained(
                str(folder), config=config, dtype=dtype, use_safetensors=True, local_files_only=True,
                trust_remote_code=False, output_loading_info=True,
            )  # fmt: skip
            self._check(model)
        missing = [key for key in sorted(about["missing_keys"]) if not self._is_spare(key)]
        if missing:
            raise UnfitEncoderError(f"the encoder {name} lacks weights, {printable(missing[0])} first: choose another")
        self._is_whole = not about["missing_keys"]
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: Any = model.eval().to(self._device)
        if self._device.type == "cpu" and model.dtype == torch.float16:
            model.float()  # processors only pretend to have halves: 4 times slower

    def _check(self, model: Any) -> None:
        """Raise a `HubError` for a model of another kind."""

    def _is_spare(self, key: str) -> bool:
        """Return whether it does without a weight: tokens are averaged here, pooled nowhere."""
        return key.startswith("pooler.")

    @cached_property
    def processor(self) -> Any:
        """The image processor; raises `HubError` when transformers cannot load it.

        It takes torchvision, longer to import than a text takes to encode.
        """
        from transformers import AutoImageProcessor

        auto: Any = AutoImageProcessor
        with _refused(self.name):
            processor = auto.from_pretrained(str(self._folder), local_files_only=True, trust_remote_code=False)
            _check_processor(processor)
        return processor

    def _rows(self, items: Sequence[Any], size: int, embed: Callable[[Sequence[Any]], Any]) -> NDArray[np.float32]:
        """Return what ``embed`` makes of the items, so many at a time, at unit length."""
        import torch

        rows = []
        for start in range(0, len(items), size):
            with torch.inference_mode():
                out = embed(items[start : start + size])
            rows.append(getattr(out, "pooler_output", out).float().cpu().numpy())  # an object in transformers 5
        return unit(np.concatenate(rows))

    def _seen(self, images: Sequence[Image]) -> dict[str, Any]:
        """Return images as the model takes them."""
        batch = self.processor(images=list(images), return_tensors="pt")
        return {name: batch[name].to(self._device) for name in _PIXELS if name in batch}


_PIXELS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
"""What models take of their image processors; the last two are NaFlex's, which keeps an image's shape."""


class ClipEncoder(_Model):
    """CLIP, SigLIP or SigLIP2."""

    def __init__(self, folder: Path, name: str, commit: str) -> None:
        super().__init__(folder, name, commit)
        context = int(getattr(getattr(self._model.config, "text_config", None), "max_position_embeddings", 77))
        with _refused(name):
            self._reader = Reader.of(tokenizer_of(folder, name), folder, str(self._model.config.model_type), context)

    def _check(self, model: Any) -> None:
        if not hasattr(model, "get_text_features") or not hasattr(model, "get_image_features"):
            kind = type(model).__name__
            raise UnfitEncoderError(f"{self.name} is a {kind}, not an image-text model such as CLIP or SigLIP")

    def _is_spare(self, key: str) -> bool:  # noqa: ARG002 - none is
        return False

    @_answered
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dim]``, each row of unit length; texts are cut to the encoder's tokens."""

        def embed(some: Sequence[str]) -> Any:
            batch = self._reader.batch(some)
            return self._model.get_text_features(**{name: batch[name].to(self._device) for name in batch})

        return self._rows(texts, 256, embed)

    def kept(self, text: str) -> str:
        """Return the part of ``text`` that is read; the rest is beyond the encoder's tokens."""
        return self._reader.kept(text)

    @_answered
    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return float32 ``[len(images), dim]``, each row of unit length; images are RGB."""
        return self._rows(images, 64, lambda some: self._model.get_image_features(**self._seen(some)))


class CaptionEncoder(_Model):
    """A sentence encoder over the probes' captions: all-MiniLM and its like.

    Tokens are averaged as ``1_Pooling/config.json`` says (its mean when there is none): Reimers and Gurevych, 2019.
    """

    of_captions = True
    """The probes are embedded by their captions, not their pixels; texts are asked without a prompt around them."""

    def __init__(self, folder: Path, name: str, commit: str) -> None:
        super().__init__(folder, name, commit)
        context = min(256, int(getattr(self._model.config, "max_position_embeddings", 512)) - 2)
        path = folder / "1_Pooling" / "config.json"
        with _refused(name):
            stated = read_object(path, Status.NO_CONFIG, Status.MALFORMED_CONFIG) if path.is_file() else {}
            self._reader = Reader(tokenizer_of(folder, name), context)
        self._first_token = bool(stated.get("pooling_mode_cls_token"))

    def _check(self, model: Any) -> None:
        if getattr(model.config, "vision_config", None) is not None:
            raise HubError(f"{self.name} is an image-text model: write clip: in place of captions:")

    @_answered
    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dim]``, each row of unit length; texts are cut to the encoder's tokens."""

        def embed(some: Sequence[str]) -> Any:
            batch = {name: value.to(self._device) for name, value in self._reader.batch(some).items()}
            hidden, mask = self._model(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
            return hidden[:, 0] if self._first_token else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)

        if not texts:
            return np.zeros((0, 1), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # like lengths together: little padding
        return self._rows([texts[i] for i in order], 128, embed)[np.argsort(order)]

    def kept(self, text: str) -> str:
        """Return the part of ``text`` that is read; the rest is beyond the encoder's tokens."""
        return self._reader.kept(text)

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:  # noqa: ARG002
        """Raise `QueryError`: captions say nothing of an example image."""
        raise QueryError(
            f"{self.name} compares captions and cannot see: set [search] image_encoder to search by example image"
        )


class ImageEncoder(_Model):
    """A vision backbone (DINOv2, ViT, ConvNeXt...) for example images: its pooled output, or its tokens' mean."""

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:  # noqa: ARG002
        """Raise `QueryError`: a vision backbone reads no text."""
        raise QueryError(f"{self.name} reads no text: set [search] encoder to a clip: or captions: encoder")

    @_answered
    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return float32 ``[len(images), dim]``, each row of unit length; images are RGB."""

        def embed(some: Sequence[Image]) -> Any:
            out = self._model(pixel_values=self._seen(some)["pixel_values"])
            # a pooler that is not among the weights would be random
            if (pooled := getattr(out, "pooler_output", None) if self._is_whole else None) is None:
                tokens = out.last_hidden_state
                pooled = tokens.mean(dim=1) if tokens.ndim == 3 else tokens.mean(dim=(2, 3))
            return pooled.flatten(1)

        return self._rows(images, 64, embed)


MODELS: dict[str, Callable[[Path, str, str], Encoder]] = {
    "clip": ClipEncoder,
    "captions": CaptionEncoder,
    "images": ImageEncoder,
}
"""What loads each kind of `search.text.encoders.KINDS`."""


@contextmanager
def _refused(name: str) -> Iterator[None]:
    """Turn what transformers raises for files that it cannot load into an `UnfitEncoderError`."""
    try:
        yield
    except ModelError as error:
        raise UnfitEncoderError(f"the encoder {name} cannot be loaded: {error.reason}") from error
    except HubprobeError:
        raise
    except Exception as error:  # a stranger's files: transformers raises whatever comes of them
        _LOG.debug("loading %s failed", name, exc_info=True)
        raise UnfitEncoderError(f"the encoder {name} cannot be loaded: {printable(error, 300)}") from error


# ── what of an encoder's files reaches a library ────────────────────────────────────────────────────────────────────
_RULES = (quantised, layers, labels_count, image_size, parameters_announced)
_SPARE = 50_000_000
"""Parameters that a model may have beyond those of its files: a pooler, say, that a classifier was saved without."""

MAX_EDGE = 2_048
"""Pixels: the longest edge that an encoder's processor may make of an image; 64 are made at once."""

_DTYPES = ("float32", "float16", "bfloat16")


def _checked_config(folder: Path) -> tuple[Any, str]:
    """Return the config of the encoder in ``folder`` as an object of transformers, and its dtype, "auto" where none.

    Raises `ModelError` for one that is not built.
    """
    from transformers import AutoModel
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    limits = CrawlConfig()
    config = read_config(folder / "config.json", limits.max_labels)
    mapping: Any = CONFIG_MAPPING
    if config.kind != "transformers" or config.model_type not in mapping:
        raise ModelError(Status.UNKNOWN_ARCHITECTURE, "its config.json names no architecture that transformers knows")
    announced = Announced(config, limits, Architectures({}, {}, frozenset(), frozenset()))
    for rule in _RULES:
        if (verdict := rule(announced)) is not None:
            raise ModelError(verdict.status, verdict.reason)
    kind = mapping[config.model_type]
    built = kind.from_dict(transformers_options(config, known_settings(kind)))
    _check_weights(folder, AutoModel, built, limits)
    dtype = config.raw.get("dtype", config.raw.get("torch_dtype"))
    return built, dtype if dtype in _DTYPES else "auto"


def _check_weights(folder: Path, library: Any, built: Any, limits: CrawlConfig) -> None:
    """Compare what the config asks for with what the files hold, before any of it is in memory."""
    import torch

    stored = weights_of(folder)[1].parameters
    with torch.device("meta"):
        model = library.from_config(built)
    wanted = sum(math.prod(p.shape) for p in model.parameters())
    if wanted > min(limits.max_parameters, stored + _SPARE):
        text = f"its config asks for {wanted:,} parameters, its files hold {stored:,}"
        raise ModelError(Status.TOO_MANY_PARAMETERS, text)


def _check_processor(processor: Any) -> None:
    """Raise `ModelError` for an image processor of no known class, or one that makes larger images than are made."""
    from transformers.models.auto import image_processing_auto as auto

    library: Any = auto
    known = {name for kinds in library.IMAGE_PROCESSOR_MAPPING_NAMES.values() for name in kinds.values()}
    if type(processor).__name__ not in known:
        raise ModelError(Status.PROCESSOR_ERROR, f"its image processor is a {type(processor).__name__}")
    for name, value in processor.to_dict().items():
        if "size" in name and (longest(value) or 0) > MAX_EDGE:
            text = f"its processor's {name} is {longest(value):,} pixels, {MAX_EDGE:,} are allowed"
            raise ModelError(Status.IMAGE_TOO_LARGE, text)
