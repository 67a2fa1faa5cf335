"""One file, pinned, resumed where it broke off, and not handed on before its hash is right."""

from __future__ import annotations

import errno
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crawler.hub.client import Answer, HubClient
from crawler.hub.errors import RetryError, UnansweredError
from crawler.hub.transport import Deadline, exchange
from crawler.listing.rows import File
from workspace import ModelError, Status

logger = logging.getLogger(__name__)

WHOLE_TRIES = 2  # a file of the wrong hash is fetched once more: the first may have been damaged on its way
PIECE_SECONDS = 3_600.0  # one answer's body; a silent connection is cut long before


PART = ".part"
"""What a file's name ends in until every file of its model is here and verified."""


def download(client: HubClient, url: str, file: File, part: Path, deadline: Deadline) -> None:
    """Bring ``file`` to ``part`` (whose folder exists): size and hash are those its repository states.

    What has arrived already is continued, by this process or the next one.
    Raises `ModelError` (corrupt_file, disk_full) and `UnansweredError`.
    """
    try:
        for _ in range(WHOLE_TRIES):
            _complete(client, url, file, part, deadline)
            if _has_hash(part, file):
                return
            part.unlink()
            logger.warning("%s: the bytes that came do not have the stated hash", file.path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(Status.DISK_FULL, f"no space for {file.path} ({file.size or 0:,} bytes)") from error
        raise
    raise ModelError(
        Status.CORRUPT_FILE, f"{file.path} came {WHOLE_TRIES} times with another content than its repository states"
    )


def _complete(client: HubClient, url: str, file: File, part: Path, deadline: Deadline) -> None:
    def once() -> None:
        have = part.stat().st_size if part.exists() else 0
        if file.size is not None and have > file.size:
            part.unlink()
            have = 0
        if have and have == file.size:
            return
        headers = {"range": f"bytes={have}-"} if have else {}
        seconds = max(min(PIECE_SECONDS, deadline.left), 0.01)
        with exchange(seconds), client.open(url, headers=headers, deadline=deadline) as (answer, chunks):
            _append(part, have, answer, chunks, file)

    client.retrying(once, deadline=deadline, what=file.path)


def _append(part: Path, have: int, answer: Answer, chunks: Iterator[bytes], file: File) -> None:
    start = answer.span[0] if answer.span else 0  # a server that ignores the range sends everything again
    if start > have:
        problem = UnansweredError(Status.SERVER_ERROR, f"{file.path}: the Hub sent another part than was asked for")
        raise RetryError(problem)
    with part.open("r+b" if start else "wb") as out:
        out.seek(start)
        out.truncate()
        for chunk in chunks:
            start += len(chunk)
            if file.size is not None and start > file.size:
                raise ModelError(Status.CORRUPT_FILE, f"{file.path} is longer than its repository states")
            out.write(chunk)
    if file.size is not None and start < file.size:
        # The connection was closed in order, so only the length tells: worth another try.
        problem = UnansweredError(Status.CORRUPT_FILE, f"{file.path} ends after {start:,} of {file.size:,} bytes")
        raise RetryError(problem)


def _has_hash(path: Path, file: File) -> bool:
    digest: Any
    if file.sha256:
        digest, wanted = hashlib.sha256(), file.sha256
    else:
        digest, wanted = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False), file.oid or ""
    with path.open("rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return bool(digest.hexdigest() == wanted)
