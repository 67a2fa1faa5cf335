"""An HTTP proxy before a store: counts requests, adds latency, answers 503 SlowDown to a share, cuts for a while."""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter
from urllib.parse import unquote

_SLOW = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy:
    """Forwards to ``target``, host and port. ``counts`` has requests by method, and 503 and cut connections.

    ``asked`` has those that were answered otherwise, by method and folder.
    """

    def __init__(self, target: tuple[str, int], latency_s: float = 0.0) -> None:
        self.target, self.latency_s, self.throttle = target, latency_s, 0.0
        self.counts: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.sent = 0
        self.port = 0
        self._commits: set[str] = set()
        self._cut_until = 0.0
        self._loop = asyncio.new_event_loop()
        self._random = random.Random(0)

    def __enter__(self) -> Proxy:  # noqa: PYI034
        ready = threading.Event()

        async def serve() -> None:
            server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=512)
            self.port = server.sockets[0].getsockname()[1]
            ready.set()

        def run() -> None:
            self._loop.create_task(serve())
            self._loop.run_forever()

        threading.Thread(target=run, daemon=True).start()
        ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(ended(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def cut(self, seconds: float) -> None:
        """Drop every connection for so long."""
        self._cut_until = time.monotonic() + seconds

    def commits(self) -> int:
        """Return how many models' attempts were written."""
        return len(self._commits)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream = None
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = _length(head)
                body = await reader.readexactly(length) if length else b""
                method, path, _ = head.split(b" ", 2)
                self.counts[method.decode()] += 1
                if time.monotonic() < self._cut_until:
                    self.counts["cut"] += 1
                    return
                await asyncio.sleep(self.latency_s)
                if self._random.random() < self.throttle:
                    self.counts["503"] += 1
                    writer.write(b"HTTP/1.1 503 Slow Down\r\nContent-Length: %d\r\n\r\n" % len(_SLOW) + _SLOW)
                    continue
                self.asked[_kind(method, path)] += 1
                if upstream is None:
                    upstream = await asyncio.open_connection(*self.target)
                upstream[1].write(head + body)
                answer = await upstream[0].readuntil(b"\r\n\r\n")
                writer.write(answer)
                left = 0 if method == b"HEAD" else _length(answer)
                while left:
                    chunk = await upstream[0].read(min(left, 1 << 18))
                    if not chunk:
                        return
                    left -= len(chunk)
                    self.sent += len(chunk)
                    writer.write(chunk)
                    await writer.drain()
                name = path.decode().rpartition("/")[2].split("-")
                if method == b"PUT" and b"/attempts/" in path and len(name) > 2 and b" 200 " in answer[:20]:
                    self._commits.add(name[1])
                if b"connection: close" in answer.lower():
                    upstream[1].close()
                    upstream = None
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            if upstream is not None:
                upstream[1].close()


async def ended() -> None:
    """Cancel what the loop still does."""
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _kind(method: bytes, path: bytes) -> str:
    """Return the method and the folder of a request: ``GET attempts``, ``LIST attempts``."""
    where, _, options = unquote(path.decode()).partition("?")
    listed = re.search(r"prefix=([^&]*)", options) if "list-type" in options else None
    folders = "catalog|runs|attempts|probes|descriptors|index"
    found = re.search(rf"/({folders})(/|$)", "/" + listed[1] if listed else where)
    return f"{'LIST' if listed else method.decode()} {found[1] if found else 'others'}"


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0
