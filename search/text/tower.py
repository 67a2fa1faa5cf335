"""The text side of an image-text model, without torch: a text is answered before torch and transformers are imported.

They take five seconds of a processor, a text a tenth. This reads the text tower of CLIP (Radford et al., 2021) and of
SigLIP and SigLIP2 of fixed size (Zhai et al., 2023; Tschannen et al., 2025) with numpy, from safetensors, whole or in
shards, and ``tokenizer.json``. Whatever it does not know, transformers loads; whether it is right is asked of
embeddings that transformers made (`Tower.agrees`), and it is used only then.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.text.contrast import unit
from search.text.tokens import FileTokenizer, Reader
from workspace import bounded_json
from workspace.files import read_json
from workspace.safetensors_header import weights_of

Array = NDArray[np.float32]

TOLERANCE, OF_BFLOAT16 = 0.01, 0.05
"""Distance between unit rows up to which two ways agree: models of half precision are computed in it by the other."""

MOST_TOKENS = 512
"""Tokens of a text, of which every pair takes memory: encoders read 64 or 77."""

_LOG = logging.getLogger(__name__)
_DEFAULTS = {
    "clip": {"num_attention_heads": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407},
    "siglip": {"num_attention_heads": 12, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6},
}
"""What a config that is silent means, by the model's type."""


_ACTS: Mapping[str, Callable[[Array], Array]] = {
    "quick_gelu": lambda x: x / (1 + np.exp(-1.702 * x)),
    "gelu_pytorch_tanh": lambda x: 0.5 * x * (1 + np.tanh(0.7978845608 * (x + 0.044715 * x**3))),
}


_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def _weights(folder: Path) -> dict[str, NDArray[Any]]:
    """Return the text side's tensors as they lie in the files, mapped; bfloat16 as uint16."""
    found: dict[str, NDArray[Any]] = {}
    for path in weights_of(folder)[0]:  # whose headers are right
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            tensors = bounded_json.loads(file.read(length).decode())
        data = np.asarray(np.memmap(path, np.uint8, "r", offset=8 + length))
        for name, about in tensors.items():
            if name.startswith("text_") and about["dtype"] in _DTYPES:
                start, stop = about["data_offsets"]
                found[name] = data[start:stop].view(_DTYPES[about["dtype"]]).reshape(about["shape"])
    return found


def _single(values: NDArray[Any]) -> Array:
    """Return numbers as float32; bfloat16 is its upper half."""
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


class Tower:
    """Embeds texts as `search.text.encoders.ClipEncoder` does, from ``tokenizer.json`` and the weights.

    Raises whatever comes of files that it does not know: use `of`.
    """

    def __init__(self, folder: Path, name: str, commit: str) -> None:
        self.name, self.commit = name, commit
        config = read_json(folder / "config.json")
        kind = config["model_type"]
        about = _DEFAULTS[kind] | config.get("text_config", {}) | (config.get("text_config_dict") or {})
        self._act, self._eps = _ACTS[about["hidden_act"]], np.float32(about["layer_norm_eps"])
        self._heads, self._end = int(about["num_attention_heads"]), about.get("eos_token_id")
        mapped = _weights(folder)
        # a few of its 50,000 to 256,000 rows are read, when they are asked
        self._rows = mapped.pop("text_model.embeddings.token_embedding.weight")
        self._of = {name: _single(values) for name, values in mapped.items()}
        self._tolerance = OF_BFLOAT16 if self._rows.dtype == np.uint16 else TOLERANCE
        self._layers = 1 + max(int(found[1]) for key in self._of if (found := re.search(r"layers\.(\d+)\.", key)))
        self._causal = kind == "clip"
        self._head = "text_projection" if self._causal else "text_model.head"
        self._positions = self._of["text_model.embeddings.position_embedding.weight"]
        if len(self._positions) > MOST_TOKENS:
            raise ValueError(f"it reads {len(self._positions):,} tokens")
        tokenizer = FileTokenizer(folder)
        if tokenizer.padding_side != "right" and self._causal:
            raise ValueError("its texts are padded at the left")
        if tokenizer.made_for == "SiglipTokenizer" and find_spec("sentencepiece") is not None:
            raise ValueError("its texts are read by sentencepiece")
        self._reader = Reader.of(tokenizer, folder, kind, len(self._positions))
        self.encode_texts(["a"])

    @classmethod
    def of(cls, folder: Path, name: str, commit: str) -> Tower | None:
        """Return the tower in ``folder``, or None for a model that only transformers knows."""
        try:
            return cls(folder, name, commit)
        except Exception as error:  # noqa: BLE001 - a stranger's files: transformers says what is wrong with them
            _LOG.debug("%s is left to transformers: %s", name, error)
            return None

    def agrees(self, known: Mapping[str, Array], embed: Callable[[Tower, Sequence[str]], Array]) -> bool:
        """Return whether ``embed`` makes of it what is ``known`` of some texts, rows of unit length."""
        if not known:
            return False
        away = np.linalg.norm(embed(self, list(known)) - np.stack(list(known.values())), axis=1)
        return bool((away <= self._tolerance).all())

    def encode_texts(self, texts: Sequence[str]) -> Array:
        """Return float32 ``[len(texts), dim]``, each row of unit length; texts are cut to the encoder's tokens."""
        ids = self._reader.batch(texts, "np")["input_ids"]
        x = _single(self._rows[ids]) + self._positions[: ids.shape[1]]
        for layer in range(self._layers):
            part = f"text_model.encoder.layers.{layer}"
            x = x + self._attention(self._norm(x, f"{part}.layer_norm1"), f"{part}.self_attn")
            wide = self._act(self._linear(self._norm(x, f"{part}.layer_norm2"), f"{part}.mlp.fc1"))
            x = x + self._linear(wide, f"{part}.mlp.fc2")
        x = self._norm(x, "text_model.final_layer_norm")
        last = self._ends(ids) if self._causal else np.full(len(ids), -1)
        return unit(self._linear(x[np.arange(len(ids)), last], self._head))

    def kept(self, text: str) -> str:
        """Return the part of ``text`` that is read; the rest is beyond the encoder's tokens."""
        return self._reader.kept(text)

    def _ends(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        # configs of before transformers 4.31 say 2 where they mean the largest token
        return np.asarray(np.argmax(ids if self._end == 2 else ids == self._end, axis=1))

    def _linear(self, x: Array, name: str) -> Array:
        y = x @ self._of[f"{name}.weight"].T
        return np.asarray(y + self._of.get(f"{name}.bias", np.float32(0)), np.float32)

    def _norm(self, x: Array, name: str) -> Array:
        x = x - x.mean(axis=-1, keepdims=True)
        scale = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + self._eps)
        return np.asarray(x / scale * self._of[f"{name}.weight"] + self._of[f"{name}.bias"], np.float32)

    def _attention(self, x: Array, name: str) -> Array:
        texts, tokens, width = x.shape
        cut = (texts, tokens, self._heads, width // self._heads)
        q, k, v = (self._linear(x, f"{name}.{part}_proj").reshape(cut).transpose(0, 2, 1, 3) for part in "qkv")
        scores = q @ k.swapaxes(2, 3) / np.sqrt(np.float32(cut[3]))
        if self._causal:  # padding is behind the end of a text, so nothing that counts sees it
            scores += np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        seen = (scores / scores.sum(axis=-1, keepdims=True)) @ v
        return self._linear(seen.transpose(0, 2, 1, 3).reshape(x.shape), f"{name}.out_proj")
