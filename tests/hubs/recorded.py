"""The Hub and its mirrors as they were recorded: shapes of answers for ``HubServer(intercept=recorded(...))``.

The demo hub gives every field and every header of the documentation. Real hubs do not: what stored answers, client
tests and bug reports of 2022 to 2026 show is kept here, one function a fact, to be combined::

    with HubServer(repos, intercept=recorded(sparse_rows("sha"), xet(), foreign_links())) as server: ...
    with HubServer(repos, intercept=MIRRORS["artifactory"]()) as server: ...   # endpoint: server.url + PREFIX

Unlike `faults`, nothing here is broken: a crawl against any of these has to end in the same catalog.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from typing import Any
from urllib.parse import urlsplit

from hubprobe.demo.repository import PullRequest, Repo, RepoFile
from hubprobe.demo.server import Intercept
from hubprobe.demo.wire import Request, Respond, Response

PREFIX = "/artifactory/api/huggingfaceml/hub"
"""The path under which `under` serves the Hub, as Artifactory does."""

HUGGING_FACE = "https://huggingface.co"
_HTML = b"<!DOCTYPE html>\n<html><head><title>%s</title></head><body><center><h1>%s</h1></center></body></html>"


def header(response: Response, name: str) -> str | None:
    """Return the first header of that name."""
    return next((value for key, value in response.headers if key.lower() == name.lower()), None)


def recorded(*shapes: Intercept) -> Intercept:
    """Return shapes one around the other: the first is what the client meets."""

    def intercept(bucket: str, request: Request, answer: Respond) -> Response:
        for shape in reversed(shapes):
            answer = partial(_inside, shape, bucket, answer)
        return answer(request)

    return intercept


def _inside(shape: Intercept, bucket: str, answer: Respond, request: Request) -> Response:
    return shape(bucket, request, answer)


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────
def sparse_rows(*names: str, every: int = 1) -> Intercept:
    """Listing rows without some fields: absent in one row, null in the next.

    Rows may lack ``sha``, ``siblings``, ``createdAt`` and ``author``; of every ``every``-th one they are taken.
    """

    def thin(rows: list[Any]) -> list[Any]:
        for at, row in enumerate(rows):
            if isinstance(row, dict) and at % every == 0:
                for name in names:
                    if at // every % 2:
                        row[name] = None
                    else:
                        row.pop(name, None)
        return rows

    return _rows(thin)


def odd_dtypes() -> Intercept:
    """``safetensors.parameters`` with the keys that quantised and mixed checkpoints have: ``F8_E4M3``, ``I64``."""

    def count(rows: list[Any]) -> list[Any]:
        for row in rows:
            weights = row.get("safetensors") if isinstance(row, dict) else None
            if isinstance(weights, dict):
                row["safetensors"] = {
                    "parameters": {**weights["parameters"], "I64": 1, "F8_E4M3": 0}, "total": weights["total"] + 1,
                }  # fmt: skip
        return rows

    return _rows(count)


def refused_expand(*names: str) -> Intercept:
    """A listing that answers 400 for these ``expand`` fields, as the Hub does for ``baseModels``, ``usedStorage``."""

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        asked = {name for value in request.query.get("expand", []) for name in value.split(",")}
        if is_listing(request) and asked & {*names}:
            message = f'"expand" must be one of [author, ...]; not {", ".join(sorted(asked & {*names}))}'
            return Response.json({"error": message}, 400, [("X-Error-Message", message)])
        return answer(request)

    return act


# ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────────────
def heavy_pages(most: int, seconds: float = 0.0) -> Intercept:
    """Pages of more than ``most`` rows end in the gateway's 504, as listings of 1,000 rows did (HTML, no Hub headers).

    huggingface_hub's issues 2460 and 2581. ``seconds``: how long the gateway takes to give up, about 60 on the Hub.
    """

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        if is_listing(request) and int(request.first("limit", "1000")) > most:
            time.sleep(seconds)
            return _page(504, b"504 Gateway Time-out")
        return answer(request)

    return act


def foreign_links(host: str = HUGGING_FACE) -> Intercept:
    """A mirror that hands ``Link: <https://huggingface.co/...>; rel="next"`` through (padeoe/hf-mirror-site 65)."""
    return _headers(lambda name, value: _moved_link(value, host) if name == "Link" else value)


def no_listing() -> Intercept:
    """olah 0.5: ``/api/models`` answers 200 with an empty body."""

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        return Response(200, b"") if is_listing(request) else answer(request)

    return act


def no_plain_info() -> Intercept:
    """olah 0.5: ``/api/models/{id}`` without a revision answers 401 ``RepoNotFound``."""

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        if request.segments[:2] == ("api", "models") and len(request.segments) in (3, 4):
            return Response.json({"error": "Repository not found"}, 401, [("X-Error-Code", "RepoNotFound")])
        return answer(request)

    return act


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def xet() -> Intercept:
    """Large files in Xet storage: ``X-Xet-Hash`` and a ``Link`` to the reconstruction on the redirect of 302.

    Lists of files have ``xetHash``. Clients that speak Xet would ask for a token: set ``HF_HUB_DISABLE_XET=1``.
    """

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        etag = header(response, "X-Linked-Etag")
        if response.status == 302 and etag is not None:
            owner, sha = "/".join(request.segments[:2]), header(response, "X-Repo-Commit")
            token = f"{HUGGING_FACE}/api/models/{owner}/xet-read-token/{sha}"
            plan = f"https://cas-server.xethub.hf.co/v1/reconstructions/{_xet(etag)}"
            response.headers += [
                ("X-Xet-Hash", _xet(etag)),
                ("Link", f'<{token}>; rel="xet-auth", <{plan}>; rel="xet-reconstruction-info"'),
            ]
        if "tree" in request.segments or "paths-info" in request.segments:
            entries = _json(response)
            if isinstance(entries, list):
                response.body = json.dumps(
                    [{**e, "xetHash": _xet(e["lfs"]["oid"])} if e.get("lfs") else e for e in entries]
                ).encode()
        return response

    return act


def other_buckets(**names: str) -> Intercept:
    """Rate-limit buckets by other names than the documentation's: ``other_buckets(resolvers="downloads")``."""

    def named(name: str, value: str) -> str:
        if name.startswith("RateLimit"):
            for old, new in names.items():
                value = value.replace(f'"{old}"', f'"{new}"')
        return value

    return _headers(named)


def no_rate_limits() -> Intercept:
    """A mirror that counts nothing: no ``RateLimit`` headers."""
    return _dropped(lambda name: name.startswith("RateLimit"))


def html_429(every: int, times: int, wait: int = 0) -> Intercept:
    """Every ``every``-th request of the Hub is answered 429: a page of HTML, with its bucket's headers.

    ``times`` is how many in all, ``wait`` is what ``t`` states: seconds until the window ends.
    """
    lock = threading.Lock()
    seen = [0, 0]

    def act(bucket: str, request: Request, answer: Respond) -> Response:
        with lock:
            seen[0] += bucket != "cdn"
            struck = bucket != "cdn" and seen[0] % every == 0 and seen[1] < times
            seen[1] += struck
        if not struck:
            return answer(request)
        response = _page(429, b"We had to rate limit you")
        response.headers += [
            ("RateLimit", f'"{bucket}";r=0;t={wait}'),
            ("RateLimit-Policy", f'"fixed window";"{bucket}";q=500;w=300'),
        ]
        return response

    return act


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────
def bare_renames() -> Intercept:
    """Of a renamed repository, a bare 307 with ``Location: /new/name/...`` and no other header."""

    def act(bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        where = header(response, "Location") or ""
        if bucket != "cdn" and response.status == 307 and where.startswith("/api/models/"):
            return Response(307, headers=[("Location", where.removeprefix("/api/models"))])
        return response

    return act


def under(prefix: str = PREFIX, *, strips: bool = True) -> Intercept:
    """The Hub under a path, as Artifactory serves it: what it answers leads back under the path.

    ``strips``: headers that begin with ``X-`` are kept from the client, and with them every name of a hash: ``ETag`` is
    then the artifact's plain sha1, which is no git blob's.
    """

    def act(bucket: str, request: Request, answer: Respond) -> Response:
        if bucket == "cdn":
            return answer(request)
        if not request.path.startswith(f"{prefix}/"):
            return Response.json({"errors": [{"status": 404, "message": "no such path"}]}, 404)
        bare = replace(
            request,
            target=request.target.removeprefix(prefix),
            path=request.path.removeprefix(prefix),
            segments=request.segments[prefix.count("/") :],
        )
        response = answer(bare)
        here = f"http://{request.headers.get('host', '')}"
        response.headers = [(name, _below(name, value, here, prefix)) for name, value in response.headers]
        if strips:
            response.headers = [(name, value) for name, value in response.headers if not name.startswith("X-")]
        return response

    return act


def own_etags() -> Intercept:
    """A mirror with ``ETag``s of its own: the sha1 of the bytes, 40 hex digits as a git blob's name has, and is not."""

    def act(bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        if "resolve-cache" in request.segments or bucket == "cdn":
            etag = sha256((header(response, "ETag") or "").encode()).hexdigest()[:40]
            response.headers = [(n, f'"{etag}"' if n == "ETag" else v) for n, v in response.headers]
        return response

    return act


MIRRORS: dict[str, Callable[[], Intercept]] = {
    "huggingface.co": lambda: recorded(
        html_429(every=7, times=3), xet(), bare_renames(), odd_dtypes(), sparse_rows("author", "createdAt", every=2),
        heavy_pages(most=250),
    ),
    "hf-mirror": lambda: recorded(foreign_links(), no_rate_limits(), xet(), sparse_rows("sha", every=3)),
    "artifactory": lambda: recorded(under(), own_etags(), no_rate_limits()),
    "olah": lambda: recorded(no_listing(), no_plain_info(), no_rate_limits(), ignored_ranges()),
    "an older hub": lambda: recorded(
        refused_expand("safetensors", "gated"), sparse_rows("siblings"), other_buckets(api="API", resolvers="files")
    ),
}  # fmt: skip
"""Hubs by name. A fresh intercept each: some count. The endpoint of Artifactory is the server's plus `PREFIX`."""


def ignored_ranges() -> Intercept:
    """olah 0.5: no ranges, the whole file with 200 whatever part of it is asked for."""

    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        whole = replace(request, headers={k: v for k, v in request.headers.items() if k != "range"})
        response = answer(whole)
        response.headers = [(name, value) for name, value in response.headers if name != "Accept-Ranges"]
        return response

    return act


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────
def is_listing(request: Request) -> bool:
    """Return whether a request is for a page of the listing."""
    return request.segments == ("api", "models")


def _rows(change: Callable[[list[Any]], list[Any]]) -> Intercept:
    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        if is_listing(request) and response.status == 200:
            rows = _json(response)
            if isinstance(rows, list):
                response.body, response.length = json.dumps(change(rows)).encode(), None
        return response

    return act


def _headers(change: Callable[[str, str], str]) -> Intercept:
    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        response.headers = [(name, change(name, value)) for name, value in response.headers]
        return response

    return act


def _dropped(which: Callable[[str], bool]) -> Intercept:
    def act(_bucket: str, request: Request, answer: Respond) -> Response:
        response = answer(request)
        response.headers = [(name, value) for name, value in response.headers if not which(name)]
        return response

    return act


def _json(response: Response) -> Any:
    try:
        return json.loads(response.body if isinstance(response.body, bytes) else b"".join(_kept(response)))
    except ValueError:
        return None


def _kept(response: Response) -> Iterable[bytes]:
    assert not isinstance(response.body, bytes)
    response.body = b"".join(response.body)
    return (response.body,)


def _page(status: int, title: bytes) -> Response:
    return Response(status, _HTML % (title, title), [("Content-Type", "text/html")])


def _moved_link(value: str, host: str) -> str:
    before, _, rest = value.partition("<")
    address, _, after = rest.partition(">")
    parts = urlsplit(address)
    return f"{before}<{host}{parts.path}?{parts.query}>{after}"


def _below(name: str, value: str, here: str, prefix: str) -> str:
    if name == "Link":
        return value.replace(f"<{here}/", f"<{here}{prefix}/")
    if name == "Location" and value.startswith("/"):
        return f"{prefix}{value}"
    return value


def _xet(etag: str) -> str:
    return sha256(f"xet {etag}".encode()).hexdigest()


# ── repositories ─────────────────────────────────────────────────────────────────────────────────────────────────────
def pickled(repo: Repo, *, pulls: bool = True) -> Repo:
    """Return ``repo`` as it would be from before 2024: ``pytorch_model.bin`` on main, safetensors in a pull request.

    The Hub's conversion bot (``SFconvertbot``) has added them on ``refs/pr/2``; 1 is somebody's README. The pickle is
    bytes that no unpickler would open. transformers loads from there by itself (its issues 27571 and 34151).
    """
    weights = {path for path in repo.files if path.endswith((".safetensors", ".safetensors.index.json"))}
    main = {path: file for path, file in repo.files.items() if path not in weights}
    main["pytorch_model.bin"] = RepoFile.of("pytorch_model.bin", b"\x80\x02not to be opened " + repo.id.encode())
    added = {path: repo.files[path] for path in weights}
    readme = RepoFile.of("README.md", b"# Better words\n")
    offers = (
        PullRequest(1, "somebody", main | {"README.md": readme}, title="Update README.md"),
        PullRequest(2, "SFconvertbot", main | added),
    )
    return replace(repo, files=main, pulls=offers if pulls else ())
