"""Image-text encoders: what a concept's name, or an example image, has in common with every probe."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from workspace import HubError, QueryError, Workspace
from workspace.files import short_hash
from workspace.text import printable

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
"""Prompt ensemble: the text embedding is the normalised mean over these. The paper does not publish its own."""

MAX_TEXT = 1_000
"""Characters of a text query: a concept, not a document. Encoders read about 77 tokens in any case."""

_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "model.safetensors.index.json",
)  # fmt: skip


@runtime_checkable
class Encoder(Protocol):
    """Embeds texts and images into one space, rows of unit length.

    Attributes:
        name: how the configuration names it, e.g. ``clip:openai/clip-vit-base-patch16``.
        commit: the exact version; embeddings are cached under it.
    """

    name: str
    commit: str

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dim]``, each row of unit length."""
        ...

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return float32 ``[len(images), dim]``, each row of unit length; images are RGB."""
        ...


class ClipEncoder:
    """CLIP, SigLIP or SigLIP2 from a folder in Hugging Face layout; safetensors only, nothing fetched, CPU or GPU.

    Args:
        folder: config, tokenizer, image processor and ``*.safetensors``.
        name: how it was asked for.
        commit: its version.

    Raises `HubError` when transformers cannot load it.
    """

    def __init__(self, folder: Path, name: str, commit: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]  # one bar a weight file says nothing here, and quiet means quiet
        self.name, self.commit = name, commit
        options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **options).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **options)
            processors: Any = AutoImageProcessor
            self._processor = processors.from_pretrained(str(folder), **options)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise HubError(f"the encoder {name} cannot be loaded: {printable(error, 300)}") from error
        if not hasattr(self._model, "get_text_features") or not hasattr(self._model, "get_image_features"):
            raise HubError(f"{name} is a {type(self._model).__name__}, not an image-text model such as CLIP or SigLIP")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(self._device)
        text = getattr(self._model.config, "text_config", None)
        self._tokens = int(getattr(text, "max_position_embeddings", 77))
        # SigLIP was trained on texts padded to full length and answers differently to shorter ones
        self._padding = "max_length" if str(self._model.config.model_type).startswith("siglip") else True

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return float32 ``[len(texts), dim]``, each row of unit length; texts are cut to the encoder's tokens."""
        import torch

        rows = []
        for start in range(0, len(texts), 256):
            batch = self._tokenizer(
                list(texts[start : start + 256]),
                padding=self._padding, truncation=True, max_length=self._tokens, return_tensors="pt",
            )  # fmt: skip
            names = [n for n in ("input_ids", "attention_mask") if n in batch]
            with torch.inference_mode():
                out = self._model.get_text_features(**{n: batch[n].to(self._device) for n in names})
            rows.append(_features(out))
        return _unit(np.concatenate(rows))

    def encode_images(self, images: Sequence[Image]) -> NDArray[np.float32]:
        """Return float32 ``[len(images), dim]``, each row of unit length; images are RGB."""
        import torch

        rows = []
        for start in range(0, len(images), 64):
            batch = self._processor(images=list(images[start : start + 64]), return_tensors="pt")
            with torch.inference_mode():
                out = self._model.get_image_features(pixel_values=batch["pixel_values"].to(self._device))
            rows.append(_features(out))
        return _unit(np.concatenate(rows))


def load_encoder(workspace: Workspace, name: str, *, commit: str | None = None, token: str | None = None) -> Encoder:
    """Return the encoder ``clip:<repo>`` from the workspace's Hub, or ``clip:<folder>`` from disk.

    The commit is resolved once and every file is fetched at it. Raises `QueryError` for an unknown kind and `HubError`
    when it cannot be fetched or loaded.
    """
    kind, _, what = name.partition(":")
    if kind != "clip" or not what:
        raise QueryError(f"unknown encoder '{printable(name)}': write clip:<repo> or clip:<folder>")
    path = Path(what)
    if path.is_absolute() or what.startswith((".", "~")):
        folder = path.expanduser()
        if not (folder / "config.json").is_file():
            raise HubError(f"{folder} is no model folder: it has no config.json")
        return ClipEncoder(folder, name, _folder_hash(folder))
    folder, commit = _fetch(workspace, what, commit, token)
    return ClipEncoder(folder, name, commit)


def text_embeddings(
    encoder: Encoder, texts: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> NDArray[np.float32]:
    """Return the prompt ensemble's embedding of each text, float32 ``[len(texts), dim]`` of unit length.

    Raises `QueryError` for a text that is empty or longer than `MAX_TEXT` characters.
    """
    prompts = [template.replace("{}", checked_text(text)) for text in texts for template in templates]
    rows = encoder.encode_texts(prompts)
    mean: NDArray[np.float32] = rows.reshape(len(texts), len(templates), -1).mean(axis=1)
    return _unit(mean)


def checked_text(text: str) -> str:
    """Return ``text`` with its white space collapsed, or raise `QueryError` when it cannot be a concept."""
    if len(text) > MAX_TEXT:
        raise QueryError(f"a text query has at most {MAX_TEXT} characters, this one {len(text)}: name a concept")
    clean = " ".join(text.encode("utf-8", "replace").decode().replace("\x00", " ").split())
    if not clean:
        raise QueryError("the text query is empty: name a concept, for example 'dog'")
    return clean


def _fetch(workspace: Workspace, repo: str, commit: str | None, token: str | None) -> tuple[Path, str]:
    from huggingface_hub import HfApi, hf_hub_download

    secret = False if token == "" else token  # "" asks for no token at all, not even the environment's
    cache, endpoint = workspace.cache_dir / "encoders", workspace.config.endpoint
    if commit and _mark(cache, repo, commit).is_file():  # complete on disk: no request, so it works without a network
        return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit, commit
    try:
        info = HfApi(endpoint=endpoint, token=secret).model_info(repo, revision=commit)
        names = [s.rfilename for s in info.siblings or []]
        weights = [n for n in names if n.endswith(".safetensors") and "/" not in n]
        if not weights or not info.sha:
            raise HubError(f"the encoder {repo} has no safetensors weights; choose another with [search] encoder")
        for file in [n for n in names if n in _FILES] + weights:
            local = hf_hub_download(repo, file, revision=info.sha, endpoint=endpoint, token=secret, cache_dir=cache)
    except _transport_errors() as error:
        raise HubError(f"the encoder {repo} cannot be fetched from {endpoint}: {printable(error, 300)}") from error
    _mark(cache, repo, info.sha).touch()
    return Path(local).parent, info.sha


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what the HTTP client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))


def _mark(cache: Path, repo: str, commit: str) -> Path:
    return cache / f"complete-{short_hash(f'{repo}@{commit}')}"


def _folder_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name in _FILES or p.suffix == ".safetensors"):
        digest.update(path.name.encode() + os.sep.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:40]


def _features(out: Any) -> NDArray[np.float32]:
    tensor = getattr(out, "pooler_output", out)  # transformers 5 returns an object, 4 a tensor
    array: NDArray[np.float32] = tensor.float().cpu().numpy()
    return array


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (rows / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit
