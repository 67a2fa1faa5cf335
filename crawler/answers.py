"""Answers of the Hub and their bodies, read only as far as was asked for."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from crawler.failures import RetryError, UnansweredError
from workspace import Status

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_PIECE = 1 << 20  # bytes inflated at a time


@dataclass
class Answer:
    """One answer after redirects. ``headers`` are the last hop's; ``linked`` the ``x-`` headers of the first hop."""

    status: int
    headers: dict[str, str]
    linked: dict[str, str] = field(default_factory=dict)
    location: str | None = None  # set when a redirect was asked not to be followed
    body: bytes = b""

    @property
    def etag(self) -> str:
        """Name of the content: git blob sha1 (40 hex digits) or LFS sha256 (64); empty when neither was stated."""
        raw = self.linked.get("x-linked-etag") or self.headers.get("etag", "")
        etag = raw.removeprefix("W/").strip('"').lower()
        return etag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) else ""

    @property
    def span(self) -> tuple[int, int, int | None] | None:
        """First byte, last byte and size of the whole, of an answer in part; None when it is none."""
        found = _RANGE.fullmatch(self.headers.get("content-range", "")) if self.status == 206 else None
        return (int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])) if found else None

    @property
    def size(self) -> int | None:
        """Size of the whole file in bytes, from whichever header states it."""
        if (size := self.linked.get("x-linked-size", "")).isdecimal():
            return int(size)
        if self.span is not None:
            return self.span[2]
        length = self.headers.get("content-length", "")
        return int(length) if self.status == 200 and length.isdecimal() else None


def bounded(answer: Answer, chunks: Iterator[bytes], limit: int, start: int | None, stop: int | None) -> bytes:
    """Read what was asked for and no more: a body may be endless, and a server may ignore the range.

    Without a range, more than ``limit`` bytes raise `UnansweredError` (too_many_bytes). With one, bytes ``[start,
    stop)`` of the file come back, fewer only at its end; another answer is worth another try.
    """
    if start is None or stop is None:
        body = bytearray()
        for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise UnansweredError(Status.TOO_MANY_BYTES, f"an answer of more than {limit:,} bytes", answer.status)
        return bytes(body)
    at = answer.span[0] if answer.span else 0
    if at > start:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "the Hub sent another part than was asked for", 206))
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) >= stop - at:
            break
    part = bytes(body[start - at : stop - at])
    wanted = stop - start if answer.size is None else max(min(stop, answer.size) - start, 0)
    if len(part) < wanted:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "the Hub sent less than was asked for", answer.status))
    return part


def decoded(response: Any, encoding: str) -> Iterator[bytes]:
    """Yield the body of an httpcore response in pieces; what is compressed is inflated piece by piece, bombs too."""
    if encoding != "gzip":
        yield from response.iter_stream()
        return
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for chunk in response.iter_stream():
        piece = inflate.decompress(chunk, _PIECE)
        while piece:
            yield piece
            piece = inflate.decompress(inflate.unconsumed_tail, _PIECE)
    if not inflate.eof:
        raise zlib.error("a compressed answer ended too early")
