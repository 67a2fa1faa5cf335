"""A release in a folder or on a Hub, no file of it used before its hash was checked; and its upload in one commit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from hubprobe.release import manifest
from hubprobe.release.manifest import Manifest
from hubprobe.release.tables import NAMES
from workspace import HubError, WorkspaceError
from workspace.endpoint import token_for
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
        progress: whether the Hub's client draws its progress bars.
    """

    where: str
    folder: Path
    manifest: Manifest
    repo: str = ""
    revision: str = ""
    endpoint: str = ""
    token: str | None = None
    progress: bool = True

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
        with _bars(self.progress):
            _download(self.repo, self.revision, name, self.folder, self.endpoint, self.token)


def open_source(where: str, cache: Path, *, endpoint: str, token: str | None = None, progress: bool = True) -> Source:
    """Return the release at ``where``: a folder, or ``hf://datasets/OWNER/NAME[@revision]``.

    Args:
        where: as the user names it.
        cache: folder for what is fetched; kept, so that an interrupted import goes on.
        endpoint: of the Hub.
        token: for it; none is sent when it is None: the machine's own is not looked for here.
        progress: let the Hub's client draw its progress bars.

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
    with _bars(progress):
        _download(repo, sha, manifest.FILE, cache / sha, endpoint, token)
    content = manifest.read(cache / sha)
    for name, facts in content.files.items():
        if sizes.get(name) not in (None, facts.bytes):  # before it fills the disk
            raise WorkspaceError(f"{name} of {repo} has {sizes[name]:,} bytes, where its manifest says {facts.bytes:,}")
    return Source(where, cache / sha, content, repo, sha, endpoint, token, progress)


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


# ── upload ───────────────────────────────────────────────────────────────────────────────────────────────────────────

_OURS = [*(f"{name}/*.parquet" for name in NAMES), "encoders/*.safetensors", "figures/*.png"]
"""What an earlier release may have left in the dataset, and this one deletes unless it holds it too."""


_PART = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(f"{_PART}/{_PART}")


@dataclass(frozen=True)
class PushSummary:
    """What a push did.

    Attributes:
        repo: the dataset.
        commit: its commit now.
        url: where to look at it.
        created: whether the dataset is new.
        changed: whether there was anything to commit.
        private: whether only its owners see it.
    """

    repo: str
    commit: str
    url: str
    created: bool
    changed: bool
    private: bool


def check_repo(repo: str) -> None:
    """Raise `WorkspaceError` unless ``repo`` is ``owner/name`` as the Hub takes it."""
    if not _NAME.fullmatch(repo) or any(part in repo for part in ("--", "..")) or repo.endswith(".git"):
        raise WorkspaceError(
            f"'{printable(repo)}' is no name of a dataset: OWNER/NAME, of letters, digits, '-', '_' and '.'"
        )


def push(
    folder: str | Path,
    repo: str,
    *,
    endpoint: str,
    token: str | None = None,
    public: bool = False,
    progress: bool = True,
    confirm: Callable[[str], None] = lambda _: None,
) -> PushSummary:
    """Upload the release in ``folder`` to the dataset ``repo``, made when it does not exist.

    Every file is checked against the manifest first. Files that the Hub holds already are not sent again: an
    interrupted push goes on where it was, and one without changes makes no commit.

    Args:
        folder: of the release.
        repo: ``owner/name``.
        endpoint: of the Hub.
        token: with the right to write; the machine's own when None, see `workspace.endpoint`.
        public: make a new dataset public; an existing one stays as visible as it is.
        progress: let the Hub's client draw its progress bars.
        confirm: called with what is about to happen; raises to stop it.

    Raises `WorkspaceError` for a damaged release, `HubError` when the Hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    check_repo(repo)
    home = Path(folder)
    content = manifest.read(home)
    for name, facts in content.files.items():
        manifest.check(home, name, facts)
    api = HfApi(endpoint=endpoint, token=token_for(endpoint, token) or False)
    refusals: tuple[type[Exception], ...] = (*transport_errors(), RuntimeError, ValueError)  # as the client raises them
    try:
        try:
            before = api.dataset_info(repo)
        except RepositoryNotFoundError:
            before = None
        private = not public if before is None else bool(before.private)
        size = sum(facts.bytes for facts in content.files.values())
        confirm(
            f"upload {len(content.files) + 1} files, {size / 1e6:,.1f} MB, to the "
            f"{'new' if before is None else 'existing'} {'private' if private else 'public'} dataset {repo} "
            f"on {endpoint}"
        )
        if before is None:
            api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        with _bars(progress):
            done = api.upload_folder(
                repo_id=repo,
                folder_path=home,
                repo_type="dataset",
                allow_patterns=[*content.files, manifest.FILE],
                delete_patterns=_OURS,
                commit_message=f"Release {content.release_id}",
            )
    except refusals as error:
        raise HubError(
            f"pushing to {repo} on {endpoint} failed: {printable(error, 400)}; with a token that may write "
            "(HF_TOKEN), run the same command again to go on"
        ) from error
    changed = before is None or done.oid != before.sha
    return PushSummary(repo, done.oid, f"{endpoint}/datasets/{repo}", before is None, changed, private)


@contextmanager
def _bars(drawn: bool) -> Iterator[None]:
    """Let huggingface_hub draw progress bars, or not, while the block runs."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if drawn or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
