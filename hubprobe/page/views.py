"""The pages, drawn from templates; a stranger's text is made printable and escaped, whatever a template forgets."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, partial
from itertools import combinations
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from hubprobe.comparison import Comparison, compare
from hubprobe.output import chance as in_words
from hubprobe.output import size
from hubprobe.page.picks import BUDGETS, CANDIDATES
from hubprobe.page.picks import MOST as MOST_IMAGES
from hubprobe.page.question import FILES, MOST, UNITS, Answer, Question, address, as_table, as_text, snippets
from workspace import HubprobeError, QueryError
from workspace.endpoint import is_local
from workspace.text import printable

if TYPE_CHECKING:
    from hubprobe.page.api import Endpoint
    from hubprobe.page.opened import Example, Opened, Strong
    from hubprobe.page.picks import Pick
    from hubprobe.usage import Usage

_COPIED = ("rank", "repo_id", "sha", "logit", "label", "score", "license", "downloads", "parameters")

PER_PAGE = 100
"""Outputs of a model listed at once."""

_ATTEMPT = (
    "outcome", "status", "reason", "attempt", "started_at", "seconds_fetch", "seconds_load", "seconds_preprocess",
    "seconds_forward", "seconds_write", "bytes_fetched", "device", "dtype", "batch_size", "processor",
    "processor_source", "probes_run", "num_logits", "num_excluded", "peak_memory_bytes", "run_id",
)  # fmt: skip
_MODEL = (
    "sha", "library_name", "license", "downloads", "likes", "pipeline_tag", "architecture", "model_type", "parameters",
    "weights_bytes", "image_size", "num_labels", "num_logits", "label_quality", "problem_type",
    "estimated_accuracy", "reported_accuracy", "reported_on", "reported_by", "createdAt", "lastModified", "crawled_at",
)  # fmt: skip
_NAMES = {
    "sha": "commit", "createdAt": "created", "lastModified": "last modified", "license": "licence",
    "library_name": "library", "num_labels": "outputs announced", "num_logits": "outputs searchable",
    "num_excluded": "outputs excluded", "label_quality": "labels are", "bytes_fetched": "fetched", "run_id": "run",
    "weights_bytes": "weights", "peak_memory_bytes": "peak memory",
    "estimated_accuracy": "accuracy, estimated", "reported_accuracy": "accuracy, reported",
    "reported_on": "reported on", "reported_by": "reported by",
    "started_at": "started", "pipeline_tag": "task", "crawled_at": "crawled",
}  # fmt: skip
_HITS = {"logit": "outputs", "model": "models", "family": "families of near-copies"}
_QUALITY = {
    "named": "words",
    "LABEL_i": "LABEL_0, LABEL_1 …",
    "numeric": "numbers",
    "missing": "none",
    "inferred": "inferred, not stated",
    "guessed_by_count": "guessed from their number",
}
_FOUND_BY = {
    "zero-shot": "what the encoder sees in the probes",
    "labels": "labels of other models whose outputs answer alike",
    "map": "what was learned from labels and the outputs that carry them",
}
_MENU = (
    ("Search", "./", "home"), ("Models", "models", "models"), ("Concepts", "concepts", "concepts"),
    ("Pick", "pick", "pick"), ("About", "about", "about"), ("API", "about#api", ""),
)  # fmt: skip
_JUDGES = {"labels": "models that answer alike and their labels", "zero-shot": "what the encoder sees in the probes"}
NAME_FLOOR = 0.1
"""Confidence below which a suggested name is not shown: it would be a guess among many."""

_COMPARED = (
    "sha", "library_name", "architecture", "license", "downloads", "likes", "parameters", "weights_bytes", "image_size",
    "num_logits", "label_quality", "problem_type", "images_per_second", "peak_memory_bytes", "device",
    "estimated_accuracy", "reported_accuracy", "reported_on", "reported_by",
)  # fmt: skip
_MATCHED = ("a_repo_id", "a_logit", "a_label", "b_repo_id", "b_logit", "b_label", "similarity")

MOST_COMPARED = 4
"""Models of one comparison."""

MOST_PAIRS = 4_000_000
"""Pairs of outputs of one comparison: about two seconds."""

MOST_LISTED = 10_000
"""Models in a file."""


# ── what templates say ───────────────────────────────────────────────────────────────────────────────────────────────
def shown(value: object) -> object:
    """Return what a template writes: text on one line, without what could reorder or hide it; it is escaped after."""
    if value is None:
        return ""
    return value if isinstance(value, (Markup, int, float)) else printable(value, 10_000)


def exact(value: object) -> Markup:
    """Return a text escaped and otherwise unchanged: what a form sends back, and code."""
    return escape("" if value is None else str(value))


def number(value: float | None) -> str:
    """Return a count for people: 1,674."""
    return "–" if value is None else f"{value:,.0f}"


def short(value: float) -> str:
    """Return a large count in three digits: 188 k, 4.7 M, 1.2 B."""
    for unit, sign in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.1f} {sign}" if value < 10 * unit else f"{value / unit:.0f} {sign}"
    return f"{value:.0f}"


def percent(share: float) -> Markup:
    """Return a share for people: 21 %, on one line."""
    return Markup(f"{100 * share:.0f}&nbsp;%")


def chance(probability: float) -> Markup:
    """Return a probability as the command line does, on one line."""
    return Markup(in_words(probability).replace(" ", "&nbsp;"))


def fact(name: str, value: Any) -> str:
    """Return a fact for people, in its unit; empty when it is not known."""
    if value is None or value == "":
        return ""
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M UTC")
    if name == "sha":
        return printable(value, 12).removesuffix("…")
    if name.startswith("seconds"):
        return f"{value:.2f} s"
    if "bytes" in name:
        return f"{value / 1e6:.1f} MB" if value < 1e9 else f"{value / 1e9:.2f} GB"
    if name.endswith("accuracy"):
        return f"{100 * value:.1f} %"
    if isinstance(value, (int, float)):
        return number(value)
    return printable(_QUALITY.get(value, value) if name == "label_quality" else value, 300)


def model_address(repo_id: str, sha: str | None = None) -> str:
    """Return the address of a model's page."""
    return address("model", repo=repo_id, sha=sha)


def hub_address(endpoint: str, repo_id: str, sha: str | None = None) -> str | None:
    """Return where a repository lies on the Hub; None when that is no web address, or one of this machine alone."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname or is_local(parts.hostname):
        return None
    tree = f"/tree/{quote(sha, safe='')}" if sha else ""
    return f"{endpoint.rstrip('/')}/{quote(repo_id, safe='/')}{tree}"


@lru_cache(maxsize=8_192)  # about 3 KB each; a logit is found by many questions
def strip(probes: tuple[Strong, ...], probe_set: str, eager: bool = False) -> Markup:
    """Return the evidence: thumbnails of the probes a logit answers most strongly, with captions and strengths."""
    return Markup(_parts().figures(probes, probe_set, eager))


def card(
    hit: Mapping[str, Any], question: Question, probe_set: str, endpoint: str = "", usage: Usage | None = None
) -> Markup:
    """Return the card of a hit of `hubprobe.page.question`; the Hub is linked when its ``endpoint`` can be followed."""
    hub = hub_address(endpoint, hit["repo_id"], hit["sha"])
    return Markup(_parts().card(hit, question, probe_set, hub, usage))


def _parts() -> Any:
    return ENVIRONMENT.get_template("parts.html").module


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("hubprobe.page"), autoescape=True, finalize=shown, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    made.filters.update(
        text=printable, exact=exact, number=number, short=short, percent=percent, chance=chance, size=size
    )
    made.globals.update(
        model_address=model_address, Question=Question, strip=strip, found_by=_FOUND_BY, judges=_JUDGES, MOST=MOST,
        hits=_HITS, units=UNITS, qualities=_QUALITY, name_floor=NAME_FLOOR, card=card,
    )  # fmt: skip
    return made


ENVIRONMENT = _environment()
"""Of the templates: escapes everything, and makes every text printable that is not `exact`."""


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────
class Views:
    """Draws whole pages.

    ``version`` of style and script lets a browser fetch them anew when they change; the workspace is named as a reader
    would, never by the server's whole path.
    """

    def __init__(self, version: str, workspace: str, *, picking: bool = False) -> None:
        self._version, self._workspace = version, workspace
        self._menu = [entry for entry in _MENU if picking or entry[2] != "pick"]

    def _page(self, template: str, opened: Opened, question: Question | None = None, **values: Any) -> str:
        common = {
            "version": self._version, "menu": self._menu, "title": "",
            "gallery": opened.index.gallery, "index": opened.index.version,
            "facets": opened.facets, "question": question or Question(), "image_name": "", "root": "", "focus": False,
            "opened": opened, "probe_set": opened.strips.probe_set, "endpoint": opened.index.workspace.config.endpoint,
            "here": {"results.html": "home", "picked.html": "pick"}.get(template, template.removesuffix(".html")),
        }  # fmt: skip
        return ENVIRONMENT.get_template(template).render(common | values)

    def home(self, opened: Opened) -> str:
        """Return the start page: words to try, each with the strip of an output that carries it."""
        tiles = [(word, Question(q=word).url(), opened.strips.strongest(row)[:4]) for word, row in opened.examples]
        return self._page("home.html", opened, tiles=tiles, focus=True)

    def results(self, opened: Opened, question: Question, answer: Answer, example: Example | None = None) -> str:
        """Return the hits of a question, with how sure one can be and the same question as code."""
        image_name = example.name if example is not None else ""
        asked_with = None
        if question.kind == "like":
            row = opened.index.gallery.row(question.like, int(question.logit or 0))
            label = opened.index.gallery.logits.column("label")[row].as_py()
            asked_with = (label, opened.strips.strongest(row))
        picture = base64.b64encode(example.picture).decode() if example is not None else None
        asked = ("repo_id", "sha", "logit", "label", "names")
        return self._page(
            "results.html", opened, question, title=title(question, image_name), answer=answer, image_name=image_name,
            picture=picture, asked_with=asked_with,
            usages=[opened.usage(*(hit[name] for name in asked)) for hit in answer.hits], rows=_lines(answer.hits),
            question_files=[(kind, question.url(format=kind)) for kind in FILES],
            snippets=snippets(question, self._workspace, image_name or "example.png"),
        )  # fmt: skip

    def model(self, opened: Opened, repo_id: str, sha: str | None, *, find: str = "", start: int = 0) -> str:
        """Return a model's page: what it is, how its probing went, where it comes from, a name for each output.

        Listed are the outputs whose label or first name contains the words of ``find``, from number ``start``. Without
        ``sha`` it is the commit last indexed. Raises `QueryError` for a model that is not there.
        """
        gallery = opened.index.gallery
        sha, rows = _model(opened, repo_id, sha)
        facts = gallery.models.slice(int(gallery.model_of[rows[0]]), 1).to_pylist()[0]
        known = set(gallery.models.column("repo_id").to_pylist())
        tried = _attempt(opened, repo_id, sha)
        listed = _outputs(opened, rows, find.lower().split())
        start = _first(start, len(listed))
        some = listed[start : start + PER_PAGE]
        names = opened.names.of([row for row, _ in some])
        here = partial(address, "model", repo=repo_id, sha=sha, find=find)
        return self._page(
            "model.html", opened, title=repo_id, repo_id=repo_id, sha=sha, facts=facts, find=find,
            link=hub_address(opened.index.workspace.config.endpoint, repo_id, sha), total=len(rows),
            model=_facts(facts, _MODEL), attempt=_facts(tried, _ATTEMPT) if tried else None,
            bases=[(base, base in known) for base in facts["base_models"] or []],
            copies=[c for c in opened.index.gallery.family_members.get(facts["family"], []) if c != repo_id][:20],
            usage=opened.usage(repo_id, sha),
            alike=opened.lookalikes(repo_id, sha), matching=len(listed), pages=_pages(len(listed), start, here),
            files=_files(here),
            outputs=[(one, names.get(row), opened.strips.strongest(row)[:6]) for row, one in some],
        )  # fmt: skip

    def models(self, opened: Opened, *, find: str = "", start: int = 0) -> str:
        """Return the list of the models whose repository contains ``find``, from number ``start``."""
        listing = _listing(models_table(opened, find), start, partial(address, "models", find=find))
        return self._page("models.html", opened, title="Models", find=find, **listing)

    def compare(self, opened: Opened, asked: Sequence[str], found: Comparison) -> str:
        """Return models side by side, as `compared` has them."""
        names = [row["repo_id"] for row in found.models]
        facts = [(_NAMES.get(n, n.replace("_", " ")), [fact(n, row.get(n)) for row in found.models]) for n in _COMPARED]
        here = f"compare?{urlencode([('model', one) for one in asked])}"
        outputs = [row for row in found.outputs if any(row["matches"])]
        return self._page(
            "compare.html", opened, title=" and ".join(printable(name, 60) for name in names), names=names, found=found,
            facts=[row for row in facts if any(row[1])], outputs=outputs[:PER_PAGE], matched=len(outputs),
            captions=opened.strips.captions, files=[(kind, f"{here}&format={kind}") for kind in FILES],
        )  # fmt: skip

    def concepts(self, opened: Opened, *, group: str = "", show: str = "", find: str = "", start: int = 0) -> str:
        """Return what there is to be found: concepts of a ``group`` that contain ``find``, all or those that lack."""
        table = concepts_table(opened, group, show, find)
        kinds = sorted(set(opened.concepts["kind"].to_pylist()))
        listing = _listing(table, start, partial(address, "concepts", kind=group, show=show, find=find))
        return self._page(
            "concepts.html", opened, title="Concepts", group=group, kinds=[(one, one) for one in kinds], show=show,
            find=find, total=opened.concepts.num_rows,
            answered=pc.sum(pc.greater(opened.concepts["models"], 0)).as_py() or 0, **listing,
        )  # fmt: skip

    def pick(self, opened: Opened, concepts: str = "", where: str = "") -> str:
        """Return the form that a pick is started with."""
        return self._page(
            "pick.html", opened, title="Pick the best model for your images", concepts=concepts, where=where,
            most=MOST_IMAGES, candidates=CANDIDATES, budgets=BUDGETS,
        )  # fmt: skip

    def picked(self, opened: Opened, pick: Pick, progress: tuple[int, int]) -> str:
        """Return how far a pick has come, its question, or what was found."""
        result = pick.result or {}
        models = result.get("models", [])
        usage = opened.usage(models[0]["repo_id"], models[0]["sha"]) if models else None
        rows = {"models": models, "divided": _divided(result), "usage": usage}
        heading = {"done": "Picked", "asking": "What does this show?"}.get(pick.shown, "Picking")
        return self._page(
            "picked.html", opened, title=heading, pick=pick, progress=progress, **rows,
            files=_files(partial(address, "pick", key=pick.key)),
        )  # fmt: skip

    def about(self, opened: Opened, base: str, endpoints: Sequence[Endpoint], mcp: bool) -> str:
        """Return what the words mean and how to ask without a browser, at the address ``base``."""
        return self._page("about.html", opened, title="About", base=base, endpoints=endpoints, mcp=mcp)

    def failed(self, opened: Opened, question: Question, heading: str, message: str, root: str) -> str:
        """Return what went wrong and what to do; ``root`` leads from the address that was asked to the start page."""
        return self._page("failed.html", opened, question, title=heading, message=message, root=root)


def title(question: Question, image_name: str = "") -> str:
    """Return what was asked, for the heading and the tab."""
    if question.kind == "text":
        return f"“{printable(question.q, 100)}”"
    if question.kind == "like":
        return f"Like logit {question.logit} of {printable(question.like, 100)}"
    return f"Like {printable(image_name, 60) or 'the example image'}"


def models_table(opened: Opened, find: str) -> pa.Table:
    """Return the models whose repository contains ``find``, the most downloaded first, as `Opened.listed` has them."""
    table = opened.listed
    return table.filter(pc.match_substring(pc.utf8_lower(table["repo_id"]), find.strip().lower())) if find else table


def outputs_table(opened: Opened, repo_id: str, sha: str | None, find: str) -> pa.Table:
    """Return the outputs of a model whose label or name contains ``find``, as a table to keep."""
    sha, rows = _model(opened, repo_id, sha)
    listed = _outputs(opened, rows, find.lower().split())
    names = opened.names.of([row for row, _ in listed])
    made = []
    for row, one in listed:
        best = next(iter(names.get(row) or []), None)
        probes = [f"{p.probe}: {printable(p.caption, 200)}" for p in opened.strips.strongest(row)]
        label = None if one["label"] is None else printable(one["label"], 200)
        made.append({"repo_id": repo_id, "sha": sha, "logit": one["logit"], "label": label, "evidence": probes})
        if best is not None:
            made[-1] |= {
                "name": best.name,
                "name_confidence": round(best.confidence, 3),
                "name_source": best.source,
            }
    columns = ["repo_id", "sha", "logit", "label", "name", "name_confidence", "name_source", "evidence"]
    return as_table(made, columns)


def compared(opened: Opened, asked: Sequence[str]) -> Comparison:
    """Compare models, as many and as large as a page may; raises `QueryError`."""
    asked = list(dict.fromkeys(asked[: 4 * MOST_COMPARED]))
    if not 2 <= len(asked) <= MOST_COMPARED:
        raise QueryError(f"tick two to {MOST_COMPARED} different models to compare, not {len(asked)}")
    gallery = opened.index.gallery
    sizes = []
    for repo_id, _, sha in (one.partition("@") for one in asked):
        sizes.append(int(np.count_nonzero(gallery.is_model(repo_id, gallery.commit(repo_id, sha or None)))))
    if sum(a * b for a, b in combinations(sizes, 2)) > MOST_PAIRS:
        raise QueryError("these models have too many outputs for a page: use 'hubprobe compare'")
    return compare(opened.index, asked, limit=24)


def compared_table(found: Comparison) -> pa.Table:
    """Return the outputs of the first of the compared models with their matches, as a table to keep."""
    repos = [row["repo_id"] for row in found.models]
    rows: list[dict[str, Any]] = []
    for output in found.outputs:
        for repo, match in zip(repos[1:], output["matches"], strict=True):
            if match:
                labels = [None if v is None else printable(v, 200) for v in (output["label"], match["label"])]
                row = [repos[0], output["logit"], labels[0], repo, match["logit"], labels[1], match["similarity"]]
                rows.append(dict(zip(_MATCHED, row, strict=True)))
    return as_table(rows, _MATCHED)


def concepts_table(opened: Opened, group: str, show: str, find: str) -> pa.Table:
    """Return the concepts of a ``group`` whose name contains ``find``; with ``show`` as ``missing`` those that lack."""
    table = opened.concepts
    if group:
        table = table.filter(pc.equal(table["kind"], group))
    if show == "missing":
        table = table.filter(pc.and_not(pc.equal(table["models"], 0), table["covered"]))
    return table.filter(pc.match_substring(table["concept"], find.strip().lower())) if find.strip() else table


def picked_table(pick: Pick) -> pa.Table:
    """Return the models of a pick as a table to keep, as ``hubprobe pick`` has them."""
    rows = pick.result["models"] if pick.result else []
    kept = [
        "rank", "repo_id", "sha", "accuracy", "low", "high", "basis", "agreement", "labelled_right", "images",
        "images_per_second", "peak_memory_bytes", "parameters", "license", "downloads", "search_score", "family",
    ]  # fmt: skip
    made = [
        row
        | {f"accuracy: {c}": row["per_concept"].get(c) for c in pick.concepts}
        | {f"logits: {c}": row["outputs"].get(c) for c in pick.concepts}
        for row in rows
    ]
    each = [f"{what}: {concept}" for what in ("accuracy", "logits") for concept in pick.concepts]
    return as_table(made, [*kept, *each])


def _divided(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the images on which the five best models of a pick disagree, most divided first, with their answers."""
    leaders = {row["repo_id"]: row["rank"] for row in result.get("models", [])[:5]}
    found = []
    for row in result.get("images", []):
        answers = [(leaders[repo], repo, answer) for repo, answer in row["answers"] if repo in leaders]
        if len({answer for _, _, answer in answers}) > 1:
            found.append(row | {"answers": sorted(answers)})
    found.sort(key=lambda row: (-len({answer for _, _, answer in row["answers"]}), row["image"]))
    return found[:24]


def _model(opened: Opened, repo_id: str, sha: str | None) -> tuple[str, Any]:
    gallery = opened.index.gallery
    sha = gallery.commit(repo_id, sha or None)
    return sha, np.flatnonzero(gallery.is_model(repo_id, sha))


def _first(start: int, total: int) -> int:
    """Return where the page of a long list begins that has its entry number ``start``."""
    return min(max(start, 0), max(total - 1, 0)) // PER_PAGE * PER_PAGE


def _listing(table: pa.Table, start: int, here: Callable[..., str]) -> dict[str, Any]:
    """Return what a template shows of the page of a long list that has its entry number ``start``."""
    start = _first(start, table.num_rows)
    pages, listed = _pages(table.num_rows, start, here), table.slice(start, PER_PAGE).to_pylist()
    return {"matching": table.num_rows, "listed": listed, "pages": pages, "files": _files(here)}


def _files(here: Callable[..., str]) -> list[tuple[str, str]]:
    return [(kind, here(format=kind)) for kind in FILES]


def _pages(total: int, start: int, here: Callable[..., str]) -> list[tuple[str, str | None]]:
    """Return the pages of a long list, ``(words, address)``, the one that is shown without an address."""
    firsts = range(0, min(total, 200 * PER_PAGE), PER_PAGE)
    pages = [(f"{n + 1}–{min(n + PER_PAGE, total)}", None if n == start else here(start=n)) for n in firsts]
    return pages if len(pages) > 1 else []


def _lines(hits: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        {name: printable(hit[name], 200) if isinstance(hit.get(name), str) else hit.get(name) for name in _COPIED}
        for hit in hits
    ]
    return as_text(as_table(rows, _COPIED), "csv").decode()


def _attempt(opened: Opened, repo_id: str, sha: str) -> dict[str, Any] | None:
    """Return the last attempt at a model, or None when the workspace has no such row, as after an import."""
    try:
        table = opened.index.workspace.attempts([*_ATTEMPT, "repo_id", "sha"])
    except HubprobeError:
        return None
    rows = table.filter(pc.and_(pc.equal(table["repo_id"], repo_id), pc.equal(table["sha"], sha)))
    return dict(rows.slice(0, 1).to_pylist()[0]) if rows.num_rows else None


def _facts(row: Mapping[str, Any], names: Sequence[str]) -> list[tuple[str, str]]:
    words = [_NAMES.get(n, n.removeprefix("seconds_").removesuffix("_bytes").replace("_", " ")) for n in names]
    values = [fact(name, row.get(name)) for name in names]
    return [(word, value) for word, value in zip(words, values, strict=True) if value]


def _outputs(opened: Opened, rows: Any, words: Sequence[str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the outputs of a model, by logit, whose label or first name contains all words."""
    logits = opened.index.gallery.logits.select(["logit", "label"]).take(rows).to_pylist()
    listed = sorted(((int(row), one) for row, one in zip(rows, logits, strict=True)), key=lambda e: e[1]["logit"])
    if not words:
        return listed
    names = opened.names.of([row for row, _ in listed])
    texts = {row: f"{one['label'] or ''} {names[row][0].name if names.get(row) else ''}".lower() for row, one in listed}
    return [(row, one) for row, one in listed if all(word in texts[row] for word in words)]
