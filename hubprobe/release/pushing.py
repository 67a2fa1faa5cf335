"""Uploading a release as a dataset: in one commit, so that nobody ever sees half of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hubprobe.release import manifest
from hubprobe.release.source import transport_errors
from hubprobe.release.tables import NAMES
from workspace import HubError, WorkspaceError
from workspace.endpoint import token_for
from workspace.text import printable

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
