"""Fetching an encoder's files from a Hub, pinned to a commit, safetensors only."""

from __future__ import annotations

import hashlib
import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from workspace import HubError, Workspace
from workspace.endpoint import token_for
from workspace.files import short_hash
from workspace.text import printable

_FILES = (
    "config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "model.safetensors.index.json",
)  # fmt: skip
_POOLING = "1_Pooling/config.json"
"""Where sentence-transformers says how token embeddings become one."""


def fetch(workspace: Workspace, repo: str, commit: str | None, token: str | None) -> tuple[Path, str]:
    """Return the folder of a repository's files in the workspace's cache, and its commit; raises `HubError`."""
    from huggingface_hub import HfApi, hf_hub_download

    cache, endpoint = workspace.cache_dir / "encoders", workspace.config.endpoint
    if commit and _mark(cache, repo, commit).is_file():  # complete on disk: no request, so it works without a network
        return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit, commit
    secret = token_for(endpoint, token) or False  # None would make the client look for one by itself
    try:
        info = HfApi(endpoint=endpoint, token=secret).model_info(repo, revision=commit)
        names = [s.rfilename for s in info.siblings or []]
        weights = [n for n in names if n.endswith(".safetensors") and "/" not in n]
        if not weights or not info.sha:
            raise HubError(f"the encoder {repo} has no safetensors weights; choose another with [search] encoder")
        for file in [n for n in names if n in _FILES or n == _POOLING] + weights:
            local = hf_hub_download(repo, file, revision=info.sha, endpoint=endpoint, token=secret, cache_dir=cache)
    except _transport_errors() as error:
        raise HubError(f"the encoder {repo} cannot be fetched from {endpoint}: {printable(error, 300)}") from error
    _mark(cache, repo, info.sha).touch()
    return Path(local).parent, info.sha


def _transport_errors() -> tuple[type[Exception], ...]:
    """Return what the HTTP client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))


def _mark(cache: Path, repo: str, commit: str) -> Path:
    return cache / f"complete-{short_hash(f'{repo}@{commit}')}"


def folder_hash(folder: Path) -> str:
    """Return the first 40 hex digits of a hash over an encoder's files: the version of a folder on disk."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.name in _FILES or p.suffix == ".safetensors"):
        digest.update(path.name.encode() + os.sep.encode())
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()[:40]
