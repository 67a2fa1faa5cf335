"""A web server for a folder, with range requests, kept connections and latency: a process of its own.

``python -m benchmarks.remote.web FOLDER SECONDS`` waits so long before every answer, and prints its port.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def serving(folder: Path, latency_s: float) -> Iterator[str]:
    """Yield the address at which ``folder`` is served; not in this process, whose lock it would share."""
    command = [sys.executable, "-m", "benchmarks.remote.web", str(folder), str(latency_s)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


async def serve(folder: Path, latency_s: float) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                method, name = head.split(" ")[:2]
                await asyncio.sleep(latency_s)
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

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=512)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), float(sys.argv[2])))
