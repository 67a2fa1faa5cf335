"""What can be asked about one repository, and how the answers are checked before anybody believes them."""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from crawler.decide.rules import INDEX
from crawler.hub.client import Answer, HubClient
from crawler.hub.errors import RetryError, UnansweredError
from crawler.hub.transport import Deadline
from crawler.listing.query import EXPAND
from crawler.listing.rows import File, is_repo_id
from workspace import ModelError, Status, bounded_json
from workspace.endpoint import is_hugging_face

logger = logging.getLogger(__name__)

MAX_ANSWER = 32 * 1024**2  # bytes of an answer about one repository, or of a shard index
MAX_SHARDS = 64
_ROUTES = frozenset({"paths-info", "tree", "revision", "resolve"})  # what follows a repository's name in a path
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)


@dataclass(frozen=True)
class Whereabouts:
    """What became of a repository that is not there under its listed name."""

    status: Status
    reason: str
    renamed_to: str | None = None

    @classmethod
    def of_redirect(cls, client: HubClient, repo_id: str, location: str) -> Whereabouts:
        """Read where the API redirects to: another name on the same Hub is a renaming, anything else makes no sense."""
        name = new_name(client.path_of(location))
        here = client.same_origin(location) or is_hugging_face(location)  # which a mirror may hand through
        if not here or not name or name == repo_id:
            return cls(Status.SERVER_ERROR, "the API redirects to a place that is no repository's new name")
        return cls(Status.RENAMED, f"renamed to {name}", name)


def whereabouts(client: HubClient, repo_id: str, deadline: Deadline) -> Whereabouts | None:
    """Ask the API, once, what became of a repository; None when it is there as ever."""
    found = ask_row(client, repo_id, deadline)
    return found if isinstance(found, Whereabouts) else None


def ask_row(client: HubClient, repo_id: str, deadline: Deadline) -> Any:
    """Return the row that a listing would give for a repository, or its `Whereabouts` when it is not there."""
    url = client.api_url(repo_id, "?" + urlencode([("expand", name) for name in EXPAND]))
    try:
        answer = client.read(url, limit=MAX_ANSWER, deadline=deadline, follow=False, check=_is_object)
    except UnansweredError as error:
        return Whereabouts(error.status, error.reason)
    return (
        bounded_json.loads(answer.body)
        if answer.location is None
        else Whereabouts.of_redirect(client, repo_id, answer.location)
    )


def _is_object(answer: Answer) -> None:
    try:
        if isinstance(bounded_json.loads(answer.body), dict):
            return
    except (ValueError, RecursionError):
        logger.debug("an answer about a repository is not JSON")
    raise RetryError(UnansweredError(Status.SERVER_ERROR, "an answer that is no JSON object", answer.status))


def new_name(location: str) -> str:
    """Return the repository that a path of the Hub is about; empty when it is no repository's name."""
    parts = urlsplit(location).path.rpartition("/api/models/")[2].strip("/").split("/")
    name = "/".join(parts[: 1 if parts[1:2] and parts[1] in _ROUTES else 2])
    return name if is_repo_id(name) else ""


def shards(raw: bytes) -> list[str]:
    """Return the files an index names, in order. Raises `ModelError` for an index that cannot be followed safely."""
    try:
        names = sorted(set(bounded_json.loads(raw.decode("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(Status.INVALID_HEADER, f"{INDEX} names no shards ({type(error).__name__})") from error
    if not names or len(names) > MAX_SHARDS or not all(isinstance(n, str) and _SHARD.fullmatch(n) for n in names):
        raise ModelError(Status.INVALID_HEADER, f"{INDEX} names {len(names)} shards, or names no file could have")
    return names


def blob_sha1(content: bytes) -> str:
    """Return the name git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def states_a_hash(answer: Answer) -> None:
    """Raise `RetryError` unless the answer names a hash and a size.

    The Hub always does: an answer that does not is somebody else's, a proxy's page say.
    """
    if answer.size is None or (answer.size > 0 and not answer.etag):
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "an answer that states no hash or size", answer.status))


def has_its_hash(answer: Answer) -> None:
    """Raise `RetryError` unless the whole body has the hash that the answer names."""
    if not answer.etag:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "an answer that states no hash", answer.status))
    lfs = len(answer.etag) == 64
    if (hashlib.sha256(answer.body).hexdigest() if lfs else blob_sha1(answer.body)) != answer.etag:
        problem = UnansweredError(Status.CORRUPT_FILE, "a file does not have the hash the Hub states", answer.status)
        raise RetryError(problem)


def lists_files(answer: Answer) -> None:
    """Raise `RetryError` unless the body is a list of files."""
    try:
        entries(answer.body)
    except UnansweredError as error:
        raise RetryError(error) from error


def file_of(path: str, answer: Answer) -> File:
    """Return what an answer's headers say of a file."""
    etag = answer.etag
    return File(path, answer.size, etag if len(etag) == 40 else None, etag if len(etag) == 64 else None)


def entries(raw: bytes) -> list[File]:
    """Return the files in an answer of tree or paths-info. Raises `UnansweredError` when it cannot be read."""
    try:
        return [_entry(entry) for entry in bounded_json.loads(raw) if entry.get("type") != "directory"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnansweredError(Status.SERVER_ERROR, f"the Hub's list of files cannot be read ({error})") from error


def _entry(entry: Any) -> File:
    path, size, oid = entry["path"], entry["size"], entry["oid"]
    sha256 = (entry.get("lfs") or {}).get("oid")
    if not (isinstance(path, str) and type(size) is int and 0 <= size < 2**63 and isinstance(oid, str)):
        raise ValueError("a file without name, size or hash")
    if not re.fullmatch(r"[0-9a-f]{40}", oid) or not re.fullmatch(r"[0-9a-f]{64}", sha256 or "0" * 64):
        raise ValueError("a file whose hash is none")
    return File(path, size, oid, sha256)


def ask_paths(client: HubClient, repo_id: str, sha: str, paths: list[str], deadline: Deadline) -> Answer:
    """Ask for size and hash of some files of a commit: one request to the API; a redirect is handed back."""
    body = urlencode([("paths", path) for path in paths] + [("expand", "false")]).encode()
    url = client.api_url(repo_id, f"/paths-info/{sha}")
    return client.read(url, limit=MAX_ANSWER, deadline=deadline, content=body, follow=False, check=lists_files)
