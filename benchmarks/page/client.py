"""A browser's connection, as thin as can be: a client that is slower than the page would measure itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode, urlsplit


class Connection:
    """One HTTP/1.1 connection that is kept open, for one searcher."""

    def __init__(self, url: str) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, way: str, text: str, where: str) -> None:
        """Ask one question; raises `ValueError` for anything but an answer with hits."""
        if way == "page":
            values = {"q": text, "where": where} if where else {"q": text}
            found = await self._send("GET", f"/?{urlencode(values)}")
            if b'id="hit-1"' not in found:
                raise ValueError("a page without hits")
            return
        body = json.dumps({"data": [text, where, "logit", 10]}).encode()
        if way == "api":
            found = await self._send("POST", "/gradio_api/run/search", body)
        else:
            event = json.loads(await self._send("POST", "/gradio_api/call/search", body))["event_id"]
            found = await self._send("GET", f"/gradio_api/call/search/{event}")
            if b"event: complete" not in found:
                raise ValueError(found[:200].decode())
        if b'"rank":1' not in found.replace(b": ", b":"):
            raise ValueError("no hits")

    async def get(self, path: str) -> Any:
        """Return what a path answers, as JSON."""
        return json.loads(await self._send("GET", path))

    async def _send(self, method: str, path: str, body: bytes = b"") -> bytes:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=2**20)
        assert self._reader is not None
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._host}:{self._port}\r\n"
        if body:
            head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        found = await self._body(headers)
        if headers.get("connection") == "close":
            self._writer.close()
            self._writer = None
        if " 200 " not in lines[0]:
            raise ValueError(f"{lines[0]}: {found[:200].decode(errors='replace')}")
        return found

    async def _body(self, headers: dict[str, str]) -> bytes:
        assert self._reader is not None
        if "content-length" in headers:
            return await self._reader.readexactly(int(headers["content-length"]))
        parts = []
        while size := int(await self._reader.readline(), 16):
            parts.append((await self._reader.readexactly(size + 2))[:-2])
        await self._reader.readline()
        return b"".join(parts)
