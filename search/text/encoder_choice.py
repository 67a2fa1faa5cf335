"""Which encoder an index is built with: the one that is named, or of a short list the first that can be loaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from search.store import versions
from search.text import encoders
from search.text.encoder_files import EncoderFiles, UnfitEncoderError, examine, folder_hash, is_here, newest
from search.text.encoders import Encoder, load_encoder, parts_of
from workspace import HubError, Workspace, WorkspaceError
from workspace.files import read_json, using, write_json
from workspace.runs import now

T = TypeVar("T")
AUTO, NONE = "auto", "none"

PREFERRED = (
    "clip:google/siglip2-base-patch16-224",
    "clip:google/siglip-base-patch16-256",
    "clip:openai/clip-vit-large-patch14",
)
"""What ``auto`` tries, best first: the first reads about 100 languages; see docs/encoders.md."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What an index of this workspace would be built with."""

    name: str  # as the configuration would name it; ``none`` for no encoder
    commit: str | None = None  # its version, None for the newest there is
    is_here: bool = False  # whether its files are on disk, so that nothing is fetched
    files: EncoderFiles | None = None  # what a repository has, where it was asked
    passed_over: tuple[tuple[str, str], ...] = ()  # why better ones were not taken, by name


def load(workspace: Workspace, name: str, token: str | None = None) -> Encoder | None:
    """Return the encoder of a setting: ``auto``, ``none`` or a name; raises `HubError` when it cannot be loaded.

    What ``auto`` took is written down with its commit, and taken ever after.
    """
    if name == NONE:
        return None
    if name != AUTO:
        return load_named(workspace, name, token)
    if (known := pinned(workspace)) is not None:
        return load_encoder(workspace, known[0], commit=known[1], token=token)
    found, passed_over = _first(lambda candidate: load_encoder(workspace, candidate, token=token))
    pin(workspace, found.name, found.commit, passed_over)
    return found


def _first(take: Callable[[str], T]) -> tuple[T, list[tuple[str, str]]]:
    """Return what ``take`` makes of the first preferred encoder that is fit, and why those before it are not."""
    passed_over: list[tuple[str, str]] = []
    for candidate in PREFERRED:
        try:
            return take(candidate), passed_over
        except UnfitEncoderError as error:
            passed_over.append((candidate, str(error)))
    why = "; ".join(f"{name}: {reason}" for name, reason in passed_over)
    raise HubError(
        f"none of the encoders that 'auto' knows can be loaded ({why}): name another in [search] encoder, as "
        "clip:OWNER/NAME or a folder, or 'none' for an index without text queries"
    )


def load_named(workspace: Workspace, name: str, token: str | None = None, side: str = "encoder") -> Encoder:
    """Return the encoder ``name`` at its newest commit; where the Hub cannot be asked, at the index's, if it is here.

    Raises `HubError` when it can be had neither way. ``side`` is ``encoder`` or ``image_encoder``.
    """
    try:
        return load_encoder(workspace, name, token=token)
    except UnfitEncoderError:
        raise
    except HubError as error:
        known = built_with(workspace, name, side)
        if known is None:
            raise
        _LOG.warning("%s; taken as the index had it, at %s", error, known[1])
        return load_encoder(workspace, known[0], commit=known[1], token=token)


def load_choice(workspace: Workspace, name: str | None = None, token: str | None = None) -> Encoder | None:
    """Return the encoder ``name``, or the configuration's when None, as `load` does."""
    with using(workspace.cache_dir / "encoders", "write"):  # a full disk is not the encoder's fault
        return load(workspace, name or workspace.config.search.encoder, token)


def settle(workspace: Workspace, token: str | None = None) -> None:
    """Make the choice of ``auto`` now, when the configuration says so and it was not made: it is fetched and loaded.

    Before hours of other work, for only a model that was loaded is known to load. Raises `HubError`.
    """
    if workspace.config.search.encoder == AUTO and pinned(workspace) is None:
        load_choice(workspace, AUTO, token)


def choose(workspace: Workspace, name: str, token: str | None = None) -> Chosen:
    """Say what `load` would take, by a few small requests: nothing is written and no weights are fetched.

    Raises `HubError` when there is none, or the Hub cannot be asked, and `QueryError` for a name that is none.
    """
    if name == NONE:
        return Chosen(NONE)
    known = pinned(workspace) if name == AUTO else None
    if name != AUTO or known is not None:
        return _examined(workspace, *(known if known is not None else (name, None)), token=token)
    found, passed_over = _first(lambda candidate: _examined(workspace, candidate, None, token=token))
    return replace(found, passed_over=tuple(passed_over))


def is_same(workspace: Workspace, name: str, about: dict[str, Any] | None, token: str | None = None) -> bool:
    """Return whether a setting means the encoder of an index, ``about`` in its manifest, without loading it.

    Raises `HubError` when the Hub cannot be asked.
    """
    if about is None or name == NONE:
        return about is None and name == NONE
    if name == AUTO:
        return pinned(workspace) == (about["name"], about["commit"])
    kind, repo, folder = parts_of(name)
    commit = newest(workspace, kind, repo, token) if folder is None else folder_hash(folder)
    return (name, commit) == (about["name"], about["commit"])


def pinned(workspace: Workspace) -> tuple[str, str] | None:
    """Return name and commit of what ``auto`` stands for in this workspace: what it took before, else what its index
    was built with; None when it has still to be chosen.
    """
    path = workspace.index_dir / "encoder.json"
    if path.is_file():
        content = read_json(path, {"name": str, "commit": str})
        return content["name"], content["commit"]
    return _in_index(workspace, "encoder")


def built_with(workspace: Workspace, name: str, side: str = "encoder") -> tuple[str, str] | None:
    """Return name and commit of what the index was built with, when a setting means that and its files are on disk.

    ``side`` is ``encoder`` or ``image_encoder``.
    """
    known = _in_index(workspace, side)
    if known is None or name not in (AUTO, known[0]):
        return None
    _, repo, folder = parts_of(known[0])
    return known if folder is not None or is_here(workspace, repo, known[1]) else None


def pin(workspace: Workspace, name: str, commit: str, passed_over: list[tuple[str, str]]) -> None:
    """Write down what ``auto`` stands for from now on; deleting the file makes it choose anew."""
    for other, why in passed_over:
        _LOG.warning("the encoder %s is not taken: %s", other, why)
    _LOG.warning("the encoder is %s at %s, from now on", name, commit)
    content = {"name": name, "commit": commit, "chosen_at": now().isoformat(), "passed_over": dict(passed_over)}
    write_json(workspace.index_dir / "encoder.json", content)


def _in_index(workspace: Workspace, side: str) -> tuple[str, str] | None:
    """Return name and commit from the manifest of the index in use; None for an encoder that no name can load."""
    try:
        folder = versions.current(workspace)
        about = read_json(folder / "manifest.json").get(side) if folder is not None else None
        named = about is not None and str(about["name"]).partition(":")[0] in encoders.KINDS
        return (str(about["name"]), str(about["commit"])) if about is not None and named else None
    except (WorkspaceError, AttributeError, KeyError, TypeError):  # damaged: it is built from nothing, and so is this
        return None


def _examined(workspace: Workspace, name: str, commit: str | None, *, token: str | None) -> Chosen:
    kind, repo, folder = parts_of(name)
    if folder is not None:
        return Chosen(name, is_here=True)
    if commit and is_here(workspace, repo, commit):
        return Chosen(name, commit, is_here=True)
    files = examine(workspace, kind, repo, commit, token)
    return Chosen(name, files.commit, is_here(workspace, repo, files.commit), files)
