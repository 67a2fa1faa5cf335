"""Image-text encoders: what a concept's name, or an example image, has in common with every probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from search.contrast import unit
from workspace import HubError, QueryError, Workspace
from workspace.text import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

TEMPLATES = ("{}", "a photo of a {}", "a picture of a {}", "a drawing of a {}")
"""Prompt ensemble: the text embedding is the normalised mean over these. The paper does not publish its own."""

MAX_TEXT = 1_000
"""Characters of a text query: a concept, not a document. Encoders read about 77 tokens in any case."""


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


KINDS = ("clip", "captions", "images")
"""What can encode: an image-text model, a sentence encoder over the probes' captions, an image backbone."""


def load_encoder(workspace: Workspace, name: str, *, commit: str | None = None, token: str | None = None) -> Encoder:
    """Return the encoder ``<kind>:<repo>`` from the workspace's Hub, or ``<kind>:<folder>`` from disk.

    Kinds: ``clip`` (CLIP, SigLIP, SigLIP2: texts and images), ``captions`` (any sentence encoder, such as all-MiniLM:
    texts, compared with the probes' captions) and ``images`` (any vision backbone: example images only).
    The commit is resolved once and every file is fetched at it. Raises `QueryError` for an unknown kind and `HubError`
    when it cannot be fetched or loaded.
    """
    from search.encoder_files import fetch, folder_hash
    from search.encoder_models import MODELS

    kind, _, what = name.partition(":")
    if kind not in KINDS or not what:
        raise QueryError(
            f"unknown encoder '{printable(name)}': write clip:<repo>, captions:<repo> or images:<repo>, "
            "or a folder in place of the repo"
        )
    path = Path(what)
    if path.is_absolute() or what.startswith((".", "~")):
        folder = path.expanduser()
        if not (folder / "config.json").is_file():
            raise HubError(f"{folder} is no model folder: it has no config.json")
        return MODELS[kind](folder, name, folder_hash(folder))
    folder, commit = fetch(workspace, what, commit, token)
    return MODELS[kind](folder, name, commit)


def text_embeddings(
    encoder: Encoder, texts: Sequence[str], templates: Sequence[str] = TEMPLATES
) -> NDArray[np.float32]:
    """Return the prompt ensemble's embedding of each text, float32 ``[len(texts), dim]`` of unit length.

    Raises `QueryError` for a text that is empty or longer than `MAX_TEXT` characters.
    """
    prompts = [template.replace("{}", checked_text(text)) for text in texts for template in templates]
    rows = encoder.encode_texts(prompts)
    mean: NDArray[np.float32] = rows.reshape(len(texts), len(templates), -1).mean(axis=1)
    return unit(mean)


def checked_text(text: str) -> str:
    """Return ``text`` with its white space collapsed, or raise `QueryError` when it cannot be a concept."""
    if len(text) > MAX_TEXT:
        raise QueryError(f"a text query has at most {MAX_TEXT} characters, this one {len(text)}: name a concept")
    clean = " ".join(text.encode("utf-8", "replace").decode().replace("\x00", " ").split())
    if not clean:
        raise QueryError("the text query is empty: name a concept, for example 'dog'")
    return clean
