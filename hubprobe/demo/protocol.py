"""The Hub's wire protocol: which request gets which answer. Ports, limits and logs are `server`'s business."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from hubprobe.demo.listing import (
    EXPAND,
    SORTS,
    Cursor,
    FolderCatalog,
    ModelsQuery,
    RefusedError,
    Row,
    info_fields,
    list_fields,
    not_found,
    parse_parameters,
    project,
)
from hubprobe.demo.repository import Repo, RepoFile
from hubprobe.demo.wire import Request, Response

_VERBS = frozenset({"revision", "tree", "paths-info", "refs", "commits", "discussions", "resolve", "raw"})
_PAGES = (1000, 1000)  # rows of a page of a list, and of a tree
_EXPANDED_PAGE = 50  # entries of a tree page with expand=true
_IMMUTABLE = ("Cache-Control", "public, max-age=31536000, immutable")


class Protocol:
    """Answers requests from a catalog; ``cdn`` returns its address, ``pages`` are rows of a list's and a tree's."""

    def __init__(self, catalog: FolderCatalog, cdn: Callable[[Request], str], pages: tuple[int, int] = _PAGES) -> None:
        self.catalog, self._cdn = catalog, cdn
        self._page_size, self._tree_page_size = pages

    def answer(self, request: Request) -> Response:
        """Return the answer of the endpoint itself."""
        try:
            return self._route(request)
        except RefusedError as refusal:
            return error(refusal)

    def deliver(self, request: Request) -> Response:
        """Return the answer of the CDN, which knows files by repository and hash and nobody by name."""
        try:
            if len(request.segments) != 4 or request.segments[0] != "repos":
                raise RefusedError(403, "", "Access denied")
            repo = self.catalog.find(f"{request.segments[1]}/{request.segments[2]}")
            trees = (repo.files, *(pull.files for pull in repo.pulls))
            files = (file for tree in trees for file in tree.values())
            file = next((f for f in files if f.lfs and f.sha256 == request.segments[3]), None)
            if file is None:
                raise RefusedError(403, "", "Access denied")
            return content(request, file)
        except RefusedError as refusal:
            return error(refusal)

    def _route(self, request: Request) -> Response:
        parts = request.segments
        if parts[:2] == ("api", "models"):
            if len(parts) == 2:
                return self._list(request)
            repo_id, rest = _split(parts[2:])
            repo = self.catalog.find(repo_id)
            if repo.renamed_to is not None:
                tail = request.target.split("/api/models/", 1)[1].removeprefix(quote(repo_id))
                return Response(307, headers=[("Location", f"/api/models/{quote(repo.renamed_to)}{tail}")])
            if repo.facts.get("disabled"):
                raise RefusedError(403, "", "Access to this resource is disabled.")
            return self._model(request, repo, rest)
        if parts[:3] == ("api", "resolve-cache", "models") and len(parts) > 6:
            return self._file(request, f"{parts[3]}/{parts[4]}", parts[5], "/".join(parts[6:]), "resolve-cache")
        for at in (1, 2):
            if len(parts) > at + 2 and parts[at] in ("resolve", "raw"):
                return self._file(request, "/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]), parts[at])
        if parts[0] == "api":
            raise RefusedError(404, "", "Sorry, we can't find the page you are looking for.")
        raise not_found()

    def _list(self, request: Request) -> Response:
        sort = request.first("sort", "createdAt")
        if sort not in SORTS:
            raise RefusedError(400, "", f"Invalid sort: must be one of {', '.join(SORTS)}")
        gated = request.first("gated")
        query = ModelsQuery(
            fields=list_fields(
                request.flag("full"), request.flag("config"), request.flag("cardData"), _expand(request, "list")
            ),
            filters=tuple(
                tag for value in request.query.get("filter", []) + request.query.get("library", []) for tag in
                value.split(",") if tag
            ),
            pipeline_tag=request.first("pipeline_tag"),
            author=request.first("author"),
            search=request.first("search"),
            gated=request.flag("gated") if gated else None,
            parameters=parse_parameters(request.first("num_parameters")),
            sort=sort,
        )  # fmt: skip
        after = Cursor.decode(request.first("cursor"), sort) if request.first("cursor") else None
        rows, last = self.catalog.page(query, self._limit(request), after)
        return Response.json(rows, headers=_next(request, last.encode() if last else None))

    def _limit(self, request: Request) -> int:
        text = request.first("limit", str(self._page_size))
        if not re.fullmatch(r"\d{1,9}", text) or int(text) == 0:
            raise RefusedError(400, "", "Invalid limit: must be a positive number")
        return min(int(text), self._page_size)

    def _model(self, request: Request, repo: Repo, rest: tuple[str, ...]) -> Response:
        verb = rest[0] if rest else "revision"
        if verb == "refs":
            return Response.json(_refs(request, repo))
        if verb == "discussions":
            return Response.json(_discussions(request, repo))
        main, repo = repo, _at(repo, rest[1] if len(rest) > 1 else "main")
        if verb == "revision":
            row = self._info(request, repo, proposed=repo is not main)
            return Response.json(row, headers=[("X-Repo-Commit", repo.sha)])
        if verb == "tree":
            return self._tree(request, repo, "/".join(rest[2:]))
        if verb == "paths-info" and request.method == "POST":
            return _paths_info(request, repo)
        if verb == "commits":
            when = self.catalog.record(repo)["lastModified"]
            author = {"user": repo.id.split("/", maxsplit=1)[0]}
            return Response.json(
                [{"id": repo.sha, "title": "Upload model", "message": "", "authors": [author], "date": when}]
            )
        raise RefusedError(404, "", "Sorry, we can't find the page you are looking for.")

    def _info(self, request: Request, repo: Repo, *, proposed: bool) -> Row:
        expand = _expand(request, "info")
        full = self.catalog.record(repo)
        if proposed:
            full = full | {"sha": repo.sha, "siblings": [{"rfilename": path} for path in sorted(repo.files)]}
        row = project(full, info_fields(expand))
        if request.flag("blobs") and not expand:
            row["siblings"] = [_sibling(repo.files[path]) for path in sorted(repo.files)]
        if request.flag("securityStatus"):
            row["securityRepoStatus"] = {"scansDone": True, "filesWithIssues": []}
        return row

    def _tree(self, request: Request, repo: Repo, folder: str) -> Response:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, Row] = {}
        for path in sorted(repo.files):
            if not path.startswith(prefix):
                continue
            inner = path.removeprefix(prefix).split("/")
            for depth in range(1, len(inner)):
                name = prefix + "/".join(inner[:depth])
                if name.strip("/") and (request.flag("recursive") or depth == 1):
                    entries.setdefault(name, {"type": "directory", "oid": "0" * 40, "size": 0, "path": name})
            if request.flag("recursive") or len(inner) == 1:
                entries[path] = _entry(repo, repo.files[path], request.flag("expand"))
        if folder and not entries:
            raise RefusedError(404, "EntryNotFound", f'{folder} does not exist on "main"')
        names = sorted(entries)
        after = _decode_after(request.first("cursor"))
        names = [name for name in names if name > after]
        size = min(self._tree_page_size, _EXPANDED_PAGE) if request.flag("expand") else self._tree_page_size
        more = base64.urlsafe_b64encode(names[size - 1].encode()).decode() if len(names) > size else None
        return Response.json([entries[name] for name in names[:size]], headers=_next(request, more))

    def _file(self, request: Request, repo_id: str, revision: str, path: str, kind: str) -> Response:
        repo = self.catalog.find(repo_id)
        if repo.facts.get("disabled"):
            raise RefusedError(403, "", "Access to this resource is disabled.")
        if repo.facts.get("gated"):
            signed_in = "authorization" in request.headers
            hint = "your request to it is not granted" if signed_in else "log in and ask its author"
            status = 403 if signed_in else 401
            raise RefusedError(status, "GatedRepo", f"Access to model {repo.id} is restricted: {hint}.")
        repo = _at(repo, revision)
        file = repo.files.get(path)
        commit = ("X-Repo-Commit", repo.sha)
        if file is None or not file.served:
            return error(RefusedError(404, "EntryNotFound", "Entry not found"), [commit])
        if kind == "raw" and file.lfs:
            file = RepoFile.of(path + ".pointer", file.pointer)
        if kind != "resolve":
            answer = content(request, file)
            answer.headers.append(commit)
            return answer
        linked = [commit, ("X-Linked-Size", str(file.size)), ("X-Linked-Etag", f'"{file.etag}"')]
        if not file.lfs:
            where = f"/api/resolve-cache/models/{quote(repo.id)}/{repo.sha}/{quote(path)}"
            return Response(307, f"Temporary Redirect. Redirecting to {where}".encode(), [("Location", where), *linked])
        signed = urlencode({"Expires": "1800000000", "Signature": "demo"})
        where = f"{self._cdn(request)}/repos/{quote(repo.id)}/{file.sha256}?{signed}"
        ranges = ("Accept-Ranges", "bytes")
        return Response(302, b"Found. Redirecting to the CDN", [("Location", where), ranges, *linked])


def error(refusal: RefusedError, headers: Iterable[tuple[str, str]] = ()) -> Response:
    """Return an error the way the Hub words it."""
    named = [("X-Error-Message", refusal.message), *headers]
    if refusal.code:
        named.append(("X-Error-Code", refusal.code))
    if refusal.status == 401:
        named.append(("WWW-Authenticate", 'Bearer realm="Authentication required", charset="UTF-8"'))
    return Response.json({"error": refusal.message}, refusal.status, named)


def content(request: Request, file: RepoFile) -> Response:
    """Return a file's bytes, or the part of them that a Range header asks for."""
    size = file.size
    headers = [("ETag", f'"{file.etag}"'), ("Accept-Ranges", "bytes"), _IMMUTABLE]
    kind = "application/octet-stream" if file.lfs else "text/plain; charset=utf-8"
    headers.append(("Content-Type", kind))
    span = _span(request.headers.get("range", ""), size)
    if span is None:
        return Response(200, file.chunks(0, size), headers, length=size)
    start, stop = span
    if start >= size:
        return Response(416, b"", [*headers, ("Content-Range", f"bytes */{size}")])
    headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
    return Response(206, file.chunks(start, stop), headers, length=stop - start)


def _span(text: str, size: int) -> tuple[int, int] | None:
    """Return the bytes of a single-range header; None for no range, or one to be ignored (several, or malformed)."""
    span = re.fullmatch(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", text)
    if not span or span[1] == span[2] == "":
        return None
    if not span[1]:
        return (max(size - int(span[2]), 0), size) if int(span[2]) else (size, size)
    start, last = int(span[1]), int(span[2] or size - 1)
    return None if span[2] and last < start else (start, min(last + 1, size))


def _split(parts: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Split an id off a path: ``owner/name``, or one part for the few old repositories without an owner."""
    if len(parts) == 1 or parts[1] in _VERBS:
        return parts[0], parts[1:]
    return f"{parts[0]}/{parts[1]}", parts[2:]


def _at(repo: Repo, revision: str) -> Repo:
    """Return the repository as it is at a revision: a branch, a pull request or a commit."""
    if revision in ("main", "HEAD", "refs/heads/main", repo.sha):
        return repo
    if revision in repo.heads:
        return repo.heads[revision]
    raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def _refs(request: Request, repo: Repo) -> Row:
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.sha}
    refs: Row = {"branches": [branch], "tags": [], "converts": []}
    if request.flag("include_prs"):
        refs["pullRequests"] = [
            {"name": str(pull.num), "ref": pull.ref, "targetCommit": repo.heads[pull.ref].sha} for pull in repo.pulls
        ]
    return refs


def _discussions(request: Request, repo: Repo) -> Row:
    """Return the discussions asked for, all on one page, the newest first; here all of them are pull requests."""
    author, status = request.first("author"), request.first("status", "all")
    wanted = [
        pull
        for pull in sorted(repo.pulls, key=lambda pull: pull.num, reverse=True)
        if author in ("", pull.author) and status in ("all", pull.status) and request.first("type") != "discussion"
    ]
    listed = [
        {
            "num": pull.num,
            "author": {"name": pull.author, "fullname": pull.author, "type": "user", "isPro": False, "isHf": False},
            "repo": {"name": repo.id, "type": "model"},
            "title": pull.title,
            "status": pull.status,
            "createdAt": "2023-11-14T22:13:20.000Z",
            "isPullRequest": True,
            "numComments": 1,
        }
        for pull in wanted
    ]
    return {"discussions": listed if request.first("p", "0") == "0" else [], "count": len(listed), "start": 0}


def _expand(request: Request, what: str) -> list[str]:
    asked = [name for value in request.query.get("expand", []) for name in value.split(",")]
    for name in asked:
        if name not in EXPAND[what]:
            raise RefusedError(400, "", f'"expand" must be one of {", ".join(sorted(EXPAND[what]))}')
    return asked


def _next(request: Request, cursor: str | None) -> list[tuple[str, str]]:
    """Return the Link header: an absolute address, the question as it was asked, and where to go on."""
    if cursor is None:
        return []
    query = [(name, value) for name, values in request.query.items() for value in values if name != "cursor"]
    where = f"http://{request.headers.get('host', '')}{request.path}?{urlencode([*query, ('cursor', cursor)])}"
    return [("Link", f'<{where}>; rel="next"')]


def _decode_after(cursor: str) -> str:
    try:
        return base64.urlsafe_b64decode(cursor).decode()
    except ValueError as problem:
        raise RefusedError(400, "", "Invalid cursor") from problem


def _entry(repo: Repo, file: RepoFile, expand: bool) -> Row:
    entry: Row = {"type": "file", "oid": file.oid, "size": file.size, "path": file.path}
    if file.lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    if expand:
        entry["lastCommit"] = {"id": repo.sha, "title": "Upload model", "date": "2023-11-14T22:13:20.000Z"}
        entry["securityFileStatus"] = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return entry


def _sibling(file: RepoFile) -> Row:
    sibling: Row = {"rfilename": file.path, "blobId": file.oid, "size": file.size}
    if file.lfs:
        sibling["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": len(file.pointer)}
    return sibling


def _paths_info(request: Request, repo: Repo) -> Response:
    try:
        if "json" in request.headers.get("content-type", ""):
            asked: Any = json.loads(request.body)
            paths, expand = list(asked["paths"]), bool(asked.get("expand"))
        else:
            form = parse_qs(request.body.decode())
            paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise RefusedError(400, "", "Invalid body: paths is a list of file names") from problem
    return Response.json([_entry(repo, repo.files[path], expand) for path in paths if path in repo.files])
