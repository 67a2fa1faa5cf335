"""The whole of hubprobe on the embedded demo hub: crawl, probe, complete, index, search, and how good it is."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubprobe.demo import lite0
from hubprobe.front import StatusReport, probe, status
from hubprobe.output import render
from workspace import Config, SearchConfig, Workspace

if TYPE_CHECKING:
    from search import Evaluation

HOME = Path(__file__).parent
PROBES = HOME / "probes.parquet"
TRUTH = HOME / "truth.json"
PORT = 8600
"""Where ``python -m hubprobe.demo.server`` listens; the demo's workspace names it, so that its verbs work later."""

QUERIES = ("strawberry", "globe", "dog")
"""Of the first two all outputs that there are come first, five and four. Of dogs there are two small models."""

NEXT = "apple"
"""What to ask next: four right hits, and the probes that they answer show it."""

ENCODER = "clip:hubprobe/demo-clip"
SCORINGS = ("bridged", "contrastive", "probelog", "full", "unnormalised")
HITS = 5


@dataclass
class DemoReport:
    """What the demo did and found."""

    workspace: Path  # its folder
    # for each query, the best logits as records, with ``right``: whether the hub trained it on that concept
    hits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    right: dict[str, int] = field(default_factory=dict)  # for each query, how many outputs of the hub are right
    # for each query, the picture of what those logits answer most strongly
    evidence: dict[str, Path] = field(default_factory=dict)
    status: StatusReport | None = None  # counts by how repositories ended
    # accuracy over every concept of the demo hub, as rows
    evaluation: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)  # wall time of each step


def demo(path: str | Path | None = None, *, workers: int = 1, progress: bool = True) -> DemoReport:
    """Serve the demo hub on a free loopback port and run every step against it with the real client libraries.

    The workspace is ``demo-index`` when ``path`` is None. Run again, it goes on where it left off; a finished one only
    searches and evaluates. ``workers`` processes probe.
    """
    # The hub to be reached is on this machine, whatever proxy the environment names for the rest of the world.
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
    import completion
    import crawler
    import search
    from hubprobe.demo.server import serve_demo
    from hubprobe.machine import probe_with_workers
    from probing import probes

    root = Path(path) if path is not None else Path("demo-index")
    config = Config(endpoint=f"http://127.0.0.1:{PORT}", search=SearchConfig(encoder=ENCODER))
    stored = Workspace.create(root, config)
    report = DemoReport(root)
    with _timed(report, "serve"):
        server = serve_demo()
    with server:
        workspace = Workspace(root, replace(stored.config, endpoint=server.url))
        with _timed(report, "probes"):
            if not (root / "probes" / "current.json").exists():
                probes.build(workspace, PROBES, n=10_000, seed=0, progress=progress)
        with _timed(report, "crawl"):
            crawler.crawl(workspace, token="", progress=progress)
        with _timed(report, "probe"):
            if workers > 1:
                quiet = [] if progress else ["--quiet"]
                tokenless = {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
                probe_with_workers(root, workers, quiet, HF_ENDPOINT=server.url, **tokenless)
            else:
                probe(workspace, token="", progress=progress)
        with _timed(report, "complete"):
            completion.complete(workspace, spare=True, progress=progress)
        with _timed(report, "index"):
            if search.unchanged(workspace, token="") is None:
                search.index(workspace, token="", progress=progress)
    # The hub is gone from here on: search needs nothing but the workspace.
    index = search.open(Workspace.open(root))
    with _timed(report, "search"):
        for query in QUERIES:
            report.hits[query] = index.search(query).limit(HITS).to_dicts()
    truth = json.loads(TRUTH.read_text(encoding="utf-8"))
    _judge(report, truth)
    for query, hits in report.hits.items():
        report.evidence[query] = root / f"{query}.png"
        index.contact_sheet(hits, report.evidence[query], title=query)
    report.status = status(Workspace.open(root))
    with _timed(report, "evaluate"):
        measured = search.evaluate(
            Workspace.open(root), truth, scorings=SCORINGS, max_logit_queries=10_000, progress=progress
        )
        report.evaluation = [*measured.rows(), *_by_origin(measured)]
    return report


def _judge(report: DemoReport, truth: dict[str, Any]) -> None:
    """Say of every hit whether it is right, by what the hub's models were trained on."""
    of = {(repo, i): concept for repo, about in truth["models"].items() for i, concept in enumerate(about["logits"])}
    for query, hits in report.hits.items():
        report.right[query] = sum(concept == query for concept in of.values())
        for hit in hits:
            hit["right"] = of.get((hit["repo_id"], hit["logit"])) == query


def _by_origin(measured: Evaluation) -> list[dict[str, Any]]:
    """Split the logit queries by whose logit asks: the drawings' own classifiers, or the ImageNet model."""
    rows = []
    asked = [r for r in measured.ranks.to_pylist() if r["task"] == "logit" and r["scoring"] == SCORINGS[0]]
    for name in ("trained on drawings", "ImageNet"):
        ranks = [r["rank"] for r in asked if (f" of {lite0.REPO_ID}" in r["query"]) == (name == "ImageNet")]
        if ranks:
            tops = {f"top{n}": sum(rank <= n for rank in ranks) / len(ranks) for n in (1, 5, 10)}
            mrr = sum(1 / rank for rank in ranks) / len(ranks)
            about = {"task": f"logit, asked by: {name}", "scoring": SCORINGS[0], "queries": len(ranks)}
            rows.append({**about, **tops, "mrr": mrr})
    return rows


@contextmanager
def _timed(report: DemoReport, step: str) -> Iterator[None]:
    start = time.perf_counter()
    sys.stderr.write(f"── {step}\n")
    yield
    report.seconds[step] = time.perf_counter() - start


def as_text(report: DemoReport) -> str:
    """Return the report as a person reads it."""
    parts = []
    for query, hits in report.hits.items():
        table = render(hits, ["rank", "repo_id", "logit", "label", "score", "found_by", "right"])
        there, first = report.right[query], sum(hit["right"] for hit in hits)
        judged = f"By the truth {first} of these are right; {there} of all outputs are."
        parts.append(f"Which logits recognise “{query}”?   (evidence: {report.evidence[query]})\n\n{table}\n{judged}\n")
    if report.status is not None:
        counts = report.status
        table = render(counts.by_status, ["outcome", "status", "repositories", "meaning"], width=80)
        parts.append(
            f"How the repositories ended: {counts.attempted} attempted = {counts.ok} ok + {counts.skipped} skipped + "
            f"{counts.failed} failed; {counts.logits} searchable logits\n\n{table}"
        )
    if report.evaluation:
        table = render(report.evaluation, ["task", "scoring", "k", "queries", "top1", "top5", "top10", "mrr", "chance"])
        parts.append(f"How often the search is right, over every concept of the demo hub\n\n{table}")
    steps = "  ".join(f"{name} {seconds:.1f} s" for name, seconds in report.seconds.items())
    parts.append(f"Time: {steps}; {sum(report.seconds.values()):.0f} s in all\n")
    parts.append(
        f'Next: hubprobe search --workspace {report.workspace} "{NEXT}" --evidence {NEXT}.png\n'
        f"      hubprobe serve --workspace {report.workspace}   # in the browser\n"
    )
    return "\n".join(parts)


def as_data(report: DemoReport, kind: str) -> str:
    """Return the report as JSON, or its hits as CSV."""
    if kind == "json":
        values = asdict(report)
        return render([values], list(values), "json")
    hits = [{"query": query, **hit} for query, found in report.hits.items() for hit in found]
    return render(hits, list(hits[0]) if hits else ["query"], "csv")
