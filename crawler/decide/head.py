"""Is the classification head in the weights? Decided from names and shapes in the safetensors header alone."""

from __future__ import annotations

import re
from enum import Enum

from workspace.safetensors_header import Header, Tensor

_HEAD = re.compile(
    r"(?:^|\.)(?:\w*classifier\w*|fc|fc\d?|heads?|head_\w+|\w+_head|head\d|last_linear|score|final_layer|classif|logits"
    r"|linear|output|cls_\w+|distillation)(?:\.|$)"
)
"""Names that libraries give to a head or to the module it is in, anywhere in a tensor's name."""

_CERTAIN = re.compile(r"^(?:[a-z_0-9]+\.)?(?:classifier(?:\.1)?|fc|head(?:\.fc)?)\.weight$")
"""A tensor of one of these names is the head's matrix in nearly every architecture: its rows decide."""

_INSIDE = re.compile(
    r"(?:^|\.)(?:layers?|blocks?|stages?|encoder|features|patch_embed\w*|embeddings?|stem|se|attn|mlp)(?:\.|$)"
    r"|norm|\bbn|pos_embed"
)
"""Parts of a body: a tensor there is no head, whatever its shape."""


class Head(Enum):
    """What the weights hold in place of a head with the announced number of outputs."""

    FOUND = "found"
    MISSING = "missing"
    MISMATCH = "mismatch"


def find_head(header: Header, num_labels: int) -> tuple[Head, str]:
    """Look for an output layer with ``num_labels`` rows and say in a sentence what was found.

    A healthy model is never refused for an unusual name: without a head's usual name, any matrix or vector outside the
    body with that many rows counts. The prober checks the missing keys once more when it loads the model.
    """
    certain = [t for t in header.tensors if _CERTAIN.match(t.name) and _outputs(t) is not None]
    usual = [
        t for t in header.tensors if _HEAD.search(t.name) and _outputs(t) is not None and not _INSIDE.search(t.name)
    ]
    for tensor in (*certain, *usual):
        if _outputs(tensor) == num_labels:
            return Head.FOUND, f"{tensor.name} {list(tensor.shape)} has a row for each of the {num_labels} labels"
    if not (certain and len({_outputs(t) for t in certain}) == 1):
        for tensor in header.tensors:
            if _outputs(tensor) == num_labels and not _INSIDE.search(tensor.name):
                return Head.FOUND, f"{tensor.name} {list(tensor.shape)} has {num_labels} rows"
    matrices = certain or [t for t in usual if len(t.shape) > 1]
    if matrices:
        tensor = matrices[-1]
        return Head.MISMATCH, f"{tensor.name} has {_outputs(tensor)} rows, the config announces {num_labels} labels"
    return Head.MISSING, f"no tensor among {len(header.tensors)} looks like an output layer of {num_labels} rows"


def _outputs(tensor: Tensor) -> int | None:
    """Return how many outputs a layer with this tensor would have: vectors, matrices and 1x1 convolutions only."""
    shape = tensor.shape
    if len(shape) in (1, 2) or (len(shape) == 4 and shape[2:] == (1, 1)):
        return shape[0]
    return None
