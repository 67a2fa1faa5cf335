"""Datasets that clients create, fill and read back: what `HfApi.create_repo` and `upload_folder` need.

Nothing is kept beyond the server's life. Any token may write; a private dataset is read with any token. The Xet
protocol is not spoken: clients that would use it are told not to by ``HF_HUB_DISABLE_XET=1``, and use LFS.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import yaml  # type: ignore[import-untyped]

from hubprobe.demo.listing import FolderCatalog, RefusedError, not_found
from hubprobe.demo.protocol import Protocol, content, error
from hubprobe.demo.repository import Content, Repo, RepoFile, padded
from hubprobe.demo.wire import Request, Response

PART = 8 * 1024**2
"""Bytes from which on a file is uploaded in parts of this size: a request's body is held in memory."""

_ATTRIBUTES = b"*.parquet filter=lfs diff=lfs merge=lfs -text\n*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class Datasets:
    """The datasets of a hub, given what returns its address and that of its CDN."""

    def __init__(self, endpoint: Callable[[], str], cdn: Callable[[], str]) -> None:
        self._endpoint, self._cdn = endpoint, cdn
        self._commits: dict[str, list[Repo]] = {}  # newest last
        self._blobs: dict[str, bytes] = {}  # by sha256
        self._parts: dict[str, dict[int, bytes]] = {}  # of uploads under way, by sha256
        self._lock = threading.Lock()

    def answers(self, request: Request) -> bool:
        """Return whether a request to the endpoint is about datasets, or creates one."""
        parts = request.segments
        return (
            parts[0] == "datasets"
            or parts[:2] in (("api", "datasets"), ("api", "validate-yaml"))
            or parts[:3] in (("api", "repos", "create"), ("api", "resolve-cache", "datasets"))
        )

    def answer(self, request: Request) -> Response:
        """Return the answer of the endpoint."""
        try:
            with self._lock:
                return self._route(request)
        except RefusedError as refusal:
            return error(refusal)
        except (ValueError, KeyError, TypeError, binascii.Error) as problem:
            return error(RefusedError(400, "", f"Invalid body: {problem!r}"))

    def deliver(self, request: Request) -> Response:
        """Return the answer of the CDN, which takes and gives files by their sha256: ``/datasets/...``."""
        parts = request.segments
        if request.method == "PUT" and len(parts) == 4 and parts[1] == "parts" and parts[3].isdecimal():
            with self._lock:
                self._parts.setdefault(parts[2], {})[int(parts[3])] = request.body
            return Response(200, headers=[("ETag", hashlib.md5(request.body, usedforsecurity=False).hexdigest())])
        if request.method == "PUT" and len(parts) == 3 and parts[1] == "whole":
            with self._lock:
                return self._keep(parts[2], request.body)
        if request.method in ("GET", "HEAD") and len(parts) == 5 and parts[1] == "repos" and parts[4] in self._blobs:
            return content(request, RepoFile(parts[4], Content.of(self._blobs[parts[4]]), lfs=True))
        return error(RefusedError(403, "", "Access denied"))

    def _keep(self, sha256: str, data: bytes) -> Response:
        if hashlib.sha256(data).hexdigest() != sha256:
            return error(RefusedError(400, "", "The content does not have the sha256 that was announced"))
        self._blobs[sha256] = data
        return Response(200, headers=[("ETag", f'"{sha256}"')])

    def _route(self, request: Request) -> Response:
        parts = request.segments
        if parts == ("api", "repos", "create"):
            return self._create(request)
        if parts == ("api", "validate-yaml"):
            return _validated(json.loads(request.body)["content"])
        if parts[0] == "datasets" and len(parts) > 4 and parts[2].endswith(".git") and parts[3:5] == ("info", "lfs"):
            return self._lfs(request, f"{parts[1]}/{parts[2].removesuffix('.git')}", parts[5:])
        if parts[:2] == ("api", "datasets") and len(parts) == 6 and parts[4] in ("preupload", "commit"):
            repo = self._writable(request, f"{parts[2]}/{parts[3]}")
            if parts[5] != "main":
                raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {parts[5]}")
            return self._preupload(request, repo) if parts[4] == "preupload" else self._commit(request, repo)
        return self._read(request)

    def _create(self, request: Request) -> Response:
        self._check_token(request)
        asked = json.loads(request.body)
        repo_id = f"{asked.get('organization') or 'demo'}/{asked['name']}"
        if asked.get("type") != "dataset" or not _NAME.fullmatch(repo_id):
            raise RefusedError(400, "", "This hub makes datasets only, named OWNER/NAME")
        url = {"url": f"{self._endpoint()}/datasets/{repo_id}"}
        if repo_id in self._commits:
            return Response.json({"error": "You already created this dataset repo", **url}, 409)
        facts = {"private": asked.get("visibility") == "private" or asked.get("private") is True}
        self._commits[repo_id] = [Repo.of(repo_id, {".gitattributes": _ATTRIBUTES}, facts=facts)]
        return Response.json(url)

    def _preupload(self, request: Request, repo: Repo) -> Response:
        files = []
        for asked in json.loads(request.body)["files"]:
            path, old = asked["path"], repo.files.get(asked["path"])
            mode = "lfs" if RepoFile.of(path, padded(b"", int(asked["size"]))).lfs else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old.etag if old else None})
        return Response.json({"files": files})

    def _lfs(self, request: Request, repo_id: str, rest: tuple[str, ...]) -> Response:
        asked = json.loads(request.body)
        if rest == ("complete",):  # comes without the token, as the parts do: what counts is the commit, which has one
            parts = self._parts.pop(asked["oid"], {})
            return self._keep(asked["oid"], b"".join(parts[number] for number in sorted(parts)))
        self._writable(request, repo_id)
        if rest == ("objects", "batch"):
            objects = [self._upload_of(repo_id, one["oid"], int(one["size"])) for one in asked["objects"]]
            return Response.json({"transfer": "basic", "objects": objects})
        if rest == ("objects", "verify") and asked["oid"] in self._blobs:
            return Response.json({})
        raise RefusedError(404, "", "There is no such object")

    def _upload_of(self, repo_id: str, oid: str, size: int) -> dict[str, Any]:
        """Say where a file goes: nowhere when it is here already, whole when it is small, in parts otherwise."""
        if oid in self._blobs:
            return {"oid": oid, "size": size}
        lfs = f"{self._endpoint()}/datasets/{repo_id}.git/info/lfs"
        upload: dict[str, Any] = {"href": f"{self._cdn()}/datasets/whole/{oid}"}
        if size > PART:
            count = -(-size // PART)
            urls = {f"{n:05d}": f"{self._cdn()}/datasets/parts/{oid}/{n}" for n in range(1, count + 1)}
            upload = {"href": f"{lfs}/complete", "header": {"chunk_size": str(PART), **urls}}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{lfs}/objects/verify"}}}

    def _commit(self, request: Request, repo: Repo) -> Response:
        files = dict(repo.files)
        for line in request.body.splitlines():
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                if value.get("parentCommit") not in (None, repo.sha):
                    raise RefusedError(412, "", "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = RepoFile(value["path"], Content.of(data), lfs=False)
            elif key == "lfsFile":
                if value["oid"] not in self._blobs:
                    raise RefusedError(400, "", f"{value['path']} was not uploaded")
                files[value["path"]] = RepoFile(value["path"], Content.of(self._blobs[value["oid"]]), lfs=True)
            elif key == "deletedFile":
                files.pop(value["path"], None)
            else:
                raise RefusedError(400, "", f"Unknown operation: {key}")
        made = Repo(repo.id, files, facts=repo.facts)
        self._commits[repo.id].append(made)
        url = f"{self._endpoint()}/datasets/{repo.id}/commit/{made.sha}"
        return Response.json({"success": True, "commitOid": made.sha, "commitUrl": url, "hookOutput": ""})

    def _read(self, request: Request) -> Response:
        """Answer what is asked of any repository: the protocol of models, over one commit of one dataset."""
        parts = request.segments
        api = parts[0] == "api"
        at = 3 if parts[:2] == ("api", "resolve-cache") else 2 if api else 1
        if len(parts) < at + 2:
            raise not_found()
        repo_id, rest = f"{parts[at]}/{parts[at + 1]}", parts[at + 2 :]
        revision = rest[0] if at == 3 and rest else rest[1] if len(rest) > 1 else "main"
        repo = self._at(request, repo_id, revision)
        head = ("api", "resolve-cache", "models") if at == 3 else ("api", "models") if api else ()
        segments = (*head, *parts[at:])
        path = "/" + "/".join(segments)
        query = request.target.partition("?")[2]
        asked = replace(request, segments=segments, path=path, target=f"{path}?{query}" if query else path)
        reader = Protocol(FolderCatalog([repo]), cdn=lambda _: f"{self._cdn()}/datasets")
        response = reader.answer(asked)
        models = "/api/resolve-cache/models/"
        response.headers = [
            (name, value.replace(models, "/api/resolve-cache/datasets/") if name == "Location" else value)
            for name, value in response.headers
        ]
        return response

    def _at(self, request: Request, repo_id: str, revision: str) -> Repo:
        commits = self._commits.get(repo_id)
        if not commits or (commits[-1].facts.get("private") and "authorization" not in request.headers):
            raise not_found()
        return next((repo for repo in reversed(commits) if repo.sha == revision), commits[-1])

    def _writable(self, request: Request, repo_id: str) -> Repo:
        self._check_token(request)
        if repo_id not in self._commits:
            raise not_found()
        return self._commits[repo_id][-1]

    @staticmethod
    def _check_token(request: Request) -> None:
        if not request.headers.get("authorization", "").removeprefix("Bearer ").strip():
            raise RefusedError(401, "", "Invalid username or password.")


def _validated(card: str) -> Response:
    """Answer as the Hub does before a commit of a README.md: errors of its front matter, or none."""
    found = re.match(r"\s*---\r?\n(.*?)\r?\n---", card, re.DOTALL)
    try:
        data = yaml.safe_load(found[1]) if found else {}
        problem = "" if isinstance(data, dict) else "the metadata is not a mapping"
    except yaml.YAMLError as broken:
        problem = str(broken)
    errors = [{"message": f"YAML metadata: {problem}"}] if problem else []
    return Response.json({"errors": errors, "warnings": []}, 400 if errors else 200)
