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
    "answers": ("sql",),
    "build": ("IndexSummary", "index", "unchanged"),
    "evaluation": ("Evaluation", "evaluate"),
    "info": ("verify",),
    "open_index": ("Index", "contact_sheet", "open"),
    "query": ("Query",),
    "scan.scoring": ("SCORINGS", "Descriptor"),
    "text.embeddings": ("sight",),
    "text.encoder_choice": ("load_choice", "settle"),
    "text.encoders": ("Encoder", "load_encoder"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOME.items():
        if name in names:
            return globals().setdefault(name, getattr(import_module(f"search.{module}"), name))
    raise AttributeError(f"module 'search' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
