"""The card of a release: README.md, whose front matter says which files are which table; its text is a template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hubprobe.counts import StatusReport
from hubprobe.release.plan import CLASSES, REASONS, class_of
from workspace import WorkspaceError
from workspace.text import printable

TITLE = "What public image classifiers recognise"

_TEMPLATE = Path(__file__).parent / "templates" / "card.md"
_ABOUT = {
    "models": "repository, with what the Hub's API says of it (its field names) and the verdict of the crawl",
    "logits": "output of a probed model: its label, mean and spread; or why it was excluded from search",
    "attempts": "model that was tried: how it ended, why, times, versions",
    "descriptors": "searchable output: its z-scored response to every probe, float16",
    "probes": "probe image",
}


@dataclass(frozen=True)
class Facts:
    """What the card says.

    Attributes:
        report: how all repositories of the workspace ended, those left out included.
        rows: rows of each table.
        left_out: repositories left out, by reason.
        licences: licence tags of the models kept, as the Hub has them.
        kept_licences: classes and tags that are kept.
        license: of the measurements.
        n_probes: probes in the set.
        probe_licenses: licence of every probe.
        probe_images: whether images and captions are in it.
        probe_source: where the probes came from.
        encoder: name and commit, or None.
        crawled: first and last day of the crawl, ISO dates.
        versions: of the libraries that matter.
        release_id: names the content of the tables.
        repo: ``owner/name`` it is published as.
    """

    report: StatusReport
    rows: Mapping[str, int]
    left_out: Mapping[str, int]
    licences: Iterable[str | None]
    kept_licences: Iterable[str]
    license: str
    n_probes: int
    probe_licenses: Iterable[str | None]
    probe_images: bool
    probe_source: str
    encoder: str | None
    crawled: tuple[str, str]
    versions: Mapping[str, str]
    release_id: str
    repo: str


def card(facts: Facts) -> str:
    """Return the card's text; raises `WorkspaceError` when its front matter does not read back as it was meant."""
    from huggingface_hub import DatasetCard, DatasetCardData

    names = [name for name in _ABOUT if name in facts.rows]
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]}
        | ({"default": True} if name == "models" else {})
        for name in names
    ]
    data = DatasetCardData(
        license=facts.license,
        pretty_name=TITLE,
        tags=["hubprobe", "image-classification", "model-search", "probelog"],
        size_categories=[_size(facts.rows["logits"])],
        configs=configs,
    )
    of_probes = ": picture, caption, hash, source" if facts.probe_images else ": hash, size and source only"
    about = _ABOUT | {"probes": _ABOUT["probes"] + of_probes}
    kinds = Counter(class_of(tag) for tag in facts.licences)
    text = DatasetCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=TITLE,
        facts=facts,
        code=code,
        table=_table,
        contents=[(f"`{name}`", f"{facts.rows[name]:,}", about[name]) for name in names],
        ends=[(r["outcome"], f"`{r['status']}`", r["repositories"], r["meaning"]) for r in facts.report.by_status],
        left_out=[(f"`{name}`", count, REASONS[name]) for name, count in facts.left_out.items()],
        licences=_counted(facts.licences),
        classes="; ".join(f"{name}: {CLASSES[name]}" for name in CLASSES if kinds[name]),
        probe_licences=_counted(facts.probe_licenses, 8),
    ).content
    validate(text, names)
    return f"{text}\n"


def validate(text: str, names: Iterable[str]) -> None:
    """Read the card as the Hub's client does; raises `WorkspaceError` unless every table has its files in it."""
    from huggingface_hub import DatasetCard

    data: Any = DatasetCard(text).data
    found = data.to_dict()
    configs = {config["config_name"]: config["data_files"][0]["path"] for config in found.get("configs", [])}
    if configs != {name: f"{name}/*.parquet" for name in names} or not found.get("license"):
        raise WorkspaceError("the card's front matter does not read back as written: please report it")


def code(text: object, limit: int = 60) -> str:
    """Return a stranger's text as a code span: nothing in one is Markdown, HTML, a link or a table's border."""
    return f"`{printable(text, limit).replace('`', chr(39)).replace('|', '¦') or ' '}`"


def _size(rows: int) -> str:
    bounds = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")


def _table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _counted(values: Iterable[str | None], most: int = 15) -> list[tuple[str, int]]:
    counts = sorted(Counter(value or "none stated" for value in values).items(), key=lambda c: (-c[1], c[0]))
    rest = sum(count for _, count in counts[most:])
    return [(code(name), count) for name, count in counts[:most]] + ([("others", rest)] if rest else [])
