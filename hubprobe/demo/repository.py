"""A repository as the Hub keeps it: files with their git and LFS hashes, one commit, and a few facts about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

_GIT_ATTRIBUTES = """
.7z .bin .ckpt .gguf .h5 .joblib .msgpack .npz .onnx .ot .parquet .pb .pickle .pkl .pt .pth .safetensors .tar
.tflite .zip
"""
_LFS_SUFFIXES = frozenset(_GIT_ATTRIBUTES.split())  # the Hub's default .gitattributes
_LFS_SIZE = 10 * 1024**2  # bytes; larger files have to be LFS whatever their name
_CHUNK = 1024**2  # bytes


@dataclass(frozen=True)
class Content:
    """Bytes that can be read from anywhere: how many, and what returns those from start to stop (exclusive)."""

    size: int
    read: Callable[[int, int], bytes]

    @classmethod
    def of(cls, source: bytes | Path | Content) -> Content:
        """Return bytes in memory, or those of a file, which is read as it is asked for."""
        if isinstance(source, Content):
            return source
        if isinstance(source, bytes):
            return cls(len(source), lambda start, stop: source[start:stop])

        def read(start: int, stop: int) -> bytes:
            with source.open("rb") as file:
                file.seek(start)
                return file.read(stop - start)

        return cls(source.stat().st_size, read)


def padded(head: bytes, size: int) -> Content:
    """Return ``head`` followed by zeros up to ``size``: weights of any size that nobody had to store."""

    def read(start: int, stop: int) -> bytes:
        stop = min(stop, size)
        return head[start:stop] + bytes(max(stop - max(start, len(head)), 0))

    return Content(size, read)


Files = dict[str, "bytes | Path | Content"]
"""The contents of a repository by path."""


@dataclass(frozen=True)
class RepoFile:
    """One file."""

    path: str  # as the listing states it; may be hostile
    content: Content  # what is served
    lfs: bool  # whether it is kept in LFS, hence redirected to the CDN
    # what the listing says in place of the true hash; for a file that was corrupted since
    stated_sha256: str | None = None
    served: bool = True  # whether asking for it succeeds; a listed file that is not served answers 404

    @classmethod
    def of(cls, path: str, content: bytes | Path | Content, **changes: Any) -> RepoFile:
        """Return a file, in LFS where the Hub would keep it there."""
        content = Content.of(content)
        lfs = PurePosixPath(path).suffix.lower() in _LFS_SUFFIXES or content.size > _LFS_SIZE
        return cls(path, content, lfs, **changes)

    @property
    def size(self) -> int:
        """Bytes of the content."""
        return self.content.size

    @cached_property
    def sha256(self) -> str:
        """The sha256 the listing states, 64 hex digits."""
        if self.stated_sha256 is not None:
            return self.stated_sha256
        digest = hashlib.sha256()
        for chunk in self.chunks(0, self.size):
            digest.update(chunk)
        return digest.hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        """What git itself keeps of an LFS file."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The git blob sha1: of the content, or of the pointer of an LFS file."""
        return git_hash("blob", self.pointer if self.lfs else self.content.read(0, self.size)).hex()

    @property
    def etag(self) -> str:
        """Name of the content: sha256 for LFS, git blob sha1 otherwise."""
        return self.sha256 if self.lfs else self.oid

    def chunks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes ``start`` to ``stop`` in pieces."""
        for at in range(start, stop, _CHUNK):
            yield self.content.read(at, min(at + _CHUNK, stop))


@dataclass(frozen=True)
class PullRequest:
    """A pull request: a commit of its own under ``refs/pr/N``, with all the files the repository would then have."""

    num: int  # the N; discussions and pull requests are counted together
    author: str  # who opened it
    files: Mapping[str, RepoFile]  # by path
    title: str = "Adding `safetensors` variant of this model"  # of the discussion
    status: str = "open"  # open, closed, merged or draft

    @property
    def ref(self) -> str:
        """The git reference of its head."""
        return f"refs/pr/{self.num}"


@dataclass
class Repo:
    """A repository with one commit on ``main``, and one on each pull request."""

    id: str  # owner/name
    files: Mapping[str, RepoFile]  # by path
    # what is not in its files: ``downloads``, ``likes``, ``createdAt``, ``gated``, ``disabled`` ... Values replace
    # those the row would have, so that a fact may also make the row wrong on purpose
    facts: dict[str, Any] = field(default_factory=dict)
    gone: bool = False  # listed, but every other request says there is no such repository
    renamed_to: str | None = None  # its new id; API requests are redirected there
    pulls: tuple[PullRequest, ...] = ()  # its pull requests

    @classmethod
    def of(cls, repo_id: str, files: Files, **changes: Any) -> Repo:
        """Return a repository of these files."""
        return cls(repo_id, {path: RepoFile.of(path, content) for path, content in files.items()}, **changes)

    @classmethod
    def from_folder(cls, repo_id: str, folder: Path, facts: dict[str, Any] | None = None) -> Repo:
        """Return the repository of all files below ``folder``, hidden ones and links out of it excepted."""
        files: Files = {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            hidden = any(part.startswith(".") and part != ".gitattributes" for part in name.parts)
            if path.is_file() and not hidden and path.resolve().is_relative_to(folder.resolve()):
                files[name.as_posix()] = path
        return cls.of(repo_id, files, facts=facts or {})

    @cached_property
    def sha(self) -> str:
        """The commit: a git commit object over the real tree, with a fixed author and date. Same files, same sha."""
        tree = git_tree({path: bytes.fromhex(file.oid) for path, file in self.files.items()}).hex()
        who = "hubprobe <demo@example.invalid> 1700000000 +0000"
        return git_hash("commit", f"tree {tree}\nauthor {who}\ncommitter {who}\n\nUpload model\n".encode()).hex()

    @cached_property
    def heads(self) -> dict[str, Repo]:
        """What the repository would be with each of its pull requests, by reference and by commit."""
        made = [(pull.ref, Repo(self.id, pull.files, self.facts)) for pull in self.pulls]
        return {name: head for ref, head in made for name in (ref, head.sha)}

    def text(self, path: str) -> str:
        """Return a small file as text; empty when there is none."""
        file = self.files.get(path)
        return file.content.read(0, _CHUNK).decode("utf-8", "replace") if file else ""


def git_hash(kind: str, data: bytes) -> bytes:
    """Return the 20-byte name git gives an object."""
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).digest()


def git_tree(blobs: Mapping[str, bytes]) -> bytes:
    """Return the name of the tree object that holds ``blobs`` (object names by path)."""
    entries: dict[str, tuple[bytes, bytes]] = {}
    folders: dict[str, dict[str, bytes]] = {}
    for path, oid in blobs.items():
        first, slash, rest = path.partition("/")
        if slash and first and rest:
            folders.setdefault(first, {})[rest] = oid
        else:
            entries[path] = (b"100644", oid)
    for name, inner in folders.items():
        entries[name + "/"] = (b"40000", git_tree(inner))  # git sorts folders as if they ended in a slash
    lines = [
        mode + b" " + name.rstrip("/").encode("utf-8", "surrogatepass") + b"\0" + oid
        for name, (mode, oid) in sorted(entries.items())
    ]
    return git_hash("tree", b"".join(lines))
