"""The web application: the page's addresses, Gradio beside them, and the limits around both."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubprobe.page import answers, api, layout, model_page, pages
from hubprobe.page.asked import Asked, read
from hubprobe.page.html import Html, number, text
from hubprobe.page.limits import Bounded, Limits
from workspace import HubprobeError

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from starlette.requests import Request
    from starlette.responses import Response

    from hubprobe.page.opened import Current, Opened

_STATIC = Path(__file__).parent / "static"
_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
_FOREVER = {"cache-control": "public, max-age=31536000, immutable"}
_LOG = logging.getLogger(__name__)

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
}
"""Of every page of ours: nothing from elsewhere, and no script that is not in a file of ours."""


def application(current: Current, limits: Limits, *, at_once: int = 4, mcp: bool = True) -> Any:
    """Return the ASGI application.

    Args:
        current: what answers.
        limits: what is served.
        at_once: searches that run at once.
        mcp: whether Gradio's MCP endpoint is there.
    """
    from anyio import CapacityLimiter

    searching = CapacityLimiter(at_once)
    made = api.blocks(current, searching, waiting=limits.at_once)
    import gradio
    from fastapi import FastAPI
    from starlette.routing import BaseRoute, Route

    site = Site(current, searching, mcp)
    routes: list[BaseRoute] = [
        Route("/", site.search, methods=["GET"]),
        Route("/model", site.model, methods=["GET"]),
        Route("/about", site.about, methods=["GET"]),
        Route("/image", site.image, methods=["POST"]),
        Route("/probe/{probe_set}/{probe:int}.webp", site.probe, methods=["GET"]),
        Route("/static/{name}", site.static, methods=["GET"]),
        Route("/favicon.ico", site.icon, methods=["GET"]),
        Route("/health", site.health, methods=["GET"]),
    ]
    app = FastAPI(routes=routes, openapi_url=None, docs_url=None, redoc_url=None)
    gradio.mount_gradio_app(
        app, made, "/", show_error=False, max_file_size=0, allowed_paths=[], ssr_mode=False,
        enable_monitoring=False, pwa=False, mcp_server=mcp, theme=gradio.themes.Base(font=["system-ui"]),
    )  # fmt: skip
    return Bounded(app, limits)


Page = Callable[["Site", "Request"], Awaitable["Response"]]


def _page(function: Page) -> Page:
    """Turn errors into pages: a `HubprobeError` says what to do, anything else says nothing of the inside."""

    @functools.wraps(function)
    async def run(self: Site, request: Request) -> Response:
        try:
            return await function(self, request)
        except HubprobeError as error:
            return self.failure(request, str(error), 400)
        except Exception:  # noqa: BLE001 - logged, and a stranger gets none of the inside
            _LOG.exception("%s failed", request.url.path)
            return self.failure(request, "This failed inside. The server’s log says why.", 500)

    return run


class Site:
    """The page's addresses. Searches run in a few threads of their own, so that thumbnails never wait for them."""

    def __init__(self, current: Current, searching: CapacityLimiter, mcp: bool) -> None:
        from anyio import CapacityLimiter

        self._current, self._mcp = current, mcp
        self._searching, self._drawing = searching, CapacityLimiter(2)
        files = {p.name: p.read_bytes() for p in sorted(_STATIC.iterdir()) if p.suffix in _TYPES}
        self._files = files
        self._version = sha256(b"".join(files.values())).hexdigest()[:12]
        self._workspace = current.workspace.root.resolve().name

    # ── pages ────────────────────────────────────────────────────────────────────────────────────────────────────
    @_page
    async def search(self, request: Request) -> Response:
        """The start page, or the results of what the address asks."""
        asked, opened = read(request.query_params), self._current.get()
        known = opened.pages.get(asked)
        if known is None:
            known = await self._in_thread(self._search, opened, asked)
            if opened.names.state != "preparing" and asked.kind != "image":  # an image can be forgotten
                opened.pages.put(asked, known)
        return self._response(known)

    def _search(self, opened: Opened, asked: Asked) -> str:
        if asked.kind == "nothing":
            form = layout.search_form(asked, opened.facets, focus=True)
            return self._html("", pages.home(opened), opened, form)
        example = self._current.image(asked.image) if asked.kind == "image" else None
        name = example.name if example is not None else ""
        form = layout.search_form(asked, opened.facets, image_name=name)
        found = answers.answer(self._current, opened, asked)
        body = pages.results(opened, asked, found, self._workspace, example)
        return self._html(pages.title(asked, name), body, opened, form)

    @_page
    async def model(self, request: Request) -> Response:
        """A model's page."""
        return self._response(await self._in_thread(self._model, dict(request.query_params)))

    def _model(self, values: dict[str, str]) -> str:
        opened, repo = self._current.get(), values.get("repo", "")
        start = values.get("start", "")
        first = int(start) if start.isdecimal() and len(start) < 10 else 0
        body = model_page.model(opened, repo, values.get("sha"), find=values.get("find", "")[:100], start=first)
        return self._html(repo, body, opened, layout.search_form(Asked(), opened.facets))

    @_page
    async def image(self, request: Request) -> Response:
        """An uploaded example image: remembered, and shown at an address of its own."""
        from starlette.responses import RedirectResponse

        async with request.form(max_files=1, max_fields=20) as form:
            file = form.get("file")
            data = await file.read() if file is not None and not isinstance(file, str) else b""
            name = getattr(file, "filename", None) or "example.png"
            values = {key: value for key, value in form.items() if isinstance(value, str)}
        asked = read({k: v for k, v in values.items() if k not in ("q", "like", "logit", "image")})
        key = await self._in_thread(self._current.remember, data, name)
        return RedirectResponse(asked.url(image=key), status_code=303)

    @_page
    async def about(self, request: Request) -> Response:
        """How to ask without a browser."""
        opened = self._current.get()
        form = layout.search_form(Asked(), opened.facets)
        return self._response(self._html("API", pages.about(str(request.base_url), self._mcp), opened, form))

    def failure(self, request: Request, message: str, status: int) -> Response:
        """Return a page that says what went wrong, with what was asked still in the form."""
        opened, values = self._current.get(), dict(request.query_params)
        try:
            asked = replace(read(values), image="")
        except HubprobeError:
            asked = Asked(q=values.get("q", "")[:500], where=values.get("where", "")[:500])
        form = layout.search_form(asked, opened.facets)
        heading = "This cannot be answered" if status == 400 else "Something went wrong"
        return self._response(self._html(heading, pages.failed(heading, message), opened, form), status)

    # ── files ────────────────────────────────────────────────────────────────────────────────────────────────────
    async def probe(self, request: Request) -> Response:
        """A probe's thumbnail; its address holds the probe set, so that it never changes."""
        from starlette.responses import Response

        opened, probe = self._current.get(), request.path_params["probe"]
        data = None
        if request.path_params["probe_set"] == opened.strips.probe_set and probe < 2**31:
            data = opened.strips.kept(probe) or await self._in_thread(
                opened.strips.thumbnail, probe, limiter=self._drawing
            )
        if data is None:
            return Response(status_code=404)
        return Response(data, media_type="image/webp", headers=_FOREVER | SECURITY)

    async def static(self, request: Request) -> Response:
        """Style and script; their address changes with their content."""
        from starlette.responses import Response

        name = request.path_params["name"]
        if name not in self._files:
            return Response(status_code=404)
        return Response(self._files[name], media_type=_TYPES[Path(name).suffix], headers=_FOREVER | SECURITY)

    async def icon(self, _request: Request) -> Response:
        """The icon of the tab."""
        from starlette.responses import Response

        return Response(self._files["icon.svg"], media_type="image/svg+xml", headers=_FOREVER | SECURITY)

    async def health(self, _request: Request) -> Response:
        """For a load balancer: which version answers, and whether names are ready."""
        from starlette.responses import JSONResponse

        opened = self._current.get()
        return JSONResponse(
            {"status": "ok", "index": opened.index.version, "names": opened.names.state == "ready"}, headers=SECURITY
        )

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    async def _in_thread(self, function: Callable[..., Any], *values: Any, limiter: Any = None) -> Any:
        from anyio import to_thread

        return await to_thread.run_sync(function, *values, limiter=limiter or self._searching)

    def _html(self, title: str, body: Html, opened: Opened, form: Html) -> str:
        gallery = opened.index.gallery
        counts = (
            f"{number(gallery.models.num_rows)} models · {number(len(gallery))} outputs · "
            f"{number(gallery.n_probes)} probes · index {opened.index.version}"
        )
        return layout.page(text(title), body, version=self._version, counts=counts, search=form)

    def _response(self, page: str, status: int = 200) -> Response:
        from starlette.responses import HTMLResponse

        return HTMLResponse(page, status_code=status, headers=SECURITY | {"cache-control": "no-store"})
