"""What can be asked about one repository, its card too, and how answers are checked before anybody believes them."""

from __future__ import annotations

import hashlib
import html
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

import yaml  # type: ignore[import-untyped]

from crawler.hub.client import Answer, HubClient
from crawler.hub.transport import RETRIED, Deadline, RetryError, UnansweredError
from crawler.listing.rows import EXPAND, MAX_FILES, File, Listed, is_repo_id, is_sha
from workspace import ModelError, Status, bounded_json, conversions
from workspace.endpoint import is_hugging_face
from workspace.reported import Reported, of_model_index
from workspace.safetensors_header import MAX_SHARDS
from workspace.text import printable

logger = logging.getLogger(__name__)

MAX_ANSWER = 32 * 1024**2  # bytes of an answer about one repository, or of a shard index
_ROUTES = frozenset({"paths-info", "tree", "revision", "resolve"})  # what follows a repository's name in a path


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


@dataclass(frozen=True)
class Offer:
    """Weights in a pull request: its reference, the commit that pins it, and the files with their hashes."""

    ref: str
    sha: str
    weights: tuple[File, ...]
    oids: Mapping[str, str | None]

    @property
    def paths(self) -> frozenset[str]:
        """Names of the weights."""
        return frozenset(file.path for file in self.weights)


def ask_offer(client: HubClient, listed: Listed, authors: Collection[str], deadline: Deadline) -> Offer | str:
    """Return what a conversion bot offers for a repository, or why nothing of it can be used.

    One request to the API, and one more where there is a pull request. Raises `UnansweredError`.
    """
    only = [("author", next(iter(authors)))] if len(authors) == 1 else []
    asked = urlencode([("type", "pull_request"), ("status", "open"), *only])
    try:
        answer = _object(client, client.api_url(listed.id, f"/discussions?{asked}"), deadline)
    except UnansweredError as error:
        if error.http != 501 and (error.http in RETRIED or not 400 <= error.http < 500):
            raise
        return "no pull requests can be seen"  # a mirror without them, or a repository whose owner turned them off
    num = conversions.number(answer.get("discussions"), authors)
    if num is None:
        return "no conversion of it is offered"
    ref = f"refs/pr/{num}"
    head = _object(client, client.api_url(listed.id, f"/revision/{quote(ref, safe='')}?blobs=true"), deadline)
    try:
        sha, files = str(head["sha"]), {file.path: file for file in map(_sibling, head["siblings"][:MAX_FILES])}
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"what {ref} holds cannot be read"
    if not is_sha(sha):
        return f"{ref} names no commit"
    oids = {path: file.oid for path, file in files.items()}
    if why := conversions.objection(dict.fromkeys(listed.paths), oids):
        return f"{ref} is not used: {printable(why)}"
    added = [files[path] for path in conversions.weights(oids.keys() - listed.paths)]
    if len(added) > MAX_SHARDS + 1:
        return f"{ref} is not used: it adds {len(added):,} files"
    return Offer(ref, sha, tuple(added), oids)


def _object(client: HubClient, url: str, deadline: Deadline) -> dict[str, Any]:
    answer = client.read(url, limit=MAX_ANSWER, deadline=deadline, check=_is_object)
    return cast("dict[str, Any]", bounded_json.loads(answer.body))


def _sibling(entry: Any) -> File:
    """Read a file of an answer with ``blobs=true``. Raises `ValueError` and its like for one that is none."""
    lfs = entry.get("lfs") or {}
    return _entry(
        {"path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"], "lfs": {"oid": lfs.get("sha256")}}
    )


def whereabouts(client: HubClient, repo_id: str, deadline: Deadline) -> Whereabouts | None:
    """Ask the API, once, what became of a repository; None when it is there as ever."""
    found = ask_row(client, repo_id, deadline)
    return found if isinstance(found, Whereabouts) else None


def ask_row(client: HubClient, repo_id: str, deadline: Deadline) -> Any:
    """Return the row that a listing would give for a repository, or its `Whereabouts` when it is not there.

    Its main branch is named, for olah knows none without; a hub that refuses a field (400) is asked for its own.
    """
    url = client.api_url(repo_id, "/revision/main?" + urlencode([("expand", name) for name in EXPAND]))
    try:
        try:
            answer = client.read(url, limit=MAX_ANSWER, deadline=deadline, follow=False, check=_is_object)
        except UnansweredError as error:
            if error.http != 400:
                raise
            url = client.api_url(repo_id, "/revision/main")
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


def is_file(answer: Answer, stated: File | None, *, whole: bool) -> None:
    """Raise `RetryError` unless an answer is the file: by the hash and size it names, or else those of its commit.

    The Hub always names them. An answer that does not is a mirror's that strips them, or somebody else's altogether, a
    proxy's page say: it is believed if it is what the API says of the commit.

    Args:
        answer: of a file, or of its beginning.
        stated: what the API says of the file; asked for where the answer names no hash.
        whole: whether the answer's body is the whole file.
    """
    names_it = bool(answer.etag) if whole else answer.size is not None and (bool(answer.etag) or answer.size == 0)
    if not names_it and stated is None:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "an answer that states no hash or size", answer.status))
    expected = file_of("", answer) if names_it or stated is None else stated
    size = len(answer.body) if whole else answer.size
    if not names_it and size != expected.size:
        problem = "an answer that states no hash, and is not of the size that the file has"
        raise RetryError(UnansweredError(Status.SERVER_ERROR, problem, answer.status))
    if whole and not has_hash(expected, len(answer.body), [answer.body]):
        problem = "a file does not have the hash the Hub states"
        raise RetryError(UnansweredError(Status.CORRUPT_FILE, problem, answer.status))


def has_hash(file: File, size: int, pieces: Iterable[bytes]) -> bool:
    """Return whether a content of ``size`` bytes has the hash of ``file``: its sha256, or that of git."""
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest() == (file.sha256 or file.oid)


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


class ElsewhereError(ModelError):
    """A repository is not there under its listed name."""

    def __init__(self, found: Whereabouts) -> None:
        super().__init__(found.status, found.reason)
        self.renamed_to = found.renamed_to


def ask_paths(client: HubClient, repo_id: str, sha: str, paths: list[str], deadline: Deadline) -> dict[str, File]:
    """Ask for size and hash of some files of a commit: one request to the API. Raises `ElsewhereError`."""
    body = urlencode([("paths", path) for path in paths] + [("expand", "false")]).encode()
    url = client.api_url(repo_id, f"/paths-info/{sha}")
    answer = client.read(url, limit=MAX_ANSWER, deadline=deadline, content=body, follow=False, check=lists_files)
    if answer.location is not None:
        raise ElsewhereError(Whereabouts.of_redirect(client, repo_id, answer.location))
    return {entry.path: entry for entry in entries(answer.body)}


CARD = "README.md"
READ = 16_384
"""Bytes of a card that are read: its summary is at the top, and some cards hold megabytes of tables."""

SUMMARY = 600
"""Characters of a summary."""

# each pattern looks ahead over a bounded distance or up to the next mark: the time is linear in the text
_FRONT = re.compile(r"\s*---[ \t]*(?=\n)")
_FENCED = re.compile(r"^(```|~~~).*?(?:^\1|\Z)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_HIDDEN = re.compile(r"<(style|script)\b.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,1000}>")
_IMAGE = re.compile(r"!\[[^\[\]]{0,500}\]\([^()\s]{0,1000}(?:\s[^()]{0,200})?\)")
_LINK = re.compile(r"\[([^\[\]]{0,500})\]\([^()\s]{0,1000}(?:\s[^()]{0,200})?\)")
_MARKS = re.compile(
    r"\\([!-/:-@\[-`{-~])|(`{1,2})([^`\n]{1,200})\2"  # what stays: an escaped mark, code
    r"|[*`]{1,3}|~~|(?<![^\W_])_{1,3}(?=[^\W_])|(?<=[^\W_])_{1,3}(?![^\W_])"
    r"|^\s{0,3}(?:#{1,6}\s|>\s?|[-+]\s|\d{1,3}[.)]\s)",
    re.MULTILINE,
)
"""Markdown's marks. An underscore within a word is none: it is part of an identifier."""
_TABLE = re.compile(r"^\|.*$|^[-=:|+ ]{3,}$", re.MULTILINE)
_UNFILLED = re.compile(r"\[?\s?more information needed\s?\]?", re.IGNORECASE)


def reported(card: bytes) -> Reported | None:
    """Return the accuracy that a card's ``model-index`` reports, the first of several; None where it reports none."""
    text = card.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    front = _FRONT.match(text)
    if front is None:
        return None
    matter, found, _ = text[front.end() :].partition("\n---")
    if not found or "model-index" not in matter:
        return None
    try:
        data = yaml.safe_load(matter)
    except (yaml.YAMLError, ValueError, RecursionError):  # of a date that is none, or lists in lists
        return None
    return of_model_index(data.get("model-index")) if isinstance(data, dict) else None


def summary(card: bytes) -> str | None:
    """Return the first `SUMMARY` characters of a card's prose, or None when it has none.

    Front matter, code, tables, pictures, HTML, Markdown's marks and the template's "More Information Needed" go.
    """
    text = card.decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n").replace("\x00", " ")
    if front := _FRONT.match(text):
        _, found, text = text[front.end() :].partition("\n---")
        if not found:  # front matter longer than what was read, or never closed
            return None
    for pattern in (_COMMENT, _FENCED, _HIDDEN, _IMAGE):
        text = pattern.sub(" ", text)
    lines = (" ".join(line.split()) for line in _LINK.sub(r"\1", text).split("\n"))
    text = "\n".join(filter(None, lines))  # patterns need not look past runs of spaces and lines
    for pattern in (_TABLE, _TAG, _UNFILLED):
        text = pattern.sub(" ", text)
    words = " ".join(html.unescape(_MARKS.sub(lambda mark: mark[1] or mark[3] or "", text)).split())
    if len(words) > SUMMARY:
        words = words[:SUMMARY].rsplit(" ", 1)[0] + "…"
    return words if any(c.isalpha() for c in words) else None
