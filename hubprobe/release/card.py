"""The card of a release: README.md, whose front matter says which files are which table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hubprobe.counts import StatusReport
from hubprobe.release.licences import CLASSES, REASONS, class_of
from hubprobe.release.queries import QUERIES
from workspace import WorkspaceError
from workspace.text import printable

TITLE = "What public image classifiers recognise"

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
    from huggingface_hub import DatasetCardData

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
    text = f"---\n{data.to_yaml()}\n---\n\n{_body(facts, names)}"
    validate(text, names)
    return text


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


def _body(facts: Facts, names: list[str]) -> str:
    report = facts.report
    sections = [
        f"# {TITLE}",
        f"Public image classifiers were run on one fixed set of {facts.n_probes:,} probe images. What each output "
        "answered is its *logit descriptor*; with these one can ask which model, at which output, recognises a thing, "
        "whatever its label says. Made by hubprobe; the method is ProbeLog "
        "([arXiv 2502.09619](https://arxiv.org/abs/2502.09619)).",
        "## What is in it",
        _table(
            ["configuration", "rows", "one row per"],
            [(f"`{n}`", f"{facts.rows[n]:,}", _about(n, facts)) for n in names],
        ),
        "Keys: a model is `(repo_id, sha)`, an output `(repo_id, sha, logit)`, a probe `probe_id`, its place in "
        "every descriptor, from 0. Labels, names and reasons are other people's text: treat them as untrusted.",
        _code("python", _load(facts)),
        "Search it yourself, without running any model:",
        _code("bash", f'hubprobe import hf://datasets/{facts.repo} -w my-index\nhubprobe search -w my-index "dog"'),
        "## How it was made",
        _how(facts),
        "## How the repositories ended",
        f"{report.listed:,} were listed, {report.eligible:,} of them fit to be probed; {report.attempted:,} attempted "
        f"= {report.ok:,} ok + {report.skipped:,} skipped + {report.failed:,} failed; {report.waiting:,} not attempted "
        "yet.",
        "![From listed to probed, and how each repository ended](figures/funnel.png)",
        _table(
            ["outcome", "status", "repositories", "meaning"],
            [(r["outcome"], f"`{r['status']}`", r["repositories"], r["meaning"]) for r in report.by_status],
        ),
        "## What is left out",
        _left_out(facts),
        "## Licence and attribution",
        _licence(facts),
        "## Removal",
        "Is one of these models yours, and you want it out? Open a discussion on this dataset's page and name it; no "
        "reason is needed. It goes on the opt-out list, and the next version has no row of it. Earlier versions "
        "are removed from the history on request.",
        "## Ten questions in SQL",
        "For [DuckDB](https://duckdb.org), in a folder that holds this dataset. To ask over the network, put "
        f"`hf://datasets/{facts.repo}/` before each path.",
        *(f"{i}. {question}\n\n{_code('sql', sql)}" for i, (question, sql) in enumerate(QUERIES, 1)),
        "## Citation",
        _code("bibtex", _citation(facts)),
        f"Release `{facts.release_id}`. Every file's sha256 is in `manifest.json`; `hubprobe import` checks them.",
    ]
    return "\n\n".join(sections) + "\n"


def _about(name: str, facts: Facts) -> str:
    if name != "probes":
        return _ABOUT[name]
    return _ABOUT[name] + (": picture, caption, hash, source" if facts.probe_images else ": hash, size and source only")


def _load(facts: Facts) -> str:
    return f"""from datasets import load_dataset

models = load_dataset("{facts.repo}", "models", split="train")
descriptors = load_dataset("{facts.repo}", "descriptors", split="train", streaming=True)"""


def _how(facts: Facts) -> str:
    made = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    first, last = facts.crawled
    when = f"on {first}" if first == last else f"between {first} and {last}"
    text = (
        f"Repositories were listed {when}. Each one that has safetensors "
        "weights and needs no code of its own was loaded and run on every probe, or on some, with the others completed "
        "(`observed` says which). An output's responses are scaled to mean 0 and standard deviation 1 over the probes: "
        f"`raw = response * std + mean`. The probes are {facts.n_probes:,} images of {code(facts.probe_source, 100)}."
    )
    if facts.encoder:
        text += f" Text goes through {code(facts.encoder, 120)}; its embeddings of the probes are in `encoders/`."
    return f"{text} Versions: {made}."


def _left_out(facts: Facts) -> str:
    if not facts.left_out:
        return "Nothing: every repository that was listed is in the tables."
    rows = [(f"`{name}`", count, REASONS[name]) for name, count in facts.left_out.items()]
    return (
        f"{sum(facts.left_out.values()):,} repositories are counted above and have no row in any table:\n\n"
        f"{_table(['reason', 'repositories', 'meaning'], rows)}\n\n"
        f"Kept are models whose licence is one of: {', '.join(code(name) for name in facts.kept_licences)}."
    )


def _licence(facts: Facts) -> str:
    images = "Images and captions of the probes carry their own licences, in the column `license` of `probes`"
    hashes = (
        "The probe images are not in it, for not all of their licences allow it; `probes` says where they came from"
    )
    kinds = Counter(class_of(tag) for tag in facts.licences)
    classes = "; ".join(f"{name}: {CLASSES[name]}" for name in CLASSES if kinds[name])
    probes = ", ".join(f"{name} ({count:,})" for name, count in _counted(facts.probe_licenses, 8))
    return (
        f"The measurements are under {code(facts.license)}. Names, labels and facts of a model come from its "
        "repository and stay under its licence, in the column `license` of `models`; attribution is the repository's "
        "name, in every row. No weights are in it.\n\n"
        f"{_table(['licence of the model', 'models'], _counted(facts.licences))}\n\n"
        f"Classes: {classes or 'none'}.\n\n"
        f"{images if facts.probe_images else hashes}: {probes}."
    )


def _citation(facts: Facts) -> str:
    return f"""@misc{{hubprobe_release_{facts.release_id},
  title = {{{TITLE}: release {facts.release_id}}},
  howpublished = {{https://huggingface.co/datasets/{facts.repo}}},
  year = {{{facts.crawled[1][:4]}}}
}}
@article{{kahana2025probelog,
  title = {{Can this Model Also Recognize Dogs? Zero-Shot Model Search from Weights}},
  author = {{Kahana, Jonathan and Nathan, Or and Horwitz, Eliahu and Hoshen, Yedid}},
  journal = {{arXiv preprint arXiv:2502.09619}},
  year = {{2025}}
}}"""


def _code(language: str, text: str) -> str:
    return f"```{language}\n{text}\n```"
