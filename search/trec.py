"""TREC runs and qrels, so that any tool of information retrieval can score us, and score others on the same truth.

A document is ``repo_id#logit``; a query of the text task is a concept's key with its white space as underscores.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.encoders import Encoder
from search.reader import open as open_index
from workspace import QueryError, Workspace
from workspace.files import replacing

DEPTH = 100
"""Hits per query in a run."""

MOST_LOGITS = 1_000_000
"""Outputs that a model can have in a qrels file."""


def read_qrels(text: str) -> dict[str, Any]:
    """Return the truth, as `search.evaluate` takes it, from qrels lines ``concept 0 repo_id#logit relevance``.

    A concept's underscores are spaces in its name. Raises `QueryError` naming the line that is not of that shape.
    """
    models: dict[str, dict[int, str]] = defaultdict(dict)
    concepts: dict[str, dict[str, str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            concept, _, document, relevance = line.split()
            repo_id, _, logit = document.rpartition("#")
            relevant, place = int(relevance) > 0, int(logit)
            if not 0 <= place < MOST_LOGITS:
                raise ValueError(place)
        except ValueError as error:
            raise QueryError(f"qrels line {number}: write 'concept 0 repo_id#logit 1', not {line[:80]!r}") from error
        if relevant:
            if models[repo_id].get(place, concept) != concept:
                raise QueryError(
                    f"qrels line {number}: {document[:80]} is relevant to {models[repo_id][place]} already, and an "
                    "output has one concept here"
                )
            concepts[concept] = {"name": concept.replace("_", " ")}
            models[repo_id][place] = concept
    listed = {
        repo_id: {"logits": [logits.get(i) for i in range(max(logits) + 1)]} for repo_id, logits in models.items()
    }
    return {"concepts": concepts, "models": listed}


def write_trec(
    workspace: Workspace, truth: Mapping[str, Any], folder: Path, *, scorings: Sequence[str], k: int | None = None,
    encoder: Encoder | None = None,
) -> list[Path]:  # fmt: skip
    """Write ``truth.qrels`` and one ``<scoring>.run`` for every scoring, of the text task; return the paths."""
    index = open_index(workspace, encoder=encoder)
    known = set(index.gallery.models.column("repo_id").to_pylist())
    lines = sorted(
        f"{_key(concept)} 0 {repo_id}#{logit} 1"
        for repo_id, about in truth["models"].items()
        if repo_id in known
        for logit, concept in enumerate(about["logits"])
        if concept is not None and concept in truth["concepts"]
    )
    asked = sorted({line.split()[0] for line in lines})
    names = {_key(key): str(about["name"]) for key, about in truth["concepts"].items()}
    folder.mkdir(parents=True, exist_ok=True)
    files = [_written(folder / "truth.qrels", lines)]
    index.prepare([names[key] for key in asked])
    for scoring in scorings:
        run = []
        for key in asked:
            hits = index.search(names[key], scoring=scoring, k=k).limit(DEPTH).to_arrow()
            columns = (hits.column(name).to_pylist() for name in ("rank", "repo_id", "logit", "distance"))
            for rank, repo_id, logit, distance in zip(*columns, strict=True):
                run.append(f"{key} Q0 {repo_id}#{logit} {rank} {-distance:.6f} hubprobe-{scoring}")
        files.append(_written(folder / f"{scoring}.run", run))
    return files


def _key(concept: str) -> str:
    return "_".join(str(concept).split())


def _written(path: Path, lines: Sequence[str]) -> Path:
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", "utf-8")
    return path
