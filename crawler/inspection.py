"""Deciding one repository with as few requests as its answer needs.

========================  ==============  ====================================================================
what is asked             bucket          why so
========================  ==============  ====================================================================
nothing                   none            two thirds of the Hub are decided by the listing: format, gate, tags
config.json, pinned       resolvers (2)   the bucket with six times the quota of ``api``
header of the weights     resolvers (1)   one ranged read; its redirect also states size and sha256
paths-info, pinned        api (1)         only for what would be eligible: names the hash and size of every file a
                                          probe fetches in one answer, and says if it was renamed or taken away
========================  ==============  ====================================================================

A tree call per candidate instead would cost the scarcer bucket before anything is known, and a HEAD per file would cost
more and verify nothing that these answers do not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import urlencode, urlsplit

from crawler.architectures import Architectures
from crawler.client import Answer, HubClient
from crawler.configs import MAX_CONFIG, ModelConfig, parse_config
from crawler.failures import UnansweredError
from crawler.header import FIRST_READ, Header, header_length, parse_header
from crawler.rows import File, Listed, is_repo_id
from crawler.rules import CONFIG, CONFIG_RULES, INDEX, LIST_RULES, WEIGHTS, WEIGHTS_RULES, Facts, first_refusal
from crawler.transport import Deadline
from workspace import CrawlConfig, ModelError, Status

REPO_SECONDS = 180.0  # one repository, waiting for our turn not counted
MAX_INDEX = 32 * 1024**2  # bytes of a shard index
MAX_SHARDS = 64
_SHARD = re.compile(r"[\w.-]{1,200}\.safetensors", re.ASCII)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files beside config and weights that a probe reads when they are there."""


@dataclass
class Decision:
    """The end of one repository in the catalog."""

    listed: Listed
    status: Status = Status.ELIGIBLE
    reason: str = ""
    config: ModelConfig | None = None
    header: Header | None = None
    renamed_to: str | None = None
    known: dict[str, File] = field(default_factory=dict)  # sizes and hashes learned on the way


class Inspector:
    """Decides repositories; safe to use from several threads.

    Args:
        client: the Hub.
        limits: the workspace's caps and lists.
        architectures: returns what can be built; called when the first config has to be judged.
    """

    def __init__(self, client: HubClient, limits: CrawlConfig, architectures: Callable[[], Architectures]) -> None:
        self._client, self._limits, self._architectures = client, limits, architectures

    def from_listing(self, listed: Listed) -> Decision | None:
        """Return the decision if the listing alone makes it, at no request; None when more has to be asked."""
        verdict = first_refusal(LIST_RULES, Facts(listed, self._limits))
        return None if verdict is None else Decision(listed, verdict.status, verdict.reason)

    def decide(self, listed: Listed) -> Decision:
        """Return the decision, asking the Hub for what is missing. Never raises for a repository's own faults."""
        decision = Decision(listed)
        deadline = Deadline(REPO_SECONDS)
        try:
            self._decide(decision, deadline)
        except ModelError as error:
            decision.status, decision.reason = error.status, error.reason
        except UnansweredError as error:
            decision.status, decision.reason = error.status, error.reason
            if error.status is Status.GONE:
                self._look_for(decision, deadline)
        return decision

    def _decide(self, decision: Decision, deadline: Deadline) -> None:
        if decision.listed.files is None:
            decision.listed = self._with_files(decision.listed, deadline)
        facts = Facts(decision.listed, self._limits)
        self._pass(LIST_RULES, facts)
        decision.config = self._config(decision, deadline)
        facts = replace(facts, architectures=self._architectures(), config=decision.config)
        self._pass(CONFIG_RULES, facts)
        decision.header = self._header(decision, deadline)
        self._pass(WEIGHTS_RULES, replace(facts, header=decision.header))
        self._confirm(decision, deadline)

    def _pass(self, rules: tuple[Callable[[Facts], object], ...], facts: Facts) -> None:
        verdict = first_refusal(rules, facts)  # type: ignore[arg-type]
        if verdict is not None:
            raise ModelError(verdict.status, verdict.reason)

    def _config(self, decision: Decision, deadline: Deadline) -> ModelConfig:
        listed = decision.listed
        answer = self._file(decision, CONFIG, MAX_CONFIG, deadline)
        if is_other_content(answer.body, answer.etag):
            raise ModelError(Status.CORRUPT_FILE, f"{CONFIG} of {listed.sha[:8]} does not have the hash the Hub states")
        return parse_config(answer.body, self._limits.max_labels)

    def _header(self, decision: Decision, deadline: Deadline) -> Header:
        if WEIGHTS in decision.listed.paths:
            return self._header_of(decision, WEIGHTS, deadline)
        answer = self._file(decision, INDEX, MAX_INDEX, deadline)
        header = Header((), 0)
        for name in shards(answer.body):
            header = header + self._header_of(decision, name, deadline)
        return header

    def _header_of(self, decision: Decision, path: str, deadline: Deadline) -> Header:
        url = self._client.resolve_url(decision.listed.id, decision.listed.sha, path)
        answer = self._client.read(url, limit=FIRST_READ, start=0, stop=FIRST_READ, deadline=deadline)
        size = answer.size
        if size is None:
            raise UnansweredError(Status.SERVER_ERROR, f"{path}: the Hub does not state its size")
        decision.known[path] = _file_of(path, answer)
        length = header_length(answer.body, size)
        raw = answer.body[8 : 8 + length]
        if len(raw) < length:
            rest = self._client.read(url, limit=length, start=8, stop=8 + length, deadline=deadline)
            raw = rest.body
        if len(raw) < length:
            raise ModelError(Status.TRUNCATED_WEIGHTS, f"{path} ends inside its own header")
        return parse_header(raw, size)

    def _file(self, decision: Decision, path: str, limit: int, deadline: Deadline) -> Answer:
        url = self._client.resolve_url(decision.listed.id, decision.listed.sha, path)
        answer = self._client.read(url, limit=limit, deadline=deadline)
        decision.known[path] = replace(_file_of(path, answer), size=len(answer.body))
        return answer

    def _confirm(self, decision: Decision, deadline: Deadline) -> None:
        listed = decision.listed
        wanted = [*decision.known, *(p for p in PROCESSORS if p in listed.paths)]
        url = self._client.api_url(listed.id, f"/paths-info/{listed.sha}")
        body = urlencode([("paths", path) for path in wanted] + [("expand", "false")]).encode()
        answer = self._client.read(url, limit=MAX_INDEX, deadline=deadline, content=body, follow=False)
        if answer.location is not None:
            found = Whereabouts.renamed(answer.location)
            decision.status, decision.reason, decision.renamed_to = found.status, found.reason, found.renamed_to
            return
        for entry in entries(answer.body):
            decision.known[entry.path] = entry
        for path, before in decision.known.items():
            if before.size is None or not (before.oid or before.sha256):
                raise UnansweredError(Status.SERVER_ERROR, f"{path}: the Hub does not state its size and hash")

    def _look_for(self, decision: Decision, deadline: Deadline) -> None:
        found = whereabouts(self._client, decision.listed.id, deadline)
        if found is None:
            decision.status = Status.FILE_MISSING
            decision.reason = "its files are refused although the repository is there"
        else:
            decision.status, decision.reason, decision.renamed_to = found.status, found.reason, found.renamed_to

    def _with_files(self, listed: Listed, deadline: Deadline) -> Listed:
        """A snapshot may not name files: one request to the API does."""
        url = self._client.api_url(listed.id, f"/tree/{listed.sha}?recursive=true")
        answer = self._client.read(url, limit=MAX_INDEX, deadline=deadline)
        return replace(listed, files=tuple(entries(answer.body)))


@dataclass(frozen=True)
class Whereabouts:
    """What became of a repository that is not there under its listed name."""

    status: Status
    reason: str
    renamed_to: str | None = None

    @classmethod
    def renamed(cls, location: str) -> Whereabouts:
        """Read the address that the API redirects to."""
        name = new_name(location)
        return cls(Status.RENAMED, f"renamed to {name}" if name else Status.RENAMED.meaning, name or None)


def whereabouts(client: HubClient, repo_id: str, deadline: Deadline) -> Whereabouts | None:
    """Ask the API, once, what became of a repository; None when it is there as ever."""
    try:
        answer = client.read(client.api_url(repo_id), limit=MAX_INDEX, deadline=deadline, follow=False)
    except UnansweredError as error:
        return Whereabouts(error.status, error.reason)
    return None if answer.location is None else Whereabouts.renamed(answer.location)


def new_name(location: str) -> str:
    """Return the repository that the API redirects to; empty when it is no repository's name."""
    name = "/".join(urlsplit(location).path.removeprefix("/api/models/").split("/")[:2])
    return name if is_repo_id(name) else ""


def shards(raw: bytes) -> list[str]:
    """Return the files an index names, in order. Raises `ModelError` for an index that cannot be followed safely."""
    try:
        names = sorted(set(json.loads(raw.decode("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(Status.INVALID_HEADER, f"{INDEX} names no shards ({type(error).__name__})") from error
    if not names or len(names) > MAX_SHARDS or not all(isinstance(n, str) and _SHARD.fullmatch(n) for n in names):
        raise ModelError(Status.INVALID_HEADER, f"{INDEX} names {len(names)} shards, or names no file could have")
    return names


def blob_sha1(content: bytes) -> str:
    """Return the name git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def is_other_content(content: bytes, etag: str) -> bool:
    """Return whether ``etag``, if it is a hash at all, is the hash of something else than ``content``."""
    if re.fullmatch(r"[0-9a-f]{40}", etag):
        return blob_sha1(content) != etag
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return hashlib.sha256(content).hexdigest() != etag
    return False


def _file_of(path: str, answer: Answer) -> File:
    etag = answer.etag
    return File(path, answer.size, etag if len(etag) == 40 else None, etag if len(etag) == 64 else None)


def entries(raw: bytes) -> list[File]:
    """Return the files in an answer of tree or paths-info. Raises `UnansweredError` when it cannot be read."""
    try:
        entries = json.loads(raw)
        found = []
        for entry in entries:
            if entry.get("type") == "directory":
                continue
            lfs = entry.get("lfs") or {}
            found.append(File(str(entry["path"]), int(entry["size"]), str(entry["oid"]), lfs.get("oid")))
        return found
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnansweredError(Status.SERVER_ERROR, f"the Hub's list of files cannot be read ({error})") from error
