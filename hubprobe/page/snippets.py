"""The same question as Python, SQL and a command line: what the page found, found again without it."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from hubprobe.page.asked import Asked, literal


@dataclass(frozen=True)
class Snippet:
    """One way to ask.

    Attributes:
        name: ``Python``, ``SQL`` or ``Command line``.
        code: what to copy.
    """

    name: str
    code: str


def snippets(asked: Asked, workspace: str, image_name: str = "example.png") -> list[Snippet]:
    """Return the snippets of a question.

    Args:
        asked: the question, not ``nothing``.
        workspace: folder as the reader would name it; never the server's whole path.
        image_name: what the uploaded file was called, already disarmed.
    """
    return [
        Snippet("Python", _python(asked, workspace, image_name)),
        Snippet("SQL", _sql(asked)),
        Snippet("Command line", _shell(asked, workspace, image_name)),
    ]


def _python(asked: Asked, workspace: str, image_name: str) -> str:
    if asked.kind == "text":
        query = f"index.search({asked.q!r})"
    elif asked.kind == "like":
        query = f"index.similar({asked.like!r}, {asked.logit})"
    else:
        query = f"index.search(Path({image_name!r}))"
    if asked.filtered:
        query += f"\n    .where({asked.condition()!r})"
    if asked.by != "logit":
        query += f"\n    .by({asked.by!r})"
    query += f"\n    .limit({asked.n})\n    .to_pandas()"
    head = "from pathlib import Path\n\n" if asked.kind == "image" else ""
    return f"{head}import hubprobe\n\nindex = hubprobe.open({workspace!r})\nhits = (\n    {query}\n)\nprint(hits)\n"


def _sql(asked: Asked) -> str:
    if asked.kind == "image":
        return (
            "-- SQL reads no image: use Python or the command line,\n"
            "-- or ask with a hit: 'more like this' has the SQL.\n"
        )
    what = literal(asked.q) if asked.kind == "text" else f"{literal(asked.like)}, {asked.logit}"
    call = "search" if asked.kind == "text" else "similar"
    arguments = [what, f"n := {asked.n}"]
    arguments += [f"by := '{asked.by}'"] if asked.by != "logit" else []
    arguments += [f"filter := {literal(asked.condition())}"] if asked.filtered else []
    return f"SELECT rank, repo_id, logit, label, score\nFROM {call}({', '.join(arguments)})\nORDER BY rank\n"


def _shell(asked: Asked, workspace: str, image_name: str) -> str:
    place = ["--workspace", workspace]
    if asked.kind == "like" and asked.by != "logit":  # `similar` lists logits only: SQL can more
        return f"{shlex.join(['hubprobe', 'sql', *place, _sql(asked)])}\n"
    verb = "similar" if asked.kind == "like" else "search"
    options = ["--where", asked.condition()] if asked.filtered else []
    options += ["--by", asked.by] if asked.by != "logit" else []
    options += ["--limit", str(asked.n)]
    if asked.kind == "image":
        return f"{shlex.join(['hubprobe', verb, *place, '--image', image_name, *options])}\n"
    what = [asked.q] if asked.kind == "text" else [asked.like, str(asked.logit)]
    dashes = ["--"] if what[0].startswith("-") else []
    return f"{shlex.join(['hubprobe', verb, *place, *options, *dashes, *what])}\n"
