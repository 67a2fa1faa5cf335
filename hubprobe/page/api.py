"""The API: a table of what a program can ask, and HTTP, OpenAPI, Gradio's clients and MCP, which are read off it."""

from __future__ import annotations

import base64
import binascii
import inspect
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from anyio import sleep, to_thread
from cachetools import TTLCache
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json, to_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from hubprobe.page import question as questions
from hubprobe.page.limits import whole
from hubprobe.page.question import MOST, Question
from workspace import QueryError
from workspace.text import printable
from workspace.version import __version__

if TYPE_CHECKING:
    from anyio import CapacityLimiter
    from starlette.types import Receive, Scope, Send

    from hubprobe.page.opened import Current

LONGEST = 10_000
"""Characters of a text or a condition; the search's own bound is lower and says so."""

IMAGE_LONGEST = 16 * 2**20
"""Characters of an image in base64: as much as the largest body that is read."""

_REMEMBERED = 500
"""Characters of an argument of a call whose answer is remembered; images are longer."""

_TEXT = f"a text of at most {LONGEST:,} characters"
Text = Annotated[
    str, Field(max_length=LONGEST, description=f'{_TEXT}: a concept in words, such as "dog" or "a red car"')
]
Where = Annotated[
    str,
    Field(
        max_length=LONGEST,
        description=f"{_TEXT}: an SQL condition over models and logits, such as "
        "\"downloads > 1000 AND license = 'mit'\"; may be empty",
    ),
]
By = Annotated[
    Literal["logit", "model", "family"],
    Field(description="'logit', 'model' or 'family': what a hit is; near-copies count once in a family"),
]
Limit = Annotated[int, Field(ge=1, le=MOST, description=f"a whole number between 1 and {MOST}: how many hits")]
RepoId = Annotated[str, Field(max_length=300, description='a text such as "owner/name": the repository of a model')]
Logit = Annotated[int, Field(ge=0, lt=2**31, description="a whole number: the index of an output of the model")]
Base64 = Annotated[
    str,
    Field(max_length=IMAGE_LONGEST, description="a text in base64: the bytes of a PNG, JPEG, WebP, GIF or BMP file"),
]
Records = list[dict[str, Any]]


class _Arguments(BaseModel):
    """Arguments of a call: of exactly the declared scalar types, and no others."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


@dataclass(frozen=True)
class Endpoint:
    """One question that a program can ask."""

    name: str  # how it is called
    function: Callable[..., Any]  # answers it; its arguments are keywords
    arguments: type[BaseModel]  # their names, types, bounds, defaults and meaning
    about: str  # what it does, a sentence
    returns: str  # what it answers, a sentence

    @property
    def schema(self) -> dict[str, Any]:
        """The arguments as a JSON schema."""
        return self.arguments.model_json_schema()

    def positional(self, values: Sequence[Any]) -> dict[str, Any]:
        """Name arguments that came in order; raises `QueryError` for too many."""
        names = list(self.arguments.model_fields)
        if len(values) > len(names):
            raise QueryError(f"{self.name} takes at most {len(names)} arguments: {', '.join(names)}")
        return dict(zip(names, values, strict=False))

    def written(self, values: Mapping[str, str]) -> dict[str, Any]:
        """Read arguments that came as text, in an address."""
        fields = self.arguments.model_fields
        whole = {key for key, field in fields.items() if field.annotation is int}
        number = re.compile("-?[0-9]{1,15}")
        return {k: int(v) if k in whole and number.fullmatch(v) else v for k, v in values.items()}

    def checked(self, values: Any) -> dict[str, Any]:
        """Return the arguments of a call with their defaults.

        Raises `QueryError` for anything that is not of its declared scalar type and within its bounds.
        """
        if not isinstance(values, dict):
            raise QueryError(f"{self.name} takes an object of arguments: {', '.join(self.arguments.model_fields)}")
        try:
            return dict(self.arguments.model_validate(values))
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
        name = printable(first["loc"][0], 40)
        if first["type"] == "extra_forbidden":
            raise QueryError(f"{self.name} has no argument '{name}': {', '.join(self.arguments.model_fields)}")
        verb = "is needed:" if first["type"] == "missing" else "must be"
        raise QueryError(f"'{name}' {verb} {self.arguments.model_fields[name].description}")


class Endpoints:
    """The table, and how it is answered; ``searching`` limits the searches that run at once, also those of the page."""

    def __init__(self, current: Current, searching: CapacityLimiter) -> None:
        self._current, self._searching = current, searching
        functions: list[Callable[..., Any]] = [
            self.search, self.search_image, self.similar, self.describe, self.coverage,
        ]  # fmt: skip
        self.table = {function.__name__: _endpoint(function) for function in functions}

    async def answer(self, endpoint: Endpoint, values: Any) -> bytes:
        """Return the JSON of an answer; raises `QueryError` for what cannot be answered as asked."""
        arguments = endpoint.checked(values)
        opened, call = self._current.get(), (endpoint.name, *arguments.values())
        small = all(len(str(value)) <= _REMEMBERED for value in arguments.values())
        known: bytes | None = opened.records.get(call) if small else None
        if known is not None:
            return known
        # in the page's few threads: each keeps what its searches needed
        try:
            answer = await to_thread.run_sync(partial(endpoint.function, **arguments), limiter=self._searching)
        except QueryError as error:
            raise QueryError(self._current.public(error)) from error
        text = to_json(answer, inf_nan_mode="null")
        return opened.records.put(call, text) if small and opened.names.state != "preparing" else text

    def search(self, text: Text, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs (logits) of public image classifiers that recognise a concept, by what they answer.

        Returns:
            Hits, best first: rank, score, repo_id, sha, logit, label (the model's own word, untrusted), name (suggested
            by behaviour) with name_confidence, found_by, facts of the model, evidence (probes answered most strongly)
        """
        return self._hits(Question(q=text, where=where, by=by, n=limit))

    def search_image(self, image: Base64, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs (logits) of public image classifiers that recognise what an example image shows.

        Returns:
            Hits, best first, as of search
        """
        try:
            data = base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image, validate=True)
        except (binascii.Error, ValueError):
            raise QueryError("the image is not base64: encode the bytes of the file") from None
        return self._hits(Question(image=self._current.remember(data, "image"), where=where, by=by, n=limit))

    def similar(self, repo_id: RepoId, logit: Logit, where: Where = "", by: By = "logit", limit: Limit = 10) -> Records:
        """Find outputs of other models that answer like one output of a model.

        Returns:
            Hits, best first, as of search
        """
        return self._hits(Question(like=repo_id, logit=logit, where=where, by=by, n=limit))

    def describe(self, repo_id: RepoId) -> Records:
        """Name every output of a model by what it recognises, whatever it is called.

        Returns:
            A record per output: logit, label (the model's own word, untrusted), name, confidence, source, others
        """
        opened = self._current.get()
        if opened.names.state != "ready":
            raise QueryError(f"names are not there: {opened.names.state}")
        rows: Records = opened.index.describe(repo_id, progress=False).to_pylist()
        return [row | {"label": None if row["label"] is None else printable(row["label"], 200)} for row in rows]

    def coverage(self, text: Text, where: Where = "") -> dict[str, Any]:
        """Say how probable it is that a concept can be answered by this index.

        Returns:
            covered, probability (that one of the ten nearest is right), said (the same in words) and notes (such
            as that a text was cut)
        """
        query = questions.prepared(self._current, self._current.get(), Question(q=text, where=where))
        sure, notes = query.coverage(), list(query.notes)
        return {"covered": sure.covered, "probability": round(sure.probability, 4), "said": str(sure), "notes": notes}

    def _hits(self, question: Question) -> Records:
        opened = self._current.get()
        query = questions.prepared(self._current, opened, replace(question, q=question.q.strip()))
        return [
            questions.plain(opened, hit) for hit in questions.records(opened, query.by(question.by).limit(question.n))
        ]


def _endpoint(function: Callable[..., Any]) -> Endpoint:
    """Return the row of the table that a function's signature and docstring say."""
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if one.default is inspect.Parameter.empty else one.default)
        for name, one in inspect.signature(function).parameters.items()
    }
    about, _, returns = (inspect.getdoc(function) or "").partition("\n\nReturns:\n")
    arguments = create_model(function.__name__, __base__=_Arguments, **fields)
    return Endpoint(function.__name__, function, arguments, about, " ".join(returns.split()))


# ── over HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────────


EVENT_BYTES = 64 * 2**20
"""Of the answers that wait to be fetched by the second request of a Gradio client, over all clients."""

MAX_VALUES = 50_000
"""Values in the JSON of a request, commas in texts included: arguments are a few, texts have 10,000 characters."""

EVENT_S = 120.0
"""How long such an answer waits, and how long a client may hold the stream of its answers open."""

LINGER_S = 1.5
"""How long that stream stays open after an answer: what Gradio's client asks at its very end it takes for cancelled."""

INSIDE = "this failed inside; the server's log says why"
"""What is said of an error that is ours."""

_JSON = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_LOG = logging.getLogger(__name__)


async def read_json(request: Request) -> Any:
    """Return the JSON of a request; an `HTTPException` says what is wrong with it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "send JSON, with the header content-type: application/json")
    body = await request.body()
    if sum(map(body.count, (b",", b"[", b"{"))) > MAX_VALUES:  # a list of lists stops everybody while it is made
        raise HTTPException(413, f"the body has more than {MAX_VALUES:,} values")
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError as error:  # no UTF-8, half a surrogate pair, NaN, nested too deep
        raise HTTPException(400, f"the body is not JSON: {printable(error, 120)}") from None


def encoded(text: bytes, status: int = 200) -> Response:
    """Return an answer that is JSON already."""
    return Response(text, status, headers=_JSON, media_type="application/json")


class Plain:
    """``/api/NAME``: arguments by name, in the address or in a JSON object; the answer alone."""

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        described = JSONResponse(openapi(endpoints), headers=_JSON)
        self.routes: list[BaseRoute] = [
            Route("/api/openapi.json", lambda _: described, methods=["GET"]),
            Route("/api/{name}", self.call, methods=["GET", "POST"]),
        ]

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


def _size(event: _Event) -> int:
    return len(event.data) + len(event.error or "") + 1_000


class GradioCalls:
    """The calls of Gradio's clients, with answers of fixed shape: no file, no upload, no component is behind them.

    A call is answered when it is posted; what the second request of a client fetches is there by then.
    """

    def __init__(self, endpoints: Endpoints, event_bytes: int = EVENT_BYTES) -> None:
        self._endpoints, self._all = endpoints, list(endpoints.table.values())
        self._events: TTLCache[str, _Event] = TTLCache(event_bytes, EVENT_S, getsizeof=_size)
        self.routes: list[BaseRoute] = [
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
        answer = await self._endpoints.answer(endpoint, self._values(endpoint, await read_json(request)))
        return encoded(b'{"data":[' + answer + b"]}")

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
        """Hand out everything that is answered in a session, until nothing more came for `LINGER_S`."""
        session = request.query_params.get("session_hash", "")

        async def lines() -> AsyncIterator[bytes]:
            begun, until = time.monotonic(), 0.0  # a session without answers is closed at once
            while session:
                for key, event in list(self._events.items()):
                    if event.session == session and self._events.pop(key, None) is not None:
                        until = min(time.monotonic() + LINGER_S, begun + EVENT_S)
                        yield _completed(key, event)
                if time.monotonic() >= until:
                    break
                await sleep(0.02)
            yield b'data: {"msg": "close_stream", "event_id": null}\n\n'

        return StreamingResponse(lines(), headers=_JSON, media_type="text/event-stream")

    async def _posted(self, endpoint: Endpoint, body: Any, session: str) -> Response:
        arguments = endpoint.checked(self._values(endpoint, body))  # of the wrong type: refused here and now
        key = secrets.token_hex(16)
        try:
            event = _Event(session, endpoint.name, await self._endpoints.answer(endpoint, arguments))
        except QueryError as error:
            event = _Event(session, endpoint.name, b"", printable(error, 600))
        if _size(event) > self._events.maxsize:
            text = f"the answer has {len(event.data):,} bytes: ask /api/{endpoint.name}, which sends it at once"
            event = _Event(session, endpoint.name, b"", text)
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
        answer = max(len(one.arguments.model_fields) for one in self._all)
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


def _completed(key: str, event: _Event) -> bytes:
    good = event.error is None
    output = b'{"data":[' + event.data + b"]}" if good else json.dumps({"error": event.error}).encode()
    head = json.dumps({"msg": "process_completed", "event_id": key, "success": good})[:-1]
    return b"data: " + head.encode() + b', "output":' + output + b"}\n\n"


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
                answer = await endpoints.answer(named(endpoints, name), arguments)
            except HTTPException as error:
                raise QueryError(error.detail) from None
            except QueryError as error:
                raise QueryError(printable(error, 600)) from None
            except Exception:  # noqa: BLE001 - the log has it; a stranger gets none of the inside
                _LOG.exception("the tool %s failed", printable(name, 40))
                raise RuntimeError(INSIDE) from None
            return [types.TextContent(type="text", text=answer.decode())]

        server.list_tools()(tools)  # type: ignore[no-untyped-call]
        server.call_tool(validate_input=False)(call)
        self._manager = StreamableHTTPSessionManager(server, json_response=True, stateless=True)
        paths = ("/gradio_api/mcp", "/gradio_api/mcp/", "/mcp", "/mcp/")
        self.routes: list[BaseRoute] = [Route(path, self, methods=["POST"]) for path in paths]

    @asynccontextmanager
    async def running(self, _app: object) -> AsyncIterator[None]:
        """Keep the server ready, while the application runs."""
        async with self._manager.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message, which is JSON by our own reading first."""
        request = Request(scope, receive)
        await read_json(request)
        await self._manager.handle_request(scope, whole(await request.body(), receive), send)
