"""What a release says of itself: its card, whose front matter names the files of each table, Croissant, a citation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hubprobe.front import StatusReport
from hubprobe.release.diff import KINDS
from hubprobe.release.plan import CLASSES, REASONS, class_of
from hubprobe.release.tables import NAMES, schemas
from workspace import WorkspaceError
from workspace.text import printable

TITLE = "What public image classifiers recognise"
CROISSANT, CITATION = "croissant.json", "CITATION.cff"

_TEMPLATE = Path(__file__).parent / "templates" / "card.md"
_TASK = "image-classification"
_ABOUT = {
    "models": "repository, with what the Hub's API says of it and the verdict of the crawl",
    "logits": "output of a probed model: its label, mean and spread; or why it was excluded from search",
    "attempts": "model that was tried: how it ended, why, times, versions",
    "descriptors": "searchable output: its z-scored response to every probe, float16",
    "probes": "probe image",
}
_METHOD: dict[str, Any] = {
    "title": "Can this Model Also Recognize Dogs? Zero-Shot Model Search from Weights",
    "authors": (("Jonathan", "Kahana"), ("Or", "Nathan"), ("Eliahu", "Horwitz"), ("Yedid", "Hoshen")),
    "url": "https://arxiv.org/abs/2502.09619",
    "year": 2025,
}
_SPDX = {"apache-2.0": "Apache-2.0", "mit": "MIT", "odbl": "ODbL-1.0", "odc-by": "ODC-By-1.0", "pddl": "PDDL-1.0"}


def author_of(author: str, repo: str) -> str:
    """Return whom to cite: ``author``, or the owner of ``repo``; without what would end a BibTeX entry."""
    return re.sub(r"[{}\\]", "", printable(author, 200)).strip() or repo.partition("/")[0]


def card(
    content: Mapping[str, Any], report: StatusReport, *, models: pa.Table, probes: pa.ChunkedArray, repo: str
) -> str:
    """Return the card's text, drawn from a template.

    ``content`` is that of the manifest; ``report`` counts those left out too; ``models`` has ``license`` and
    ``crawled_at`` of those kept; ``probes`` the licence of every probe, or null; ``repo`` is the name it is published
    under.

    Raises `WorkspaceError` when its front matter does not read back as it was meant.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    rows = content["rows"]
    names = [name for name in _ABOUT if name in rows]
    configs: list[dict[str, Any]] = [
        {"config_name": name, "data_files": [{"split": "train", "path": f"{name}/*.parquet"}]} for name in names
    ]
    data = DatasetCardData(
        license=content["license"],
        pretty_name=TITLE,
        tags=["hubprobe", _TASK, "model-search", "probelog"],
        task_categories=[_TASK],
        size_categories=[_size(rows["logits"])],
        configs=[{**one, "default": True} if one["config_name"] == "models" else one for one in configs],
    )
    of_probes = ": picture, caption, hash, source" if content["probe_images"] else ": hash, size and source only"
    about = _ABOUT | {"probes": _ABOUT["probes"] + of_probes}
    licences = models["license"].to_pylist()
    kinds = {class_of(tag) for tag in licences}
    before = content["predecessor"]
    text = DatasetCard.from_template(
        data,
        template_path=str(_TEMPLATE),
        title=TITLE,
        facts=content,
        report=report,
        repo=repo,
        author=author_of(content["author"], repo),
        method=_METHOD,
        crawled=days(models["crawled_at"]),
        encoder=named(content["encoder"]),
        code=code,
        table=_table,
        contents=[(f"`{name}`", f"{rows[name]:,}", about[name]) for name in names],
        columns={name: _columns(schema) for name, schema in _schemas(content).items()},
        changes=[
            (KINDS[kind], f"{before['changes'][kind]:,}") for kind in KINDS if before and kind in before["changes"]
        ],
        ends=[(r["outcome"], f"`{r['status']}`", r["repositories"], r["meaning"]) for r in report.by_status],
        left_out=[(f"`{name}`", count, REASONS[name]) for name, count in content["left_out"].items()],
        licences=_counted(licences),
        classes="; ".join(f"{name}: {meaning}" for name, meaning in CLASSES.items() if name in kinds),
        probe_licences=_counted(probes.to_pylist(), 8),
    ).content
    validate(text, names)
    return f"{text}\n"


def citation(content: Mapping[str, Any], crawled: tuple[str, str], repo: str) -> str:
    """Return the text of ``CITATION.cff`` (Citation File Format 1.2.0)."""
    import yaml  # type: ignore[import-untyped]

    licence = str(content["license"])
    spdx = licence.upper() if licence.startswith("cc") else _SPDX.get(licence)
    names = [{"given-names": given, "family-names": family} for given, family in _METHOD["authors"]]
    article = {"type": "article", "title": _METHOD["title"], "authors": names}
    about: dict[str, Any] = {
        "cff-version": "1.2.0",
        "message": "Please cite this dataset, and the method, when you use it.",
        "type": "dataset",
        "title": TITLE,
        "version": content["release_id"],
        "authors": [{"name": author_of(content["author"], repo)}],
        "url": _address(repo),
        "references": [article | {"year": _METHOD["year"], "url": _METHOD["url"]}],
    }
    about |= {"license": spdx} if spdx else {}
    about |= {"date-released": crawled[1]} if crawled[1] != _UNKNOWN else {}
    return str(yaml.safe_dump(about, sort_keys=False, allow_unicode=True))


# ── Croissant 1.1, as the Hub writes it for data sets in Parquet ─────────────────────────────────────────────────────

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in (
        "arrayShape", "column", "extract", "field", "fileObject", "fileProperty", "fileSet", "format", "includes",
        "isArray", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated",
        "replace", "separator", "source", "subField", "transform",
    )},
    "citeAs": "cr:citeAs",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "isLiveDataset": "cr:isLiveDataset",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "rai": "http://mlcommons.org/croissant/RAI/",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
}  # fmt: skip


def croissant(content: Mapping[str, Any], crawled: tuple[str, str], repo: str) -> dict[str, Any]:
    """Return the metadata of a release in Croissant (docs.mlcommons.org/croissant), without columns of structures."""
    tables = _schemas(content)
    hub = {
        "@type": "cr:FileObject", "@id": "repo", "name": "repo", "description": "The Hugging Face git repository.",
        "contentUrl": _address(repo), "encodingFormat": "git+https",
        "sha256": "https://github.com/mlcommons/croissant/issues/80",  # what the Hub states where a hash cannot be
    }  # fmt: skip
    files = [
        {"@type": "cr:FileSet", "@id": f"{name}-files", "containedIn": {"@id": "repo"},
         "encodingFormat": "application/x-parquet", "includes": f"{name}/*.parquet"}
        for name in tables
    ]  # fmt: skip
    sets = [
        {"@type": "cr:RecordSet", "@id": name, "name": name, "description": f"One row per {_ABOUT[name]}.",
         "field": [_field(name, field) for field in schema if field.name == "image" or not _nested(field.type)]}
        for name, schema in tables.items()
    ]  # fmt: skip
    about = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.1",
        "name": repo.partition("/")[2],
        "description": f"{TITLE}: what every output of public image classifiers answers to one set of probe images.",
        "creator": {"@type": "Organization", "name": author_of(content["author"], repo)},
        "keywords": ["hubprobe", _TASK, "model-search", "probelog"],
        "license": str(content["license"]),
        "url": _address(repo),
        "identifier": content["release_id"],
        "citeAs": f"{author_of(content['author'], repo)}: {TITLE}, release {content['release_id']}, {_address(repo)}",
        "distribution": [hub, *files],
        "recordSet": sets,
    }
    if crawled[1] == _UNKNOWN:
        return about
    return about | {"datePublished": crawled[1], "version": crawled[1].replace("-", ".")}


def _field(table: str, field: pa.Field) -> dict[str, Any]:
    """Return a column: lists as arrays, pictures as images."""
    kind, made = field.type, {"@type": "cr:Field", "@id": f"{table}/{field.name}", "name": field.name}
    notes = {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
    made |= {"description": notes["doc"]} if "doc" in notes else {}
    source: dict[str, Any] = {"fileSet": {"@id": f"{table}-files"}, "extract": {"column": field.name}}
    if field.name == "image":
        return made | {"dataType": "sc:ImageObject", "source": source | {"transform": {"jsonPath": "bytes"}}}
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        size = kind.list_size if pa.types.is_fixed_size_list(kind) else -1
        made, kind = made | {"isArray": True, "arrayShape": str(size)}, kind.value_type
    dated = "sc:DateTime" if pa.types.is_timestamp(kind) else "sc:Text"  # strings and bytes are text
    return made | {"dataType": _DATA_TYPES.get(str(kind), dated), "source": source}


def _nested(kind: pa.DataType) -> bool:
    """Return whether a column is of structures, which readers of Croissant take apart each in its own way."""
    return bool(pa.types.is_struct(kind.value_type if pa.types.is_list(kind) else kind))


_DATA_TYPES = {
    "bool": "sc:Boolean", "halffloat": "cr:Float16", "float": "cr:Float32", "double": "cr:Float64", "int32": "cr:Int32",
    "int64": "cr:Int64",
}  # fmt: skip


# ── what they share ──────────────────────────────────────────────────────────────────────────────────────────────────

_UNKNOWN = "unknown"


def _schemas(content: Mapping[str, Any]) -> dict[str, pa.Schema]:
    made = schemas(content["n_probes"], content["probe_images"])
    return {name: made[name] for name in NAMES if name in content["rows"]}


def _address(repo: str) -> str:
    return f"https://huggingface.co/datasets/{repo}"


def _columns(schema: pa.Schema) -> list[tuple[str, str, str]]:
    rows = []
    for field in schema:
        notes = {name.decode(): text.decode() for name, text in (field.metadata or {}).items()}
        unit = f" ({notes['unit']})" if "unit" in notes else ""
        rows.append((f"`{field.name}`", _plain(field.type), notes.get("doc", "") + unit))
    return rows


def _plain(kind: pa.DataType) -> str:
    if pa.types.is_fixed_size_list(kind):
        return f"{kind.list_size:,} × {_plain(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_plain(kind.value_type)}"
    if pa.types.is_struct(kind):
        return "{" + ", ".join(f"{part.name}: {_plain(part.type)}" for part in kind) + "}"
    return {"halffloat": "float16", "float": "float32", "double": "float64"}.get(str(kind), str(kind))


def named(encoder: Mapping[str, Any] | None) -> str | None:
    """Return an encoder's name and commit in one."""
    return f"{encoder['name']}@{encoder['commit']}" if encoder else None


def validate(text: str, names: Iterable[str]) -> None:
    """Read the card as the Hub's client does; raises `WorkspaceError` unless every table has its files in it."""
    from huggingface_hub import DatasetCard

    data: Any = DatasetCard(text).data
    front = data.to_dict()
    configs = {config["config_name"]: config["data_files"][0]["path"] for config in front.get("configs", [])}
    if configs != {name: f"{name}/*.parquet" for name in names} or not front.get("license"):
        raise WorkspaceError("the card's front matter does not read back as written: please report it")


def code(text: object, limit: int = 60) -> str:
    """Return a stranger's text as a code span: nothing in one is Markdown, HTML, a link or a table's border."""
    return f"`{printable(text, limit).replace('`', chr(39)).replace('|', '¦') or ' '}`"


def _size(rows: int) -> str:
    bounds = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"))
    return next((name for bound, name in bounds if rows < bound), "10M<n<100M")


def days(times: pa.ChunkedArray) -> tuple[str, str]:
    """Return the first and the last day of the crawl, ISO dates."""
    if not len(times):
        return _UNKNOWN, _UNKNOWN
    ends = pc.min_max(times).as_py()
    return f"{ends['min']:%Y-%m-%d}", f"{ends['max']:%Y-%m-%d}"


def _table(head: list[str], rows: Iterable[Iterable[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _counted(values: Iterable[str | None], most: int = 15) -> list[tuple[str, int]]:
    counts = sorted(Counter(value or "none stated" for value in values).items(), key=lambda c: (-c[1], c[0]))
    rest = sum(count for _, count in counts[most:])
    return [(code(name), count) for name, count in counts[:most]] + ([("others", rest)] if rest else [])
