"""What is believed of an answer about a repository, and what is asked again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from crawler.decide.repository import (
    Whereabouts,
    ask_offer,
    ask_row,
    entries,
    has_hash,
    is_file,
    new_name,
)  # fmt: skip
from crawler.hub.client import Answer
from crawler.hub.transport import RetryError, UnansweredError
from crawler.listing.rows import File
from workspace import Status

BODY = b"hello\n"
SHA1, SHA256 = "ce013625030ba8dba906f756967f9e9ca394464a", hashlib.sha256(BODY).hexdigest()  # as `git hash-object` says


def answer(body: bytes = BODY, etag: str = "", size: int | None = None) -> Answer:
    linked = {"x-repo-commit": "c" * 40} | ({"x-linked-etag": etag} if etag else {})
    headers = {"content-length": str(len(body) if size is None else size)}
    return Answer(200, headers, linked, body=body)


def test_a_body_is_known_by_gits_hash_or_sha256() -> None:
    assert has_hash(File("x", 6, SHA1, None), 6, [BODY])
    assert has_hash(File("x", 6, SHA1, None), 6, [BODY[:2], BODY[2:]])
    assert has_hash(File("x", 6, "0" * 40, SHA256), 6, [BODY])  # sha256 is the stronger of the two
    assert not has_hash(File("x", 6, SHA1, None), 7, [BODY, b"x"])


STATED = File("x", 6, SHA1, None)


@pytest.mark.parametrize(
    ("given", "stated", "status"),
    [
        (answer(etag=SHA1), None, None),
        (answer(etag=SHA256), None, None),
        (answer(), STATED, None),
        (answer(), None, Status.SERVER_ERROR),  # it names no hash, and nobody else does
        (answer(b"hell"), STATED, Status.SERVER_ERROR),  # nor has it the size
        (answer(b"hellO\n"), STATED, Status.CORRUPT_FILE),
        (answer(b"hellO\n", etag=SHA1), STATED, Status.CORRUPT_FILE),
    ],
)
def test_a_file_is_believed_by_hash_and_size(given: Answer, stated: File | None, status: Status | None) -> None:
    if status is None:
        is_file(given, stated, whole=True)
        return
    with pytest.raises(RetryError) as caught:
        is_file(given, stated, whole=True)
    assert caught.value.problem.status is status


GOOD = {"path": "a", "size": 1, "oid": "0" * 40}


@pytest.mark.parametrize(
    "changed",
    [{"size": -1}, {"size": True}, {"size": 2**63}, {"path": 5}, {"oid": "0" * 39}, {"oid": None},
     {"lfs": {"oid": "0" * 63}}, {"lfs": 5}],
)  # fmt: skip
def test_a_list_of_files_is_read_whole_or_not_at_all(changed: dict[str, Any]) -> None:
    folder = {"type": "directory", "path": "d"}
    assert entries(json.dumps([folder, GOOD]).encode()) == [File("a", 1, "0" * 40, None)]
    with pytest.raises(UnansweredError, match="cannot be read"):
        entries(json.dumps([GOOD, GOOD | changed]).encode())


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("https://h/api/models/a/b", "a/b"), ("/api/models/a/b/revision/main", "a/b"),
        ("/api/models/gpt/tree/x", "gpt"),
        ("/api/models/", ""), ("/api/models/../x", ""),
    ],
)  # fmt: skip
def test_the_name_in_a_redirect(path: str, name: str) -> None:
    assert new_name(path) == name


class Hub:
    """Answers what it is given for a part of the address; an exception is raised."""

    def __init__(self, **answers: Any) -> None:
        self.answers, self.asked = answers, list[str]()

    def api_url(self, repo_id: str, rest: str) -> str:
        return f"https://h/api/models/{repo_id}{rest}"

    def read(self, url: str, *, check: Any, **_: Any) -> Answer:
        self.asked.append(url)
        found = self.answers[
            "expand" if "expand=" in url else url.partition("/a/b/")[2].partition("/")[0].partition("?")[0]
        ]
        if isinstance(found, Exception):
            raise found
        made = Answer(200, {}, body=json.dumps(found).encode())
        try:
            check(made)
        except RetryError as error:
            raise error.problem from error
        return made


def refused(http: int) -> UnansweredError:
    return UnansweredError(Status.SERVER_ERROR, "no", http)


def test_a_hub_that_refuses_fields_is_asked_for_its_own() -> None:
    hub = Hub(expand=refused(400), revision={"id": "a/b"})
    assert ask_row(hub, "a/b", None) == {"id": "a/b"}  # type: ignore[arg-type]
    assert len(hub.asked) == 2
    for error in (refused(500), refused(404)):
        found = ask_row(Hub(expand=error), "a/b", None)  # type: ignore[arg-type]
        assert (type(found), found.status) == (Whereabouts, Status.SERVER_ERROR)
    assert ask_row(Hub(expand=[1]), "a/b", None).reason == "an answer that is no JSON object"  # type: ignore[arg-type]


PULL = {"discussions": [{"num": 3, "author": {"name": "bot"}, "isPullRequest": True, "status": "open", "title": "x"}]}


class Row:
    id, paths = "a/b", ("config.json", "pytorch_model.bin")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ({"discussions": refused(501)}, "no pull requests can be seen"),
        ({"discussions": refused(403)}, "no pull requests can be seen"),
        ({"discussions": {"discussions": []}}, "no conversion of it is offered"),
        ({"discussions": {"discussions": 7}}, "no conversion of it is offered"),
        ({"discussions": PULL, "revision": {"sha": "0" * 40}}, "what refs/pr/3 holds cannot be read"),
        ({"discussions": PULL, "revision": {"sha": "0" * 40, "siblings": [7]}}, "what refs/pr/3 holds cannot be read"),
        ({"discussions": PULL, "revision": {"sha": "main", "siblings": []}}, "refs/pr/3 names no commit"),
    ],
)
def test_an_offer_that_cannot_be_used_is_said(answers: dict[str, Any], why: str) -> None:
    assert ask_offer(Hub(**answers), Row, ["bot"], None) == why  # type: ignore[arg-type]


def test_an_offer_that_is_not_answered_is_asked_again() -> None:
    with pytest.raises(UnansweredError):
        ask_offer(Hub(discussions=refused(503)), Row, ["bot"], None)  # type: ignore[arg-type]
