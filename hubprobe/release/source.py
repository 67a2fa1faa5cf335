"""Where a release comes from: a folder, or a dataset on a Hub; nothing of it is used before its hash was checked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hubprobe.release import manifest
from hubprobe.release.manifest import Manifest
from workspace import HubError, WorkspaceError
from workspace.text import printable

_ADDRESS = re.compile(r"hf://datasets/([^/@\s]+/[^/@\s]+?)(?:@([^@\s]+?))?/?")


@dataclass(frozen=True)
class Source:
    """A release that can be read.

    Attributes:
        where: as it was named.
        folder: where its files lie, or are put.
        manifest: what it says of itself, checked.
        repo: ``owner/name`` on a Hub; empty for a folder.
        revision: the commit, 40 hex digits; empty for a folder.
        endpoint: of the Hub.
        token: for it; none is sent when it is None or "".
    """

    where: str
    folder: Path
    manifest: Manifest
    repo: str = ""
    revision: str = ""
    endpoint: str = ""
    token: str | None = None

    def file(self, name: str) -> Path:
        """Return the path of a file of the release, fetched if need be, its sha256 checked.

        Raises `WorkspaceError` when it is not what the manifest says, `HubError` when it cannot be fetched.
        """
        facts = self.manifest.files[name]
        if not self.repo:
            return manifest.check(self.folder, name, facts)
        self._download(name)
        try:
            return manifest.check(self.folder, name, facts)
        except WorkspaceError:  # cut short by a full disk or changed behind the client's back: once more, from nothing
            (self.folder / name).unlink(missing_ok=True)
            self._download(name)
            return manifest.check(self.folder, name, facts)

    def _download(self, name: str) -> None:
        _download(self.repo, self.revision, name, self.folder, self.endpoint, self.token)


def open_source(where: str, cache: Path, *, endpoint: str, token: str | None = None) -> Source:
    """Return the release at ``where``: a folder, or ``hf://datasets/OWNER/NAME[@revision]``.

    Args:
        where: as the user names it.
        cache: folder for what is fetched; kept, so that an interrupted import goes on.
        endpoint: of the Hub.
        token: for it; none is sent when it is None: the machine's own is not looked for here.

    Raises `WorkspaceError` for what is no release or a later one, `HubError` when the Hub does not give it.
    """
    found = _ADDRESS.fullmatch(where)
    if found is None:
        if "://" in where:
            raise WorkspaceError(f"{printable(where)} is not understood: name a folder or hf://datasets/OWNER/NAME")
        return Source(where, Path(where), manifest.read(Path(where)))
    from huggingface_hub import HfApi

    repo, revision = found[1], found[2]
    try:
        about = HfApi(endpoint=endpoint, token=token or False).dataset_info(
            repo, revision=revision, files_metadata=True
        )
    except transport_errors() as error:
        raise HubError(f"the dataset {repo} cannot be read from {endpoint}: {printable(error, 300)}") from error
    sizes = {file.rfilename: file.size for file in about.siblings or ()}
    if (sizes.get(manifest.FILE) or 0) > manifest.MAX_BYTES:
        raise WorkspaceError(f"the {manifest.FILE} of {repo} has {sizes[manifest.FILE]:,} bytes: no hubprobe release")
    sha = str(about.sha)
    _download(repo, sha, manifest.FILE, cache / sha, endpoint, token)
    content = manifest.read(cache / sha)
    for name, facts in content.files.items():
        if sizes.get(name) not in (None, facts.bytes):  # before it fills the disk
            raise WorkspaceError(f"{name} of {repo} has {sizes[name]:,} bytes, where its manifest says {facts.bytes:,}")
    return Source(where, cache / sha, content, repo, sha, endpoint, token)


def _download(repo: str, revision: str, name: str, folder: Path, endpoint: str, token: str | None) -> None:
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(
            repo, name, repo_type="dataset", revision=revision, local_dir=folder, endpoint=endpoint,
            token=token or False,
        )  # fmt: skip
    except transport_errors() as error:
        raise HubError(
            f"{name} of {repo} cannot be fetched from {endpoint}: {printable(error, 300)}; "
            "run the same command again to go on"
        ) from error


def transport_errors() -> tuple[type[Exception], ...]:
    """Return what the Hub's client raises; huggingface_hub 1 rests on httpx, 2 on httpx2."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    clients = [import_module(name) for name in ("httpx", "httpx2") if find_spec(name) is not None]
    return (OSError, HfHubHTTPError, HFValidationError, *(client.HTTPError for client in clients))
