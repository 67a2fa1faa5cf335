"""Search: turns a text, an image, a logit or a descriptor into ranked logits and models.

Reads ``descriptors/``, ``catalog/`` and ``attempts/`` of a workspace, writes ``index/``. Heavy libraries are imported
when a name is first used, so ``import search`` costs milliseconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from search.answers import sql
    from search.build import IndexSummary, index, unchanged
    from search.evaluation import Evaluation, evaluate
    from search.info import verify
    from search.open_index import Index, contact_sheet, open  # noqa: A004 - reads as search.open(workspace)
    from search.query import Query
    from search.scan.scoring import SCORINGS, Descriptor
    from search.text.embeddings import sight
    from search.text.encoder_choice import load_choice, settle
    from search.text.encoders import Encoder, load_encoder

__all__ = [
    "SCORINGS",
    "Descriptor",
    "Encoder",
    "Evaluation",
    "Index",
    "IndexSummary",
    "Query",
    "contact_sheet",
    "evaluate",
    "index",
    "load_choice",
    "load_encoder",
    "open",
    "settle",
    "sight",
    "sql",
    "unchanged",
    "verify",
]

_HOME = {
    "SCORINGS": "scan.scoring",
    "Descriptor": "scan.scoring",
    "Encoder": "text.encoders",
    "Evaluation": "evaluation",
    "Index": "open_index",
    "IndexSummary": "build",
    "Query": "query",
    "contact_sheet": "open_index",
    "evaluate": "evaluation",
    "index": "build",
    "load_choice": "text.encoder_choice",
    "load_encoder": "text.encoders",
    "open": "open_index",
    "settle": "text.encoder_choice",
    "sight": "text.embeddings",
    "sql": "answers",
    "unchanged": "build",
    "verify": "info",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'search' has no attribute '{name}'")
    value = getattr(import_module(f"search.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
