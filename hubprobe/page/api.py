"""The API over HTTP: plain calls with an OpenAPI description, the calls of Gradio's clients, and the tools of MCP."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cachetools import TTLCache
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from hubprobe.page.endpoints import Endpoint, Endpoints
from workspace import QueryError
from workspace.text import printable
from workspace.version import __version__

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

EVENTS = 256
"""Answers that wait to be fetched by the second request of a Gradio client, over all clients."""

EVENT_S = 120.0
"""How long such an answer waits."""

INSIDE = "this failed inside; the server's log says why"
"""What is said of an error that is ours."""

_JSON = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_LOG = logging.getLogger(__name__)


async def read_json(request: Request) -> Any:
    """Return the JSON of a request; an `HTTPException` says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, with the header content-type: application/json")
    try:
        return from_json(await request.body(), allow_inf_nan=False)
    except ValueError as error:  # no UTF-8, half a surrogate pair, NaN, nested too deep
        raise HTTPException(400, f"the body is not JSON: {printable(error, 120)}") from None


def encoded(text: bytes, status: int = 200) -> Response:
    """Return an answer that is JSON already."""
    return Response(text, status, headers=_JSON, media_type="application/json")


class Plain:
    """``/api/NAME``: arguments by name, in the address or in a JSON object; the answer alone."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._openapi = openapi(endpoints)

    def routes(self) -> list[BaseRoute]:
        """Return the addresses."""
        return [
            Route("/api/openapi.json", self.schema, methods=["GET"]),
            Route("/api/{name}", self.call, methods=["GET", "POST"]),
        ]

    async def schema(self, _request: Request) -> Response:
        """The OpenAPI description."""
        return JSONResponse(self._openapi, headers=_JSON)

    async def call(self, request: Request) -> Response:
        """Answer one call."""
        endpoint = named(self._endpoints, request.path_params["name"])
        if request.method == "POST":
            return encoded(await self._endpoints.answer(endpoint, await read_json(request)))
        given = request.query_params.multi_items()
        twice = {key for key, _ in given if len(request.query_params.getlist(key)) > 1}
        if twice:
            raise QueryError(f"'{printable(min(twice), 40)}' is given twice")
        return encoded(await self._endpoints.answer(endpoint, endpoint.written(dict(given))))


def named(endpoints: Endpoints, name: str) -> Endpoint:
    """Return an endpoint; an `HTTPException` says which there are."""
    if name not in endpoints.table:
        raise HTTPException(404, f"there is no endpoint '{printable(name, 40)}': {', '.join(endpoints.table)}")
    return endpoints.table[name]


def openapi(endpoints: Endpoints) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the plain calls."""
    failed = {"description": "what to do", "content": {"application/json": {"schema": {"type": "object"}}}}
    paths = {}
    for one in endpoints.table.values():
        fields, needed = one.schema["properties"], one.schema.get("required", [])
        answered = {"description": one.returns, "content": {"application/json": {"schema": {}}}}
        both = {"summary": one.about, "responses": {"200": answered, "4XX": failed}}
        written = [
            {"name": name, "in": "query", "required": name in needed, "schema": field} for name, field in fields.items()
        ]
        body = {"required": True, "content": {"application/json": {"schema": one.schema}}}
        paths[f"/api/{one.name}"] = {
            "get": both | {"operationId": one.name, "parameters": written},
            "post": both | {"operationId": f"{one.name}_post", "requestBody": body},
        }
    return {"openapi": "3.1.0", "info": {"title": "hubprobe", "version": __version__}, "paths": paths}


@dataclass(frozen=True)
class _Event:
    """An answer that waits to be fetched: its JSON, or why there is none."""

    session: str
    name: str
    data: bytes
    error: str | None = None


class GradioCalls:
    """The calls of Gradio's clients, with answers of fixed shape: no file, no upload, no component is behind them.

    A call is answered when it is posted; what the second request of a client fetches is there by then.
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints, self._all = endpoints, list(endpoints.table.values())
        self._events: TTLCache[str, _Event] = TTLCache(EVENTS, EVENT_S)

    def routes(self) -> list[BaseRoute]:
        """Return the addresses."""
        return [
            Route("/config", self.config, methods=["GET"]),
            Route("/gradio_api/info", self.info, methods=["GET"]),
            Route("/gradio_api/run/{name}", self.run, methods=["POST"]),
            Route("/gradio_api/call/{name}", self.call, methods=["POST"]),
            Route("/gradio_api/call/{name}/{event}", self.called, methods=["GET"]),
            Route("/gradio_api/queue/join", self.join, methods=["POST"]),
            Route("/gradio_api/queue/data", self.data, methods=["GET"]),
        ]

    async def run(self, request: Request) -> Response:
        """Answer a call at once."""
        endpoint = named(self._endpoints, request.path_params["name"])
        found = await self._endpoints.answer(endpoint, self._values(endpoint, await read_json(request)))
        return encoded(b'{"data":[' + found + b"]}")

    async def call(self, request: Request) -> Response:
        """Answer a call, to be fetched by `called`."""
        return await self._posted(named(self._endpoints, request.path_params["name"]), await read_json(request), "")

    async def called(self, request: Request) -> Response:
        """Hand out what `call` answered, once."""
        key = request.path_params["event"]
        event = self._events.get(key)
        if event is None or event.session or event.name != request.path_params["name"]:
            raise HTTPException(404, "there is no such event, or its answer was fetched already: call again")
        del self._events[key]
        if event.error is not None:
            return _stream(f"event: error\ndata: {json.dumps({'error': event.error})}\n\n".encode())
        return _stream(b"event: complete\ndata: [" + event.data + b"]\n\n")

    async def join(self, request: Request) -> Response:
        """Answer a call, to be fetched by `data`."""
        body = await read_json(request)
        index, session = (body.get("fn_index"), body.get("session_hash")) if isinstance(body, dict) else (None, None)
        if type(index) is not int or not 0 <= index < len(self._all):
            raise QueryError(f"'fn_index' is a whole number between 0 and {len(self._all) - 1}")
        if not isinstance(session, str) or not 0 < len(session) <= 100:
            raise QueryError("'session_hash' is a text of at most 100 characters")
        try:
            return await self._posted(self._all[index], body, session)
        except QueryError as error:  # in the form in which Gradio's client shows it
            detail = {"__type__": "validate", "is_valid": False, "parameter_name": "argument", "message": str(error)}
            return JSONResponse({"error": printable(error, 600), "detail": [detail]}, 422, _JSON)

    async def data(self, request: Request) -> Response:
        """Hand out everything that was answered in a session, and end the stream: nothing is left to wait for."""
        session = request.query_params.get("session_hash", "")
        lines = []
        for key, event in list(self._events.items()):
            if session and event.session == session and self._events.pop(key, None) is not None:
                good = event.error is None
                output = b'{"data":[' + event.data + b"]}" if good else json.dumps({"error": event.error}).encode()
                head = json.dumps({"msg": "process_completed", "event_id": key, "success": good})[:-1]
                lines.append(b"data: " + head.encode() + b', "output":' + output + b"}\n\n")
        lines.append(b'data: {"msg": "close_stream", "event_id": null}\n\n')
        return _stream(b"".join(lines))

    async def _posted(self, endpoint: Endpoint, body: Any, session: str) -> Response:
        arguments = endpoint.checked(self._values(endpoint, body))  # of the wrong type: refused here and now
        key = secrets.token_hex(16)
        try:
            event = _Event(session, endpoint.name, await self._endpoints.answer(endpoint, arguments))
        except QueryError as error:
            event = _Event(session, endpoint.name, b"", printable(error, 600))
        self._events[key] = event
        return JSONResponse({"event_id": key}, headers=_JSON)

    @staticmethod
    def _values(endpoint: Endpoint, body: Any) -> dict[str, Any]:
        data = body.get("data") if isinstance(body, dict) else None
        if not isinstance(data, list):
            raise QueryError('the body is {"data": [...]}, with the arguments in order')
        return endpoint.positional(data)

    async def config(self, request: Request) -> Response:
        """What Gradio's clients read first: which functions there are, and how they are called."""
        box = {"type": "api", "props": {}, "skip_api": False}
        answer = len(_types(self._all))
        dependencies = [
            {
                "id": i, "api_name": one.name, "api_visibility": "public", "backend_fn": True, "queue": True,
                "inputs": list(range(len(one.arguments.model_fields))), "outputs": [answer], "cancels": [],
                "types": {"generator": False, "cancel": False}, "targets": [],
            }
            for i, one in enumerate(self._all)
        ]  # fmt: skip
        return JSONResponse(
            {
                "version": "6.0.0", "protocol": "sse_v3", "api_prefix": "/gradio_api", "connect_heartbeat": False,
                "mode": "blocks", "app_id": 0, "space_id": None, "is_space": False, "title": "hubprobe",
                "root": str(request.base_url).rstrip("/"), "enable_queue": True, "show_error": True,
                "components": [box | {"id": i} for i in range(answer + 1)], "dependencies": dependencies,
            },
            headers=_JSON,
        )  # fmt: skip

    async def info(self, _request: Request) -> Response:
        """The arguments and answers of every function, as Gradio's clients read them."""
        named_endpoints = {
            f"/{one.name}": {
                "description": one.about,
                "parameters": [_parameter(one, name) for name in one.arguments.model_fields],
                "returns": [_value("answer", {}, one.returns)],
                "api_visibility": "public",
            }
            for one in self._all
        }
        return JSONResponse({"named_endpoints": named_endpoints, "unnamed_endpoints": {}}, headers=_JSON)


def _types(endpoints: list[Endpoint]) -> range:
    return range(max(len(one.arguments.model_fields) for one in endpoints))


def _value(label: str, schema: dict[str, Any], about: str) -> dict[str, Any]:
    python = {"integer": "int", "string": "str"}.get(schema.get("type", ""), "Any")
    return {
        "label": label, "type": schema, "python_type": {"type": python, "description": about}, "component": "Api",
    }  # fmt: skip


def _parameter(endpoint: Endpoint, name: str) -> dict[str, Any]:
    field, schema = endpoint.arguments.model_fields[name], endpoint.schema["properties"][name]
    default = None if field.is_required() else field.default
    return _value(name, schema, field.description or "") | {
        "parameter_name": name, "parameter_has_default": not field.is_required(), "parameter_default": default,
        "example_input": 3 if schema.get("type") == "integer" else default or "dog",
    }  # fmt: skip


def _stream(text: bytes) -> Response:
    return Response(text, headers=_JSON, media_type="text/event-stream")


class Tools:
    """The endpoints as tools of the Model Context Protocol: streamable HTTP, JSON answers, no sessions."""

    def __init__(self, endpoints: Endpoints) -> None:
        from mcp import types
        from mcp.server.lowlevel import Server
        from mcp.server.streamable_http_manager import StreamableHTTPSessionManager

        server: Server[Any, Any] = Server("hubprobe", __version__)

        async def tools() -> list[types.Tool]:
            return [
                types.Tool(name=one.name, description=f"{one.about}\n\nReturns: {one.returns}", inputSchema=one.schema)
                for one in endpoints.table.values()
            ]

        async def call(name: str, arguments: dict[str, Any]) -> list[types.TextContent]:
            try:
                found = await endpoints.answer(named(endpoints, name), arguments)
            except HTTPException as error:
                raise QueryError(error.detail) from None
            except QueryError as error:
                raise QueryError(printable(error, 600)) from None
            except Exception:  # noqa: BLE001 - the log has it; a stranger gets none of the inside
                _LOG.exception("the tool %s failed", printable(name, 40))
                raise RuntimeError(INSIDE) from None
            return [types.TextContent(type="text", text=found.decode())]

        server.list_tools()(tools)  # type: ignore[no-untyped-call]
        server.call_tool(validate_input=False)(call)
        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)

    def routes(self) -> list[BaseRoute]:
        """Return the addresses."""
        paths = ("/gradio_api/mcp", "/gradio_api/mcp/", "/mcp", "/mcp/")
        return [Route(path, self, methods=["POST"]) for path in paths]

    @asynccontextmanager
    async def running(self, _app: object) -> AsyncIterator[None]:
        """Keep the server ready, while the application runs."""
        async with self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message, which is JSON by our own reading first."""
        request = Request(scope, receive)
        await read_json(request)
        body = [await request.body()]

        async def again() -> Message:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            return await receive()

        await self._manager.handle_request(scope, again, send)
