"""An encoder's files on a Hub: what a repository has, whether that can be loaded, and bringing it. Safetensors only.

Everything is pinned to a commit. Weights that a repository has as a pickle only are taken from the pull request of the
Hub's conversion bot, when there is one: its commit is then the encoder's.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workspace import HubError, ModelError, Workspace, conversions
from workspace.architectures import Architectures
from workspace.endpoint import patiently, status_of, token_for, transport_errors
from workspace.files import sha256_of, short_hash
from workspace.safetensors_header import FIRST_READ, INDEX, MAX_SHARDS, Header, header_of
from workspace.text import printable

_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
_SENTENCEPIECE = ("spiece.model",)
"""Tokenizers that need the sentencepiece library, which hubprobe does not bring."""

_FILES = (
    "config.json", *_PROCESSORS, *(name for names in _TOKENIZERS for name in names), *_SENTENCEPIECE,
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", INDEX,
)  # fmt: skip

_COMMIT = re.compile("[0-9a-f]{40}")
_POOLING = "1_Pooling/config.json"
"""Where sentence-transformers says how token embeddings become one."""

_MOST_CONFIG = 4 * 1024**2


class UnfitEncoderError(HubError):
    """A repository is not there, or holds no encoder that can be loaded here: another may do."""


@dataclass(frozen=True)
class EncoderFiles:
    """What a repository has for an encoder."""

    repo: str  # its name
    commit: str  # what is fetched
    names: tuple[str, ...]  # files that are fetched, the weights last
    weights: tuple[str, ...]  # those that are weights
    sizes: dict[str, int | None]  # bytes of each file, None where the Hub does not say
    hashes: dict[str, str]  # sha256 of each file in large storage
    converted: str = ""  # the commit of the pull request that the weights are from; empty when they are on main

    @property
    def bytes(self) -> int:
        """Bytes that are fetched, as far as the Hub says."""
        return sum(self.sizes.get(name) or 0 for name in self.names)


def fetch(workspace: Workspace, kind: str, repo: str, commit: str | None, token: str | None) -> tuple[Path, str]:
    """Return the folder of an encoder's files in the workspace's cache, and its commit; raises `HubError`.

    What is complete on disk at ``commit`` is not asked for, so it works without a network.
    """
    own, elsewhere = _caches(workspace)
    for cache in (own, elsewhere) if commit else ():
        if _mark(cache, repo, commit or "").is_file():
            return _snapshot(cache, repo, commit or ""), commit or ""
    from huggingface_hub import hf_hub_download

    there = next(folder for folder in (own, *own.parents) if folder.exists())
    cache = own if os.access(there, os.W_OK) else elsewhere
    workspace.require_own_files(own)
    with _asking(workspace, repo, token) as (endpoint, secret):
        found = patiently(lambda: _listed(workspace, kind, repo, commit, token))
        for file in found.names:
            ask = partial(hf_hub_download, repo, file, revision=found.commit, endpoint=endpoint, token=secret)
            _require_hash(Path(patiently(partial(ask, cache_dir=cache))), file, found)
    _mark(cache, repo, found.commit).touch()
    return _snapshot(cache, repo, found.commit), found.commit


def examine(workspace: Workspace, kind: str, repo: str, commit: str | None, token: str | None) -> EncoderFiles:
    """Say what an encoder would be made of, by a few small requests: nothing is written, no weights are fetched.

    The list of files, the configuration and the head of the weights are read and judged. Raises `UnfitEncoderError`
    with what is wrong, `HubError` when the Hub cannot be asked.
    """
    with _asking(workspace, repo, token) as (endpoint, secret):
        found = patiently(lambda: _listed(workspace, kind, repo, commit, token))
        _judge(kind, repo, _part(found, "config.json", endpoint, secret, 0, _MOST_CONFIG))
        for name in found.weights:
            header = _header(found, name, endpoint, secret)
            if header.packed is not None or not header.parameters:
                raise UnfitEncoderError(f"the weights of {repo} cannot be used: {header.packed or 'there are none'}")
    return found


def newest(workspace: Workspace, kind: str, repo: str, token: str | None) -> str:
    """Return the commit that `fetch` would take now, by a request; raises `HubError` as that does."""
    with _asking(workspace, repo, token):
        return patiently(lambda: _listed(workspace, kind, repo, None, token)).commit


def is_here(workspace: Workspace, repo: str, commit: str) -> bool:
    """Return whether an encoder's files are complete on disk: in the workspace's cache, or the user's."""
    return any(_mark(cache, repo, commit).is_file() for cache in _caches(workspace))


def _caches(workspace: Workspace) -> tuple[Path, Path]:
    """Return where encoders lie: in the workspace, or in the user's cache where nobody may write into that."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return workspace.cache_dir / "encoders", base / "hubprobe" / "encoders"


def _listed(workspace: Workspace, kind: str, repo: str, commit: str | None, token: str | None) -> EncoderFiles:
    from huggingface_hub import HfApi

    endpoint = workspace.config.endpoint
    api = HfApi(endpoint=endpoint, token=token_for(endpoint, token) or False)
    info = api.model_info(repo, revision=commit, files_metadata=True)
    crawl, converted = workspace.config.crawl, ""
    if not _weights(info) and commit is None and crawl.converted and crawl.converters:
        offer = conversions.find(api, info, crawl.converters)
        info, converted = (info, "") if offer is None else (offer, str(offer.sha))
    sizes = {str(one.rfilename): one.size for one in info.siblings or []}
    weights = _weights(info)
    sha = str(info.sha)
    if not _COMMIT.fullmatch(sha):  # it will be the name of a folder
        raise UnfitEncoderError(f"{endpoint} names no commit of {repo}: choose another encoder")
    if not weights:
        pickle = any(name.endswith((".bin", ".msgpack", ".h5")) for name in sizes)
        why = "no safetensors weights, neither on main nor in a pull request of the conversion bot"
        more = "; what it has instead may run code, and is not opened" if pickle else ""
        raise UnfitEncoderError(f"{repo} has {why}{more}")
    size, most = sum(sizes[name] or 0 for name in weights), crawl.max_weights_bytes
    if size > most or len(weights) > MAX_SHARDS:
        text = f"{len(weights):,} files of weights, {size:,} bytes; {MAX_SHARDS} of {most:,} bytes are fetched"
        raise UnfitEncoderError(f"{repo} has {text} ([crawl] max_weights_bytes): choose another encoder")
    if "config.json" not in sizes:
        raise UnfitEncoderError(f"{repo} has no config.json, so transformers cannot load it")
    if kind in ("clip", "captions"):
        _require_tokenizer(repo, set(sizes))
    if kind in ("clip", "images") and not any(name in sizes for name in _PROCESSORS):
        raise UnfitEncoderError(f"{repo} has no {_PROCESSORS[0]}, which says how it sees images")
    names = [name for name in sizes if name in _FILES or name == _POOLING]
    hashes = {str(one.rfilename): str(one.lfs.sha256) for one in info.siblings or [] if one.lfs is not None}
    return EncoderFiles(repo, sha, (*names, *weights), weights, sizes, hashes, converted)


def _require_hash(path: Path, name: str, found: EncoderFiles) -> None:
    """Raise `HubError` when a file is not what the Hub says, and forget it: the Hub's client compares sizes only."""
    if name in found.hashes and sha256_of(path) != found.hashes[name]:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise HubError(f"{name} of {found.repo} came with another content than the Hub states: run the same again")


def _weights(info: Any) -> tuple[str, ...]:
    names = [str(one.rfilename) for one in info.siblings or []]
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    return ("model.safetensors",) if "model.safetensors" in found else tuple(found)


def _require_tokenizer(repo: str, names: set[str]) -> None:
    if any(names.issuperset(needed) for needed in _TOKENIZERS):
        return
    if not names.intersection(_SENTENCEPIECE):
        raise UnfitEncoderError(f"{repo} has no tokenizer.json, and no other tokenizer that is known here")
    if find_spec("sentencepiece") is None:
        raise UnfitEncoderError(f"{repo} has a sentencepiece tokenizer only: pip install sentencepiece protobuf")


def _judge(kind: str, repo: str, raw: bytes) -> None:
    """Raise `UnfitEncoderError` unless transformers knows a model of this configuration, of the right kind."""
    try:
        config = json.loads(raw)
        model_type = config["model_type"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnfitEncoderError(f"the config.json of {repo} names no model_type of transformers") from error
    known = Architectures.here()
    shown = printable(model_type)
    if not isinstance(model_type, str) or model_type not in known.model_types:
        raise UnfitEncoderError(
            f"{repo} is a {shown}, which this transformers does not know: pip install -U transformers"
        )
    if kind == "clip" and model_type not in known.zero_shot:
        raise UnfitEncoderError(f"{repo} is a {shown}, not an image-text model such as CLIP or SigLIP")
    if kind == "captions" and model_type in known.zero_shot:
        raise UnfitEncoderError(f"{repo} is an image-text model: write clip: in place of captions:")


def _header(found: EncoderFiles, name: str, endpoint: str, secret: str | bool) -> Header:
    size = found.sizes.get(name) or 0
    try:
        read = partial(_part, found, name, endpoint, secret)
        return header_of(read(0, FIRST_READ), size, read)
    except ModelError as error:
        raise UnfitEncoderError(f"{name} of {found.repo} cannot be used: {error.reason}") from error


def _part(found: EncoderFiles, name: str, endpoint: str, secret: str | bool, start: int, stop: int) -> bytes:
    """Return bytes ``[start, stop)`` of a file, fewer at its end; no more is read even where a server ignores that."""
    from huggingface_hub import hf_hub_url, utils

    client: Any = utils
    url = hf_hub_url(found.repo, name, revision=found.commit, endpoint=endpoint)
    headers = client.build_hf_headers(token=secret)
    headers |= {"range": f"bytes={start}-{stop - 1}", "accept-encoding": "identity"}
    return patiently(lambda: _read(client, url, headers, start, stop))


def _read(client: Any, url: str, headers: dict[str, str], start: int, stop: int) -> bytes:
    body = bytearray()
    with client.get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=_SECONDS) as answer:
        if answer.status_code >= 400:
            answer.read()
        client.hf_raise_for_status(answer)
        skip = start if answer.status_code == 200 else 0
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) >= skip + stop - start:
                break
    return bytes(body[skip : skip + stop - start])


_SECONDS = 30.0  # silence between two pieces of an answer


@contextmanager
def _asking(workspace: Workspace, repo: str, token: str | None) -> Iterator[tuple[str, str | bool]]:
    """Yield endpoint and token; turn what the client raises into `HubError`."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    endpoint = workspace.config.endpoint
    # None would make the client look for a token by itself
    secret = token_for(endpoint, token) or False
    try:
        yield endpoint, secret
    except GatedRepoError as error:
        raise UnfitEncoderError(f"{repo} is gated: ask for access on its page, and set HF_TOKEN") from error
    except RepositoryNotFoundError as error:
        raise UnfitEncoderError(f"{repo} is not on {endpoint}, or not for everybody") from error
    except transport_errors() as error:
        if status_of(error) in (401, 403, 404):  # some hubs say no more of what is not there
            raise UnfitEncoderError(f"{repo} cannot be had from {endpoint}: {printable(error, 300)}") from error
        raise HubError(f"the encoder {repo} cannot be fetched from {endpoint}: {printable(error, 300)}") from error


def _snapshot(cache: Path, repo: str, commit: str) -> Path:
    return cache / f"models--{repo.replace('/', '--')}" / "snapshots" / commit


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
