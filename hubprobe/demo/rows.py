"""What the API says of a repository: tags, library, config and weights read from its files, the rest from its facts.

Facts nobody stated (creation, downloads, likes) are drawn from a hash of the id, so that they are the same every day.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import datetime, timezone
from functools import lru_cache
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
        "baseModels": _base_models(card),
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
            size = 1
            for edge in tensor.get("shape", []):
                size *= int(edge)
            kind = str(tensor.get("dtype"))
            counts[kind] = counts.get(kind, 0) + size
    return {"parameters": counts, "total": sum(counts.values())} if counts else None


def _front_matter(text: str) -> dict[str, Any]:
    found = re.match(r"---\r?\n(.*?)\r?\n---(?:\r?\n|$)", text, re.DOTALL)
    if not found:
        return {}
    try:
        data = yaml.safe_load(found[1])
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


def _base_models(card: dict[str, Any]) -> dict[str, Any] | None:
    names = _several(card.get("base_model"))
    return {"relation": "finetune", "models": [{"id": name} for name in names]} if names else None


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
