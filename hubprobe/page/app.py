"""The web application: the page's addresses, the API beside them, and the limits around both."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyio import CapacityLimiter, to_thread
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from hubprobe.page import question as questions
from hubprobe.page.api import INSIDE, Endpoints, GradioCalls, Plain, Tools
from hubprobe.page.limits import Bounded, Limits, is_api
from hubprobe.page.picks import FOREIGN, Picks
from hubprobe.page.picks import MOST as MOST_IMAGES
from hubprobe.page.question import Question, address, as_file, read, wanted
from hubprobe.page.views import (
    MOST_LISTED,
    Views,
    compared,
    compared_table,
    concepts_table,
    model_address,
    models_table,
    outputs_table,
    picked_table,
)
from workspace import HubprobeError, MissingStepError, QueryError
from workspace.text import printable

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from hubprobe.page.opened import Current, Opened

KINDS = (
    "api", "compare", "concepts", "image", "mcp", "metrics", "model", "models", "pick", "probe", "static", "use",
)  # fmt: skip
"""First parts of addresses that are counted apart: all others are ``search`` (the page itself) or ``other``."""

_ALIASES = {"": "search", "pick-image": "pick", "gradio_api": "api", "favicon.ico": "static"}
_FIRST = re.compile(r"/([^/]*)")


class Metrics:
    """Counts what an application answers, refusals included."""

    def __init__(self, current: Current) -> None:
        self._current, self._registry = current, CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("kind", "status")
        self._requests = Counter("hubprobe_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "hubprobe_request_seconds", "Time from a request's head to the end of its answer.", ("kind",),
            registry=self._registry,
        )  # fmt: skip
        self._running = Gauge("hubprobe_requests_running", "Requests being answered.", registry=self._registry)
        for name, about, value in (
            ("models", "Models that can be searched.", lambda: current.get().index.gallery.models.num_rows),
            ("logits", "Outputs that can be searched.", lambda: len(current.get().index.gallery)),
            ("names_ready", "Whether names are suggested.", lambda: current.get().names.state == "ready"),
        ):
            Gauge(f"hubprobe_index_{name}", about, registry=self._registry).set_function(value)
        self._version = Gauge(
            "hubprobe_index_info", "Version of the index that answers.", ("version",), registry=self._registry
        )

    def text(self) -> bytes:
        """Return the figures in Prometheus's text format, whose content type is ``CONTENT_TYPE``."""
        self._version.clear()
        self._version.labels(self._current.get().index.version).set(1)
        return generate_latest(self._registry)

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return ``app``, whose answers are counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                await app(scope, receive, send)
                return
            kind, status, started = kind_of(scope["path"]), "none", time.perf_counter()

            async def watched(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = str(message["status"])
                await send(message)

            self._running.inc()
            try:
                await app(scope, receive, watched)
            finally:
                self._running.dec()
                self._requests.labels(kind, status).inc()
                self._seconds.labels(kind).observe(time.perf_counter() - started)

        return counted


def kind_of(path: str) -> str:
    """Return as what a request for ``path`` is counted: one of a few words, whatever strangers ask for."""
    match = _FIRST.match(path)
    first = match[1] if match else "other"
    return _ALIASES.get(first, first if first in KINDS else "other")


_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}
_PROBE = re.compile(r"([0-9]{1,9})\.webp")
_LOG = logging.getLogger(__name__)

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer a browser hides from us that our form is ours
    "cross-origin-opener-policy": "same-origin",
}
"""Of every page of ours: nothing from elsewhere, and no script that is not in a file of ours."""


def application(
    current: Current,
    limits: Limits,
    *,
    at_once: int = 4,
    mcp: bool = True,
    hosts: Collection[str] = (),
    pick: bool = True,
) -> Any:
    """Return the ASGI application.

    ``at_once`` searches run at once; ``hosts`` are names under which it may be asked, besides this machine's own;
    ``pick`` lets visitors have models fetched and run on images of theirs.
    """
    picks = Picks(current) if pick else None
    searching = CapacityLimiter(at_once)
    endpoints, metrics = Endpoints(current, searching), Metrics(current)
    site = Site(current, endpoints, searching, mcp, picks)
    measured = Route("/metrics", lambda _: Response(metrics.text(), media_type=CONTENT_TYPE), methods=["GET"])
    routes = [*site.routes, measured, *Plain(endpoints).routes, *GradioCalls(endpoints).routes]
    tools = Tools(endpoints) if mcp else None
    routes += tools.routes if tools else []

    @asynccontextmanager
    async def running(app: object) -> AsyncIterator[None]:
        async with tools.running(app) if tools else nullcontext():
            yield
        if picks is not None:
            await to_thread.run_sync(picks.close)

    errors = Middleware(ExceptionMiddleware, handlers={Exception: site.broken})
    handlers: dict[Any, Any] = {HTTPException: site.refused} | dict.fromkeys(
        (QueryError, MissingStepError), site.not_answered
    )
    app = Starlette(
        routes=routes,
        lifespan=running,
        middleware=[errors],
        exception_handlers=handlers,
    )
    app.router.redirect_slashes = False
    return metrics.counting(Bounded(app, limits, hosts))


class Site:
    """The page's addresses. Searches run in a few threads of their own, so that thumbnails never wait for them."""

    def __init__(
        self, current: Current, endpoints: Endpoints, searching: CapacityLimiter, mcp: bool, picks: Picks | None
    ) -> None:
        self._current, self._endpoints, self._mcp, self._picks = current, endpoints, mcp, picks
        self._searching, self._drawing, self._keeping = searching, CapacityLimiter(2), CapacityLimiter(1)
        self._files = {p.name: p.read_bytes() for p in sorted(_STATIC.iterdir()) if p.suffix in _TYPES}
        version = sha256(b"".join(self._files.values())).hexdigest()[:12]
        self._views = Views(version, current.workspace.root.resolve().name, picking=picks is not None)
        pages = {
            "/": self.search, "/model": self.model, "/models": self.models, "/compare": self.compare,
            "/concepts": self.concepts, "/about": self.about,
            "/pick": self.pick, "/pick-image": self.pick_image, "/probe/{probe_set}/{name}": self.probe,
            "/static/{name}": self.static, "/favicon.ico": lambda _: self._file("icon.svg"), "/health": self.health,
        }  # fmt: skip
        self.routes: list[BaseRoute] = [Route(path, page, methods=["GET"]) for path, page in pages.items()]
        self.routes += [
            Route("/image", self.image, methods=["POST"]), Route("/pick", self.pick_post, methods=["POST"])
        ]  # fmt: skip

    # ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def search(self, request: Request) -> Response:
        """The start page, or the results of what the address asks."""
        question, opened = read(request.query_params), self._current.get()
        kind = wanted(request.query_params)
        if kind:
            hits = await self._in_thread(questions.table, self._current, opened, question)
            return as_file(hits, kind, "hits")
        if question.kind == "nothing" and question.like:  # a model without an output: its page lists them
            return RedirectResponse(model_address(question.like), status_code=303)
        known = opened.pages.get(question)
        if known is None:
            known = await self._in_thread(self._search, opened, question)
            if opened.names.state != "preparing" and question.kind != "image":  # an image can be forgotten
                opened.pages.put(question, known)
        return self._response(known)

    def _search(self, opened: Opened, question: Question) -> str:
        if question.kind == "nothing":
            return self._views.home(opened)
        example = self._current.image(question.image) if question.kind == "image" else None
        return self._views.results(opened, question, questions.answer(self._current, opened, question), example)

    async def model(self, request: Request) -> Response:
        """A model's page."""
        values, opened = request.query_params, self._current.get()
        repo_id, sha, find = values.get("repo", ""), values.get("sha"), values.get("find", "")[:100]
        draw = partial(self._views.model, opened, repo_id, sha, find=find, start=_start(values))
        return await self._shown(values, draw, "outputs", partial(outputs_table, opened, repo_id, sha, find))

    async def models(self, request: Request) -> Response:
        """All models, the most downloaded first."""
        values, opened = request.query_params, self._current.get()
        find = values.get("find", "")[:100]
        draw = partial(self._views.models, opened, find=find, start=_start(values))
        return await self._shown(values, draw, "models", lambda: models_table(opened, find).slice(0, MOST_LISTED))

    async def compare(self, request: Request) -> Response:
        """Models side by side."""
        asked, opened = request.query_params.getlist("model"), self._current.get()
        wanted(request.query_params)  # refused before the work
        found = await self._in_thread(compared, opened, asked)
        draw = partial(self._views.compare, opened, asked, found)
        return await self._shown(request.query_params, draw, "compare", partial(compared_table, found))

    async def concepts(self, request: Request) -> Response:
        """What there is to be found, and what is not."""
        values, opened = request.query_params, self._current.get()
        asked = {
            "group": values.get("kind", "")[:40],
            "show": values.get("show", ""),
            "find": values.get("find", "")[:100],
        }
        draw = partial(self._views.concepts, opened, start=_start(values), **asked)
        return await self._shown(values, draw, "concepts", partial(concepts_table, opened, **asked))

    async def image(self, request: Request) -> Response:
        """An uploaded example image: remembered, and shown at an address of its own."""
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
            raise HTTPException(415, "send the image as a form does: multipart/form-data, in the field 'file'")
        files, values = await _form(request, "file", 1, "choose the image again")
        name, data = files[0] if files else ("", b"")
        question = read({k: v for k, v in values.items() if k not in ("q", "like", "logit", "image")})
        key = await self._in_thread(self._current.remember, data, name or "example.png")
        return RedirectResponse(question.url(image=key), status_code=303)

    async def pick(self, request: Request) -> Response:
        """The form of a pick, or how far a pick has come and what was found."""
        values, opened, picks = request.query_params, self._current.get(), self._allowed()
        if "key" not in values:
            concepts, where = values.get("concepts", "")[:2_000], values.get("where", "")[:2_000]
            return self._response(self._views.pick(opened, concepts, where))
        one, kind = picks.get(values["key"]), wanted(values)
        if kind:
            return as_file(picked_table(one), kind, "pick")
        count = await self._in_thread(one.progress, limiter=self._drawing)
        return self._response(self._views.picked(opened, one, count))

    async def pick_post(self, request: Request) -> Response:
        """Start a pick with the images of a form; answer its question, stop it, forget it."""
        picks = self._allowed()
        advice = f"choose at most {MOST_IMAGES} images, of 12 MB together"
        files, values = await _form(request, "images", MOST_IMAGES + 1, advice)
        files = [(name, data) for name, data in files if name]
        key, does = values.get("key", ""), values.get("do", "start")
        if does == "start":
            candidates, budget = (
                questions.count(n, values.get(n, d)) for n, d in (("candidates", "20"), ("budget", "25"))
            )
            concepts, where = values.get("concepts", ""), values.get("where", "").strip()
            key = await self._in_thread(picks.start, concepts, files, candidates, budget, where, limiter=self._keeping)
        elif does == "answer":
            words: dict[str, int | None] = {"none": FOREIGN, "enough": None}
            given = values.get("label", "")
            label = words[given] if given in words else questions.count("label", given)
            image = questions.count("image", values.get("image", ""))
            await self._in_thread(picks.answer, key, image, label, limiter=self._drawing)
            await picks.soon(key)
        elif does == "stop":
            await self._in_thread(picks.stop, key, limiter=self._keeping)
        elif does == "forget":
            await self._in_thread(picks.forget, key, limiter=self._keeping)
            return RedirectResponse("pick", status_code=303)
        else:
            raise HTTPException(400, "a pick can be started, answered, stopped and forgotten")
        return RedirectResponse(address("pick", key=key), status_code=303)

    def _allowed(self) -> Picks:
        if self._picks is None:
            raise HTTPException(
                404, "picking is off on this page: run 'hubprobe pick' on your own machine, or serve with --pick"
            )
        return self._picks

    async def pick_image(self, request: Request) -> Response:
        """A small picture of an image of a pick."""
        values = request.query_params
        pictures, number = self._allowed().get(values.get("key", "")).thumbnails, values.get("n", "")
        if not re.fullmatch("[0-9]{1,4}", number) or int(number) >= len(pictures):
            return Response(status_code=404)
        headers = SECURITY | {"cache-control": "private, max-age=3600"}
        return Response(pictures[int(number)], media_type="image/webp", headers=headers)

    async def about(self, request: Request) -> Response:
        """What the words mean, and how to ask without a browser."""
        table = list(self._endpoints.table.values())
        return self._response(self._views.about(self._current.get(), str(request.base_url), table, self._mcp))

    # ── what went wrong ──────────────────────────────────────────────────────────────────────────────────────────
    async def refused(self, request: Request, error: HTTPException) -> Response:
        """An address, a method or a form that is none of ours."""
        ours = {404: "There is no such page.", 405: "This method is not answered here."}
        bare = not error.detail or error.detail in ("Not Found", "Method Not Allowed")  # as starlette words it
        detail = ours.get(error.status_code, INSIDE) if bare else error.detail
        return self._failure(request, detail, error.status_code, error.headers)

    async def not_answered(self, request: Request, error: HubprobeError) -> Response:
        """A question that cannot be answered as asked: the error says what to do."""
        return self._failure(request, self._current.public(error), 400)

    async def broken(self, request: Request, error: Exception) -> Response:
        """Anything else: a stranger gets none of the inside."""
        _LOG.error("%s failed", printable(request.url.path, 200), exc_info=error)
        return self._failure(request, INSIDE, 500)

    def _failure(self, request: Request, message: str, status: int, headers: Any = None) -> Response:
        """Return what went wrong: JSON to a program; to a visitor a page with what was asked still in the form."""
        if is_api(request.url.path):
            return JSONResponse({"error": printable(message, 600)}, status, headers)
        values = dict(request.query_params)
        try:
            question = replace(read(values), image="")
        except QueryError:
            question = Question(q=values.get("q", "")[:500], where=values.get("where", "")[:500])
        heading = {400: "This cannot be answered", 404: "Not found", 500: "Something went wrong"}.get(status, "Refused")
        root = "../" * (request.url.path.count("/") - 1)
        page = self._views.failed(self._current.get(), question, heading, message, root)
        return self._response(page, status, headers)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def probe(self, request: Request) -> Response:
        """A probe's thumbnail; its address holds the probe set, so that it never changes."""
        opened, name = self._current.get(), _PROBE.fullmatch(request.path_params["name"])
        data = None
        if name and request.path_params["probe_set"] == opened.strips.probe_set:
            probe = int(name[1])
            data = opened.strips.kept(probe) or await self._in_thread(
                opened.strips.thumbnail, probe, limiter=self._drawing
            )
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type="image/webp", headers=_FOREVER | SECURITY)

    async def static(self, request: Request) -> Response:
        """Style and script; their address changes with their content."""
        return self._file(request.path_params["name"])

    def _file(self, name: str) -> Response:
        if name not in self._files:
            return Response(status_code=404)
        return Response(self._files[name], media_type=_TYPES[Path(name).suffix], headers=_FOREVER | SECURITY)

    async def health(self, _request: Request) -> Response:
        """For a load balancer: which version answers, and whether names are ready."""
        opened = self._current.get()
        return JSONResponse(
            {"status": "ok", "index": opened.index.version, "names": opened.names.state == "ready"}, headers=SECURITY
        )

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def _in_thread(self, function: Callable[..., Any], *values: Any, limiter: Any = None) -> Any:
        return await to_thread.run_sync(function, *values, limiter=limiter or self._searching)

    async def _shown(
        self, values: Mapping[str, str], page: Callable[[], str], name: str, table: Callable[[], Any]
    ) -> Response:
        """Return a page, or what it shows as the file that the address asks for."""
        if kind := wanted(values):
            return as_file(await self._in_thread(table), kind, name)
        return self._response(await self._in_thread(page))

    def _response(self, page: str, status: int = 200, headers: Any = None) -> Response:
        headers = SECURITY | {"cache-control": "no-store"} | dict(headers or {})
        return HTMLResponse(page, status_code=status, headers=headers)


async def _form(request: Request, field: str, most: int, advice: str) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """Return the files in a ``field`` of a form, by name, and its texts; an `HTTPException` gives the ``advice``."""
    try:
        async with request.form(max_files=most, max_fields=20) as form:
            sent = [file for file in form.getlist(field) if not isinstance(file, str)]
            files = [(file.filename or "", await file.read()) for file in sent]
            return files, {key: value for key, value in form.items() if isinstance(value, str)}
    except (HTTPException, MultiPartException, ValueError, TypeError, AttributeError) as error:
        # all of it comes from the client, and the parsers of old versions let their own errors through
        raise HTTPException(400, f"this form cannot be read: {advice}") from error


def _start(values: Mapping[str, str]) -> int:
    """Return from which entry a list is shown; anything that is no number is the first."""
    start = values.get("start", "")
    return int(start) if re.fullmatch("[0-9]{1,9}", start) else 0
