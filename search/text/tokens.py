"""How an encoder's tokenizer reads a text: as its model was trained, special tokens as plain text, and what is cut."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from workspace import HubError
from workspace.files import read_json
from workspace.text import printable

READING = 2
"""Counted up when the same text comes to be read otherwise, so that embeddings of before are not used again."""

_SPECIAL = 4  # tokens that tokenizers put around a text, or before its first word, at most

_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class Reader:
    """A tokenizer, and what the model was trained on beside it."""

    tokenizer: Any  # transformers' own
    context: int  # tokens that the model reads, special ones included
    padding: bool | str = True  # ``"max_length"`` where the model was trained on texts of full length, else True
    masked: bool = True  # whether padding is hidden from the model
    lower: bool = False  # whether it was trained on lower-cased text
    bare: bool = False  # whether it was trained on text without punctuation

    @classmethod
    def of(cls, tokenizer: Any, folder: Path, model_type: str, context: int) -> Reader:
        """Return the reader of an image-text model in ``folder``.

        SigLIP and SigLIP2 were trained on lower-cased texts, padded at the right to full length and without a mask
        (big_vision; transformers' docs of both); the first also without punctuation. Their tokenizers see to it in some
        versions and repositories and not in others, so it is done here: it comes to the same where they do it too.
        """
        if not model_type.startswith("siglip"):
            return cls(tokenizer, context)
        tokenizer.padding_side = "right"
        stated = folder / "tokenizer_config.json"
        name = read_json(stated).get("tokenizer_class") if stated.is_file() else None
        bare = "SiglipTokenizer" in (name, type(tokenizer).__name__)
        return cls(tokenizer, context, "max_length", masked=False, lower=True, bare=bare)

    def batch(self, texts: Sequence[str], tensors: str = "pt") -> dict[str, Any]:
        """Return what the model takes: int64 ``[len(texts), tokens]`` of ``input_ids``, and of the mask if it has one.

        Special tokens in a text, such as ``<|endoftext|>``, are the characters they are written with.
        """
        made = self.tokenizer(
            [self._plain(text) for text in texts],
            padding=self.padding, truncation=True, max_length=self.context, return_tensors=tensors,
            split_special_tokens=True,
        )  # fmt: skip
        names = ("input_ids", "attention_mask") if self.masked else ("input_ids",)
        return {name: made[name] for name in names if name in made}

    def kept(self, text: str) -> str:
        """Return the part of ``text`` that the model reads: all of it, unless it is longer than its context."""
        plain = self._plain(text)
        if len(plain.encode("utf-8", "replace")) + _SPECIAL <= self.context:  # a token has a byte of it at least
            return text
        fast = bool(getattr(self.tokenizer, "is_fast", False))
        made = self.tokenizer(
            plain, split_special_tokens=True, return_special_tokens_mask=True, return_offsets_mapping=fast,
            verbose=False,
        )  # fmt: skip
        ids, special = made["input_ids"], made["special_tokens_mask"]
        if len(ids) <= self.context:
            return text
        own = [i for i, is_special in enumerate(special) if not is_special]
        last = own[: max(self.context - (len(ids) - len(own)), 0)]
        if not last:
            return ""
        if fast:
            return plain[: made["offset_mapping"][last[-1]][1]].rstrip()
        return str(self.tokenizer.decode([ids[i] for i in last])).strip()

    def _plain(self, text: str) -> str:
        if self.lower:
            text = text.lower()
        return re.sub(r"\s+", " ", text.translate(_PUNCTUATION)).strip() if self.bare else text


class FileTokenizer:
    """What `Reader` asks of a tokenizer, from ``tokenizer.json`` alone: importing transformers takes three seconds."""

    is_fast = True

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        about = read_json(folder / "tokenizer_config.json")
        self.made_for = about.get("tokenizer_class")
        self.padding_side = about.get("padding_side", "right")
        pad = about["pad_token"]
        self._pad = pad if isinstance(pad, str) else str(pad["content"])
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._pad_id = self._tokenizer.token_to_id(self._pad)
        # special tokens in a text are the characters they are written with
        self._tokenizer.encode_special_tokens = True

    def __call__(
        self, text: str | list[str], *, padding: bool | str = False, max_length: int = 0, **_: Any
    ) -> dict[str, Any]:
        """Return ``input_ids``, ``special_tokens_mask`` and ``offset_mapping`` of a text, int64 arrays of several."""
        if isinstance(text, str):
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            one = self._tokenizer.encode(text)
            return {
                "input_ids": one.ids, "special_tokens_mask": one.special_tokens_mask, "offset_mapping": one.offsets
            }  # fmt: skip
        self._tokenizer.enable_truncation(max_length)
        length = max_length if padding == "max_length" else None
        self._tokenizer.enable_padding(
            direction=self.padding_side, pad_id=self._pad_id, pad_token=self._pad, length=length
        )
        return {"input_ids": np.array([one.ids for one in self._tokenizer.encode_batch(text)], np.int64)}


def tokenizer_of(folder: Path, name: str) -> Any:
    """Load the tokenizer in ``folder`` as transformers would, else its ``tokenizer.json`` as it stands.

    Raises `HubError`; what transformers itself raises for a file that cannot be read is the caller's.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except ImportError as error:  # its class wants sentencepiece, which is not here; the same rules are in the file
        if not (folder / "tokenizer.json").is_file():
            raise HubError(
                f"the encoder {name} needs a library for its tokenizer ({printable(error, 200)}): "
                "pip install sentencepiece protobuf"
            ) from error
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
