"""RESULTS.md beside this file and its pictures in docs/images, from the recorded rows.

Text between tables is written here; figures never are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
DOCS = Path(__file__).parents[2] / "docs"


def write(results: Path) -> None:
    """Write ``RESULTS.md`` from every study that has been recorded, and the pictures of it."""
    from benchmarks.accuracy import pictures

    studies = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(results.glob("*.json"))}
    parts = [_HEAD]
    for name, section in _SECTIONS.items():
        if name in studies:
            parts.append(section(studies[name]["rows"]))
    parts.append(_runs([study["about"] for study in studies.values()]))
    Path(__file__).with_name("RESULTS.md").write_text("\n".join(parts), "utf-8")
    pictures.draw(studies, DOCS / "images")


_HEAD = """# Results

Shares of queries with a right logit among the first one, five or ten; 95 % bootstrap intervals over the queries in
brackets. What they mean: [docs/results.md](../../docs/results.md).
Everything is asked of hubprobe itself: responses are completed, indexed, calibrated and searched by the
commands a user has. What could be tuned (`search/text/contrast.py`, `search/text/labels_fit.py`) was tuned on the
validation half of the concepts; these are the test half, on which nothing was tuned (it was asked again whenever the
code changed). The published scoring, `probelog`, is given the `k` that is best on the validation half. Rebuild:
`python -m benchmarks.accuracy` (data: `benchmarks/minihub/README.md`).

The collections: **ImageNet**, two real models, EfficientNet-Lite0 and Lite1, 1,000 logits each, asked with the 1,000
class names; **MiniHub**, 178 tiny classifiers of 374 drawn concepts trained for this, 14 families, median accuracy
0.59 on a style they never saw. Both answer the same 4,000 probes: stamps, clip art, and 1,019 emoji in a style
nothing was trained on. Texts are compared with the probes' captions by all-MiniLM-L6-v2: no CLIP could be had where
this was measured, so figures with one will differ.

What was tried for the ranking, and what of it is in: [TRIED.md](TRIED.md).

![Top-1 by setting and scoring](../../docs/images/results_scorings.png)

![Partial probing](../../docs/images/results_partial.png)
"""


def _imagenet(rows: list[Row]) -> str:
    text = [r for r in rows if r.get("part") == "test" and r["task"] == "text" and "top1" in r]
    logit = [r for r in rows if r.get("part") == "test" and r["task"] == "logit"]
    return (
        "## Real ImageNet models\n\n"
        + _table(text, ("setting", "target", "scoring", "k", "queries"))
        + "\nLogit to logit: each model's logits look for the same class in the other.\n\n"
        + _table(logit, ("target", "scoring", "k", "queries"))
        + "\n"
        + _measures(rows)
    )


def _minihub(rows: list[Row]) -> str:
    text = [r for r in rows if r.get("part") == "test" and r["task"] == "text" and "top1" in r]
    chosen = [r for r in text if not r["scoring"].startswith("probelog,")]
    return (
        "## MiniHub\n\n"
        + _table(chosen, ("setting", "probes", "scoring", "k", "queries"))
        + "\nLogit to logit, of other models:\n\n"
        + _table(
            [r for r in rows if r.get("part") == "test" and r["task"] == "logit"], ("probes", "scoring", "k", "queries")
        )
        + "\nWhich probes are compared (the published table, on these models):\n\n"
        + _table([r for r in text if r["scoring"].startswith("probelog,")], ("scoring", "k", "queries"))
        + "\nThe published scoring's `k`, on the validation half:\n\n"
        + _table(
            [r for r in rows if r.get("part") == "validation"], ("task", "probes", "k", "queries"), ("top1", "top5")
        )
        + "\n"
        + _measures(rows)
    )


def _probe_sets(rows: list[Row]) -> str:
    return "## How many probes, and of what kind\n\n" + _table(
        [r for r in rows if r["part"] == "test"], ("probes", "scoring", "k", "queries")
    )


def _partial(title: str) -> Callable[[list[Row]], str]:
    def section(rows: list[Row]) -> str:
        head = f"## {title}\n\n| gallery | part | mode | share of the probes "
        head += "| text top-1 | of full | logit top-1 | of full |\n"
        lines = [
            f"| {r['gallery']} | {r['part']} | {r['mode']} | {r['share']:.3f} "
            f"| {r['text_top1']:.3f} [{r['text_low']:.3f}, "
            f"{r['text_high']:.3f}] | {r['text_of_full']:.2f} | {r['logit_top1']:.3f} [{r['logit_low']:.3f}, "
            f"{r['logit_high']:.3f}] | {r['logit_of_full']:.2f} |"
            for r in rows
        ]
        return head + "|---|---|---|---|---|---|---|---|\n" + "\n".join(lines) + "\n"

    return section


_SECTIONS: dict[str, Callable[[list[Row]], str]] = {
    "imagenet": _imagenet,
    "minihub": _minihub,
    "probe_sets": _probe_sets,
    "partial_imagenet": _partial("Partial probing: one ImageNet model in part, everything else in full"),
    "partial_minihub": _partial("Partial probing: every tiny model in part"),
    "methods": _partial('Ways to complete a random third: every tiny model in part ("of full" is of the row itself)'),
}


def _table(rows: Iterable[Row], columns: Sequence[str], tops: Sequence[str] = ("top1", "top5", "top10")) -> str:
    rows = list(rows)
    shown = [
        *columns,
        *(top.replace("top", "top-") for top in tops),
        *(["mAP"] if any("map" in r for r in rows) else []),
    ]
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    for row in rows:
        cells = ["" if row.get(c) is None else str(row[c]) for c in columns]
        cells += [f"{row[top]:.3f} [{row[f'{top}_low']:.3f}, {row[f'{top}_high']:.3f}]" for top in tops]
        if shown[-1] == "mAP":
            cells.append(f"{row['map']:.3f}" if "map" in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _measures(rows: list[Row]) -> str:
    single = [r for r in rows if "measure" in r and "value" in r]
    lines = ["| measure | setting | probes or target | scoring | value |", "|---|---|---|---|---|"]
    for row in single:
        where = row.get("probes") or row.get("target") or ""
        lines.append(f"| {row['measure']} | {row['setting']} | {where} | {row['scoring']} | {row['value']} |")
    out = "\n".join(lines) + "\n" if single else ""
    covered = [r for r in rows if r.get("measure") == "coverage"]
    if covered:
        out += '\nDeclined queries (`search` says "not covered"); a failure has no right logit among the first ten:\n\n'
        out += "| setting | probes or target | queries | declined | failures of the declined | of the answered |\n"
        out += "|---|---|---|---|---|---|\n"
        for row in covered:
            where = row.get("probes") or row.get("target") or ""
            out += f"| {row['setting']} | {where} | {row['queries']} | {row['declined']} | {row['fail_declined']} "
            out += f"| {row['fail_answered']} |\n"
    return out


def _runs(about: list[Row]) -> str:
    lines = [
        "## How it was run\n",
        "| study | seconds | load | cores | models | logits | probes |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        "| " + " | ".join(str(a[n]) for n in ("study", "seconds", "load", "cores", "models", "logits", "probes")) + " |"
        for a in about
    ]
    if about:
        lines.append(
            "\nVersions: " + ", ".join(f"{name} {version}" for name, version in about[0]["versions"].items()) + "."
        )
    return "\n".join(lines) + "\n"
