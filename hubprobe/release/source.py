"""Where a release comes from: a folder, or a dataset on a Hub; nothing of it is used before its hash was checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hubprobe.release import manifest
from workspace import HubError, WorkspaceError
from workspace.text import printable

_ADDRESS = re.compile(r"hf://datasets/([^/@\s]+/[^/@\s]+?)(?:@([^@\s]+?))?/?")


@dataclass(frozen=True)
class Source:
    """A release that can be read.

    Attributes:
        where: as it was named.
        folder: where its files lie, or are put.
        content: its manifest.
        repo: ``owner/name`` on a Hub; empty for a folder.
        revision: the commit, 40 hex digits; empty for a folder.
        endpoint: of the Hub.
        token: for it; None takes the machine's own, "" sends none.
    """

    where: str
    folder: Path
    content: dict[str, Any]
    repo: str = ""
    revision: str = ""
    endpoint: str = ""
    token: str | None = None

    def file(self, name: str) -> Path:
        """Return the path of a file of the release, fetched if need be, its sha256 checked.

        Raises `WorkspaceError` when it is not what the manifest says, `HubError` when it cannot be fetched.
        """
        path, about = self.folder / name, self.content["files"][name]
        if not self.repo:
            manifest.check(path, name, about)
            return path
        _download(self, name)
        try:
            manifest.check(path, name, about)
        except WorkspaceError:  # cut short by a full disk or changed behind the client's back: once more, from nothing
            path.unlink(missing_ok=True)
            _download(self, name)
            manifest.check(path, name, about)
        return path

    def files(self, table: str) -> list[str]:
        """Return the names of a table's files, in order."""
        return sorted(name for name in self.content["files"] if name.startswith(f"{table}/"))


def open_source(where: str, cache: Path, *, endpoint: str, token: str | None = None) -> Source:
    """Return the release at ``where``: a folder, or ``hf://datasets/OWNER/NAME[@revision]``.

    Args:
        where: as the user names it.
        cache: folder for what is fetched; kept, so that an interrupted import goes on.
        endpoint: of the Hub.
        token: for it.

    Raises `WorkspaceError` for what is no release or a later one, `HubError` when the Hub does not give it.
    """
    found = _ADDRESS.fullmatch(where)
    if found is None:
        if "://" in where:
            raise WorkspaceError(f"{printable(where)} is not understood: name a folder or hf://datasets/OWNER/NAME")
        folder = Path(where)
        if not (folder / manifest.FILE).is_file():
            raise WorkspaceError(f"{where} holds no release: it has no {manifest.FILE}")
        return Source(where, folder, manifest.read(folder / manifest.FILE))
    from huggingface_hub import HfApi

    repo, revision = found[1], found[2]
    try:
        sha = HfApi(endpoint=endpoint, token=_secret(token)).dataset_info(repo, revision=revision).sha
    except transport_errors() as error:
        raise HubError(f"the dataset {repo} cannot be read from {endpoint}: {printable(error, 300)}") from error
    source = Source(where, cache / str(sha), {}, repo, str(sha), endpoint, token)
    path = _download(source, manifest.FILE)
    return Source(where, source.folder, manifest.read(path), repo, str(sha), endpoint, token)


def _download(source: Source, name: str) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        got = hf_hub_download(
            source.repo, name, repo_type="dataset", revision=source.revision, local_dir=source.folder,
            endpoint=source.endpoint, token=_secret(source.token),
        )  # fmt: skip
    except transport_errors() as error:
        raise HubError(
            f"{name} of {source.repo} cannot be fetched from {source.endpoint}: {printable(error, 300)}; "
            "run the same command again to go on"
        ) from error
    return Path(got)


def _secret(token: str | None) -> str | bool | None:
    return False if token == "" else token  # "" asks for no token at all, not even the environment's


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))
