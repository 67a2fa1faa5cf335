"""A web server for a folder, with range requests and kept connections."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.remote.proxy import ended


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield host and port where ``folder`` is served."""
    loop, ready, port = asyncio.new_event_loop(), threading.Event(), [0]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, name = head.split(" ")[:2]
                path = folder / name.lstrip("/")
                if ".." in name or not path.is_file():
                    writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
                    continue
                size = path.stat().st_size
                start, stop, status = 0, size, "200 OK"
                for line in head.lower().split("\r\n"):
                    if line.startswith("range: bytes="):
                        first, _, last = line[13:].partition("-")
                        start, stop, status = int(first), int(last) + 1, "206 Partial Content"
                fields = f'Content-Length: {stop - start}\r\nETag: "{size}"\r\nAccept-Ranges: bytes\r\n'
                fields += "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
                if start or stop != size:
                    fields += f"Content-Range: bytes {start}-{stop - 1}/{size}\r\n"
                writer.write(f"HTTP/1.1 {status}\r\n{fields}\r\n".encode())
                if method != "HEAD":
                    with path.open("rb") as file:
                        file.seek(start)
                        left = stop - start
                        while left:
                            chunk = file.read(min(left, 1 << 20))
                            left -= len(chunk)
                            writer.write(chunk)
                            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def serve() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
        port[0] = server.sockets[0].getsockname()[1]
        ready.set()

    def run() -> None:
        loop.create_task(serve())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    ready.wait()
    yield "127.0.0.1", port[0]
    asyncio.run_coroutine_threadsafe(ended(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
