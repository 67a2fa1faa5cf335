"""A question: as it stands in an address, as filters, as the records that answer it, and as code that asks it again."""

from __future__ import annotations

import io
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, cast, get_args
from urllib.parse import urlencode

import pyarrow as pa
from starlette.responses import Response

from hubprobe.output import write_batches
from search import filters
from workspace import QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.page.opened import Current, Opened
    from search import Query
    from search.text.calibration import Coverage

Unit = Literal["logit", "model", "family"]
UNITS = cast("tuple[Unit, ...]", get_args(Unit))
MOST = 100
"""Hits of one answer."""

_SUFFIX = {"": 1, "k": 1_000, "m": 1_000_000, "b": 1_000_000_000}
_NUMBERS = ("min_downloads", "min_parameters", "max_parameters", "logit", "n")
_LONGEST = 10_000  # characters of one value
_COLUMNS = (
    "rank", "score", "probability", "found_by", "repo_id", "sha", "logit", "label", "library_name", "license",
    "downloads", "parameters", "label_quality", "family", "copies",
)  # fmt: skip


def address(path: str, /, **values: object) -> str:
    """Return a relative address with the values that are not empty, so that the page works under any prefix."""
    kept = {key: value for key, value in values.items() if value is not None and value != ""}
    return f"{path}?{urlencode(kept)}" if kept else path


@dataclass(frozen=True)
class Question:
    """One question: a text, an uploaded image (its key), or a logit (``like`` and ``logit``); and what it may find."""

    q: str = ""
    image: str = ""
    like: str = ""
    logit: int | None = None
    by: Unit = "logit"
    library: str = ""
    license: str = ""
    quality: str = ""
    min_downloads: int | None = None
    min_parameters: int | None = None
    max_parameters: int | None = None
    where: str = ""
    n: int = 10

    @property
    def kind(self) -> str:
        """``text``, ``like``, ``image`` or ``nothing``: the first that is there."""
        if self.q:
            return "text"
        return "like" if self.like and self.logit is not None else "image" if self.image else "nothing"

    @property
    def filtered(self) -> bool:
        """Whether anything restricts the hits."""
        return bool(self.conditions())

    def conditions(self) -> list[str]:
        """Return the filters as SQL conditions, the visitor's own one last."""
        equal = {"library_name": self.library, "license": self.license, "label_quality": self.quality}
        bounds = {
            "downloads >=": self.min_downloads,
            "parameters >=": self.min_parameters,
            "parameters <=": self.max_parameters,
        }
        conditions = [f"{column} = {literal(value)}" for column, value in equal.items() if value]
        conditions += [f"{bound} {value}" for bound, value in bounds.items() if value is not None]
        return conditions + ([self.where] if self.where else [])

    def condition(self) -> str:
        """Return all filters as one SQL condition, or an empty text.

        Raises `QueryError` when the visitor's own condition is none by itself: only then may it stand in parentheses.
        """
        conditions = self.conditions()
        if self.where and len(conditions) > 1:
            filters.parse(self.where)
            end = "\n" if "--" in self.where else ""  # a comment must not swallow the parenthesis
            conditions[-1] = f"({self.where}{end})"
        return " AND ".join(conditions)

    def unfiltered(self) -> str:
        """Return the address of this question without its filters."""
        return Question(q=self.q, image=self.image, like=self.like, logit=self.logit).url()

    def url(self, **changes: Any) -> str:
        """Return the address of this question with some values changed, or added, as ``format`` is."""
        values = {field.name: getattr(self, field.name) for field in fields(self)} | changes
        defaults = {"by": "logit", "n": 10}
        return address("./", **{k: v for k, v in values.items() if v != defaults.get(k)})


def literal(value: str) -> str:
    """Return ``value`` as an SQL string."""
    return "'" + value.replace("\x00", "").replace("'", "''") + "'"


def read(values: Mapping[str, str]) -> Question:
    """Read a question from an address's values; raises `QueryError` for a value that cannot be meant."""
    known = {field.name for field in fields(Question)}
    given: dict[str, Any] = {k: v.strip() for k, v in values.items() if k in known and v.strip()}
    too_long = next((k for k, v in given.items() if len(v) > _LONGEST), None)
    if too_long:
        raise QueryError(f"'{too_long}' has more than {_LONGEST} characters")
    given |= {k: count(k, given[k]) for k in _NUMBERS if k in given}
    question = Question(**given)
    if question.by not in UNITS:
        raise QueryError(f"hits are by 'logit', 'model' or 'family', not by '{printable(question.by, 40)}'")
    if not 1 <= question.n <= MOST:
        raise QueryError(f"a page shows between 1 and {MOST} hits")
    return question


def count(name: str, value: str) -> int:
    """Read a number such as 1000, 1,000, 25k or 1.5M; raises `QueryError`."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmb]?)", value.replace(",", "").strip().lower())
    if match is None:
        raise QueryError(f"'{printable(value, 40)}' is no number for {name.replace('_', ' ')}: write 1000, 25k or 1.5M")
    return int(float(match[1]) * _SUFFIX[match[2]])


@dataclass(frozen=True)
class Answer:
    """The hits of a question."""

    hits: list[dict[str, Any]]  # best first: the columns above, ``row`` (its position), ``names`` and ``evidence``
    coverage: Coverage | None  # how sure one can be; None where not known: images, logits, other scorings, no hits
    seconds: float  # from the question to the records
    notes: tuple[str, ...] = ()  # what to know before looking at the hits, such as that the text was cut


def answer(current: Current, opened: Opened, question: Question) -> Answer:
    """Answer a question; raises `QueryError` for one that cannot be answered."""
    started = time.perf_counter()
    query = prepared(current, opened, question)
    hits = records(opened, query.by(question.by).limit(question.n))
    sure = None
    if hits and question.kind == "text" and query.scoring == "bridged" and query.descriptor.signs is not None:
        sure = query.coverage()
    return Answer(hits, sure, time.perf_counter() - started, query.notes)


def prepared(current: Current, opened: Opened, question: Question) -> Query:
    """Return the query of a question with its filters, before `by` and `limit`."""
    if question.kind == "text":
        query = opened.index.search(question.q)
    elif question.kind == "like":
        query = opened.index.similar(question.like, int(question.logit or 0))
    elif question.kind == "image":
        query = opened.index.search(current.image(question.image).descriptor)
    else:
        raise QueryError("there is nothing to search for: write what to find, or choose an example image")
    condition = question.condition()
    return query.where(condition) if condition else query


def records(opened: Opened, query: Query) -> list[dict[str, Any]]:
    """Run a query and return its hits with suggested names and evidence."""
    table = query.to_arrow()
    hits: list[dict[str, Any]] = table.select([name for name in _COLUMNS if name in table.column_names]).to_pylist()
    rows = [opened.index.gallery.row(hit["repo_id"], hit["logit"], hit["sha"]) for hit in hits]
    names = opened.names.of(rows)
    for hit, row in zip(hits, rows, strict=True):
        hit |= {"row": row, "names": names.get(row, []), "evidence": opened.strips.strongest(row)}
    return hits


def plain(opened: Opened, hit: dict[str, Any]) -> dict[str, Any]:
    """Return a hit as JSON can carry it, for the API: labels and captions on one line, without control characters."""
    best = hit["names"][0] if hit["names"] else None
    kept = {key: value for key, value in hit.items() if key not in ("row", "names", "evidence")}
    return kept | {
        "label": printable(hit["label"], 200) if hit["label"] is not None else None,
        "name": printable(best.name, 200) if best else None,
        "name_confidence": round(best.confidence, 3) if best else None,
        "name_source": best.source if best else None,
        "evidence": [
            {
                "probe_id": one.probe,
                "caption": printable(one.caption, 200),
                "strength": round(one.strength, 2),
                "image": f"probe/{opened.strips.probe_set}/{one.probe}.webp",
            }
            for one in hit["evidence"]
        ],
    }


def table(current: Current, opened: Opened, question: Question) -> pa.Table:
    """Return the hits of a question as a table to keep: the API's records, the probes as ``id: caption``."""
    hits = records(opened, prepared(current, opened, question).by(question.by).limit(question.n))
    rows = [plain(opened, hit) for hit in hits]
    for row in rows:
        row["evidence"] = [f"{one['probe_id']}: {one['caption']}" for one in row["evidence"]]
    return as_table(rows, [*_COLUMNS, "name", "name_confidence", "name_source", "evidence"])


# ── what a page shows, as a file: its address with ``format=csv``, ``json`` or ``parquet`` at the end ────────────────
FILES = {"csv": "text/csv; charset=utf-8", "json": "application/json", "parquet": "application/vnd.apache.parquet"}
"""The formats, and what a browser is told of each."""


def wanted(values: Mapping[str, str]) -> str:
    """Return the format that an address asks for, empty for a page; raises `QueryError` for one that is not there."""
    kind = values.get("format", "")
    if kind and kind not in FILES:
        raise QueryError(f"there is no format '{printable(kind, 40)}': {', '.join(FILES)}")
    return kind


def as_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
    """Return rows as a table that has its columns also when there are no rows."""
    made = {name: [row.get(name) for row in rows] for name in columns}
    return pa.table({name: pa.array(values, None if rows else pa.string()) for name, values in made.items()})


def as_text(rows: pa.Table, kind: str) -> bytes:
    """Return a table in one of the `FILES`; what a spreadsheet would run as a formula is made a text."""
    sink = io.BytesIO()
    write_batches(rows.to_batches(), rows.schema, kind, sink)
    return sink.getvalue()


def as_file(rows: pa.Table, kind: str, name: str) -> Response:
    """Return a table as a file for keeping, called ``name`` with the format's ending."""
    headers = {
        "content-disposition": f'attachment; filename="hubprobe-{name}.{kind}"',
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
    }
    return Response(as_text(rows, kind), headers=headers, media_type=FILES[kind])


# ── as code ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def snippets(question: Question, workspace: str, image_name: str = "example.png") -> dict[str, str]:
    """Return the ways to ask a question, by name: ``Python``, ``SQL`` and ``Command line``.

    The workspace is named as the reader would, never by the server's whole path; the uploaded file by its disarmed
    name.
    """
    return {
        "Python": _python(question, workspace, image_name),
        "SQL": _sql(question),
        "Command line": _shell(question, workspace, image_name),
    }


def _python(question: Question, workspace: str, image_name: str) -> str:
    if question.kind == "text":
        query = f"index.search({question.q!r})"
    elif question.kind == "like":
        query = f"index.similar({question.like!r}, {question.logit})"
    else:
        query = f"index.search(Path({image_name!r}))"
    if question.filtered:
        query += f"\n    .where({question.condition()!r})"
    if question.by != "logit":
        query += f"\n    .by({question.by!r})"
    query += f"\n    .limit({question.n})\n    .to_pandas()"
    head = "from pathlib import Path\n\n" if question.kind == "image" else ""
    return f"{head}import hubprobe\n\nindex = hubprobe.open({workspace!r})\nhits = (\n    {query}\n)\nprint(hits)\n"


def _sql(question: Question) -> str:
    if question.kind == "image":
        return (
            "-- SQL reads no image: use Python or the command line,\n"
            "-- or ask with a hit: 'more like this' has the SQL.\n"
        )
    what = literal(question.q) if question.kind == "text" else f"{literal(question.like)}, {question.logit}"
    call = "search" if question.kind == "text" else "similar"
    arguments = [what, f"n := {question.n}"]
    arguments += [f"by := '{question.by}'"] if question.by != "logit" else []
    arguments += [f"filter := {literal(question.condition())}"] if question.filtered else []
    return f"SELECT rank, repo_id, logit, label, score\nFROM {call}({', '.join(arguments)})\nORDER BY rank\n"


def _shell(question: Question, workspace: str, image_name: str) -> str:
    place = ["--workspace", workspace]
    if question.kind == "like" and question.by != "logit":  # `similar` lists logits only: SQL can more
        return f"{shlex.join(['hubprobe', 'sql', *place, _sql(question)])}\n"
    verb = "similar" if question.kind == "like" else "search"
    options = ["--where", question.condition()] if question.filtered else []
    options += ["--by", question.by] if question.by != "logit" else []
    options += ["--limit", str(question.n)]
    if question.kind == "image":
        return f"{shlex.join(['hubprobe', verb, *place, '--image', image_name, *options])}\n"
    what = [question.q] if question.kind == "text" else [question.like, str(question.logit)]
    dashes = ["--"] if what[0].startswith("-") else []
    return f"{shlex.join(['hubprobe', verb, *place, *options, *dashes, *what])}\n"
