"""What a hub lists: what the API says of a repository, what may be asked, the stateless cursor, and a catalog."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from hubprobe.demo.repository import Content, Repo

FLOOR = 1_646_263_744  # 2022-03-02T23:29:04Z: the Hub gives no repository an earlier creation
_SPAN = 142_000_000  # seconds from there to late August 2026
_MAX_HEADER = 25_000_000  # bytes, the Hub's own cap on a safetensors header

_LISTED = """
author cardData config createdAt disabled downloads downloadsAllTime evalResults gated gguf inference
inferenceProviderMapping lastModified library_name likes mask_token model-index pipeline_tag private resourceGroup
safetensors sha siblings spaces tags transformersInfo trendingScore widgetData
"""
_LIST_EXPAND = frozenset(_LISTED.split())
EXPAND = {"list": _LIST_EXPAND, "info": _LIST_EXPAND | {"baseModels", "childrenModelCount", "usedStorage"}}
"""The values ``expand=`` may take when listing and for one model."""

_BASIC = ("_id", "id", "private", "modelId", "downloads", "likes", "tags", "pipeline_tag", "library_name", "createdAt")
_FULL = ("author", "sha", "lastModified", "gated", "disabled", "siblings")
_INFO = (*_BASIC, *_FULL, "cardData", "config", "safetensors", "transformersInfo", "spaces", "usedStorage")

Row = dict[str, Any]


def list_fields(full: bool, config: bool, card: bool, expand: list[str]) -> tuple[str, ...]:
    """Return the fields of a row of ``/api/models`` for these parameters."""
    if expand:
        return ("_id", "id", *expand)
    return (*_BASIC, *(_FULL if full else ()), *(("config",) if config else ()), *(("cardData",) if card else ()))


def info_fields(expand: list[str]) -> tuple[str, ...]:
    """Return the fields of the answer for one model."""
    return ("_id", "id", *expand) if expand else _INFO


def project(record: Row, fields: tuple[str, ...]) -> Row:
    """Return the fields asked for, those without a value left out as the Hub does."""
    return {name: record[name] for name in fields if record.get(name) is not None}


@lru_cache(maxsize=4096)
def iso(seconds: float) -> str:
    """Return a time the way the API writes it."""
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def record(repo: Repo) -> Row:
    """Return every field the API can give for ``repo``."""
    seed = hashlib.sha256(repo.id.encode("utf-8", "surrogatepass")).digest()
    share = [int.from_bytes(seed[at : at + 4], "big") / 2**32 for at in range(0, 32, 4)]
    created = FLOOR + int(share[0] * _SPAN)
    downloads = int(10 ** (share[1] ** 2 * 6))  # heavy-tailed, as downloads are
    card = _front_matter(repo.text("README.md"))
    config = _json_object(repo.text("config.json"))
    adapter = _json_object(repo.text("adapter_config.json"))
    library = card.get("library_name") or _library(config, adapter)
    task = card.get("pipeline_tag") or _task(config)
    bases = [{"id": name} for name in _several(card.get("base_model"))]
    row: Row = {
        "_id": f"{created:08x}{seed.hex()[:16]}",
        "id": repo.id,
        "modelId": repo.id,
        "author": repo.id.split("/", maxsplit=1)[0],
        "sha": repo.sha,
        "createdAt": iso(created),
        "lastModified": iso(created + int(share[2] * 10_000_000)),
        "private": False,
        "gated": False,
        "disabled": False,
        "downloads": downloads,
        "downloadsAllTime": downloads * 7,
        "likes": int(downloads ** (share[3] * 0.6)) - 1,
        "trendingScore": int(share[4] * 4),
        "pipeline_tag": task,
        "library_name": library,
        "tags": _tags(repo, card, config, library, task),
        "cardData": card or None,
        "config": _config_summary(config, adapter),
        "safetensors": _safetensors(repo),
        "transformersInfo": _transformers_info(library, config, task),
        "baseModels": {"relation": "finetune", "models": bases} if bases else None,
        "siblings": [{"rfilename": path} for path in sorted(repo.files)],
        "spaces": [],
        "usedStorage": sum(file.size for file in repo.files.values()),
    }
    return row | repo.facts


def header_of(content: Content) -> dict[str, Any]:
    """Return a safetensors header, or an empty dict when it cannot be read."""
    length = int.from_bytes(content.read(0, 8), "little")
    if not 2 <= length <= min(_MAX_HEADER, content.size):
        return {}
    return _json_object(content.read(8, 8 + length).decode("utf-8", "replace"))


def _safetensors(repo: Repo) -> dict[str, Any] | None:
    counts: dict[str, int] = {}
    for path, file in repo.files.items():
        if not (path.startswith("model") and path.endswith(".safetensors")):
            continue
        for name, tensor in header_of(file.content).items():
            if name == "__metadata__" or not isinstance(tensor, dict):
                continue
            kind = str(tensor.get("dtype"))
            counts[kind] = counts.get(kind, 0) + math.prod(int(edge) for edge in tensor.get("shape", []))
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def _front_matter(text: str) -> dict[str, Any]:
    matter = re.match(r"---\r?\n(.*?)\r?\n---(?:\r?\n|$)", text, re.DOTALL)
    try:
        data = yaml.safe_load(matter[1]) if matter else {}
    except yaml.YAMLError:
        return {}
    return data if isinstance(data, dict) else {}


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _library(config: dict[str, Any], adapter: dict[str, Any]) -> str | None:
    if adapter:
        return "peft"
    if "pretrained_cfg" in config or "architecture" in config:
        return "timm"
    return "transformers" if "model_type" in config else None


def _architectures(config: dict[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _task(config: dict[str, Any]) -> str | None:
    if "architecture" in config or any("ForImageClassification" in name for name in _architectures(config)):
        return "image-classification"
    return None


def _transformers_info(library: str | None, config: dict[str, Any], task: str | None) -> dict[str, Any] | None:
    if library != "transformers" or not _architectures(config):
        return None
    auto = "AutoModelForImageClassification" if _task(config) else "AutoModel"
    return {"auto_model": auto, "pipeline_tag": task, "processor": "AutoImageProcessor"}


def _config_summary(config: dict[str, Any], adapter: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        name: config[name]
        for name in ("architectures", "architecture", "model_type", "auto_map", "quantization_config")
        if name in config
    }
    if adapter:
        kept["peft"] = {name: adapter.get(name) for name in ("base_model_name_or_path", "task_type")}
    return kept


def _several(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(item) for item in values if item is not None]


def _tags(repo: Repo, card: dict[str, Any], config: dict[str, Any], library: str | None, task: str | None) -> list[str]:
    names = repo.files.keys()
    tags = [library] if library else []
    if any(name.endswith(".bin") for name in names):
        tags.append("pytorch")
    tags += [kind for kind in ("onnx", "safetensors") if any(name.endswith("." + kind) for name in names)]
    tags += [str(config["model_type"])] if isinstance(config.get("model_type"), str) else []
    tags += [task] if task else []
    tags += _several(card.get("tags"))
    tags += [f"dataset:{name}" for name in _several(card.get("datasets"))]
    tags += _several(card.get("language"))
    tags += [f"base_model:{name}" for name in _several(card.get("base_model"))]
    tags += [f"license:{name}" for name in _several(card.get("license"))]
    tags += ["custom_code"] if "auto_map" in config else []
    tags += ["endpoints_compatible"] if library == "transformers" else []
    return list(dict.fromkeys([*tags, "region:us"]))


SORTS = ("createdAt", "lastModified", "downloads", "likes", "trendingScore")


class RefusedError(Exception):
    """A request that is answered with a status, an ``X-Error-Message``, and the ``X-Error-Code`` by which clients
    choose their exception; none when empty.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def not_found() -> RefusedError:
    """Return what the Hub says of a repository that is missing or private.

    The Hub gives no error code here; its clients know the case by ``https://`` in the address, which a loopback hub
    does not have, so this one names the code and clients raise what they would raise for the real one.
    """
    return RefusedError(401, "RepoNotFound", "Invalid username or password.")


@dataclass(frozen=True)
class Cursor:
    """The last row of a page by its sort value and ``_id``: the next page is what sorts after it.

    Nothing is kept on the server, so a cursor outlives both sides. Written like the Hub's, a Mongo filter in base64.
    """

    sort: str
    value: str | int
    row_id: str

    def encode(self) -> str:
        """Return the opaque text that clients send back."""
        after = [{self.sort: self.value, "_id": {"$gt": self.row_id}}, {self.sort: {"$lt": self.value}}]
        return base64.urlsafe_b64encode(json.dumps({"$or": after}, separators=(",", ":")).encode()).decode()

    @classmethod
    def decode(cls, text: str, sort: str) -> Cursor:
        """Read what `encode` wrote; raises `RefusedError` for anything else."""
        try:
            tied = json.loads(base64.urlsafe_b64decode(text))["$or"][0]
            return cls(sort, tied[sort], tied["_id"]["$gt"])
        except (binascii.Error, ValueError, KeyError, IndexError, TypeError) as error:
            raise RefusedError(400, "", "Invalid cursor") from error


@dataclass(frozen=True)
class ModelsQuery:
    """What ``/api/models`` was asked."""

    fields: tuple[str, ...]
    filters: tuple[str, ...] = ()
    pipeline_tag: str = ""
    author: str = ""
    search: str = ""
    gated: bool | None = None
    parameters: tuple[float, float] | None = None
    sort: str = "createdAt"

    def matches(self, row: Row) -> bool:
        """Return whether a full record is one of those asked for."""
        return (
            (not self.pipeline_tag or row.get("pipeline_tag") == self.pipeline_tag)
            and (not self.author or row.get("author") == self.author)
            and (not self.search or self.search.lower() in row["id"].lower())
            and (self.gated is None or bool(row.get("gated")) is self.gated)
            and all(tag in row["tags"] for tag in self.filters)
            and self._sized(row)
        )

    def _sized(self, row: Row) -> bool:
        low, high = self.parameters or (0.0, math.inf)
        total = (row.get("safetensors") or {}).get("total")
        return self.parameters is None or (total is not None and low <= total <= high)


def parse_parameters(text: str) -> tuple[float, float] | None:
    """Read ``min:6B,max:128B``; None when empty."""
    if not text:
        return None
    bounds = {"min": 0.0, "max": float("inf")}
    for part in text.split(","):
        bound = re.fullmatch(r"(min|max):(\d+(?:\.\d+)?)([KMBT]?)", part)
        if not bound:
            raise RefusedError(400, "", f"Invalid num_parameters: {part}")
        bounds[bound[1]] = float(bound[2]) * {"": 1, "K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}[bound[3]]
    return bounds["min"], bounds["max"]


class FolderCatalog:
    """Repositories known one by one, from folders in the Hub's own layout or made in memory; of one id the last."""

    def __init__(self, repos: Iterable[Repo] = ()) -> None:
        self._repos: dict[str, Repo] = {repo.id: repo for repo in repos}
        self._records: dict[str, Row] = {}
        self._orders: dict[str, list[tuple[Any, str, str]]] = {}  # sort -> (value, _id, id), first row first

    def __iter__(self) -> Iterator[Repo]:
        return iter(self._repos.values())

    def __len__(self) -> int:
        return len(self._repos)

    def add(self, repo: Repo) -> None:
        """Add or replace a repository; may be called while the hub is served."""
        self._repos[repo.id] = repo
        self._records.pop(repo.id, None)
        self._orders = {}

    def remove(self, repo_id: str) -> None:
        """Delete a repository; may be called while the hub is served."""
        del self._repos[repo_id]
        self._orders = {}

    def page(self, query: ModelsQuery, limit: int, after: Cursor | None) -> tuple[list[Row], Cursor | None]:
        """Return up to ``limit`` rows that sort after ``after``, newest or largest first, and where they end.

        The second value is None when nothing follows.
        """
        order = self._order(query.sort)
        rows: list[Row] = []
        last: Cursor | None = None
        for value, row_id, repo_id in order:
            if after is not None and not (value < after.value or (value == after.value and row_id > after.row_id)):
                continue
            repo = self._repos.get(repo_id)
            if repo is None:
                continue
            full = self.record(repo)
            if not query.matches(full):
                continue
            if len(rows) == limit:
                return rows, last
            rows.append(project(full, query.fields))
            last = Cursor(query.sort, value, row_id)
        return rows, None

    def find(self, repo_id: str) -> Repo:
        """Return a repository by id; raises `RefusedError` when there is none. A renamed one says so itself."""
        repo = self._repos.get(repo_id)
        if repo is None or repo.gone:
            raise not_found()
        return repo

    def record(self, repo: Repo) -> Row:
        """Return every field the API can give for ``repo``."""
        if repo.id not in self._records:
            self._records[repo.id] = record(repo)
        return self._records[repo.id]

    def _order(self, sort: str) -> list[tuple[Any, str, str]]:
        if sort not in self._orders:
            keys = [(self.record(repo), repo.id) for repo in list(self._repos.values())]
            order = sorted((row[sort], row["_id"], repo_id) for row, repo_id in keys)
            order.sort(key=lambda key: key[0], reverse=True)  # stable: ties stay in order of _id
            self._orders[sort] = order
        return self._orders[sort]


def read_folder(root: Path) -> list[Repo]:
    """Return the repositories in ``root/models/<owner>/<name>/``; ``root/hub.json`` may state facts by id."""
    stated = root / "hub.json"
    facts = json.loads(stated.read_text(encoding="utf-8")) if stated.exists() else {}
    folders = [p for p in sorted((root / "models").glob("*/*")) if p.is_dir() and not p.name.startswith(".")]
    ids = [folder.relative_to(root / "models").as_posix() for folder in folders]
    return [Repo.from_folder(repo_id, folder, facts.get(repo_id)) for repo_id, folder in zip(ids, folders, strict=True)]
