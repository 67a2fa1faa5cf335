"""How fast the synthetic hub serves, so that a crawl measured against it measures the crawler.

``python benchmarks/hub_server.py`` starts it in another process, reads every list page over one connection, then asks
for single files over one connection. Both processes share the machine.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from urllib.parse import urlencode

import click

EXPAND = (
    "author", "createdAt", "disabled", "downloads", "gated", "lastModified", "library_name", "likes", "pipeline_tag",
    "private", "safetensors", "sha", "siblings", "tags",
)  # fmt: skip
"""The columns the crawler asks for."""


def rows_per_second(connection: http.client.HTTPConnection) -> tuple[int, float, float]:
    """Return rows listed, rows a second, and bytes a row."""
    query = [("pipeline_tag", "image-classification"), ("limit", "1000"), *(("expand", name) for name in EXPAND)]
    path: str | None = "/api/models?" + urlencode(query)
    rows = size = 0
    began = time.monotonic()
    while path:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
        rows, size = rows + body.count(b'"_id"'), size + len(body)
        link = response.getheader("Link")
        path = "/" + link.split(">")[0].split("/", 3)[3] if link else None
    return rows, rows / (time.monotonic() - began), size / rows


def answers_per_second(connection: http.client.HTTPConnection, seconds: float = 5.0) -> float:
    """Return how many ``resolve`` requests for a config are answered in a second."""
    connection.request("GET", "/api/models?limit=100")
    rows = json.loads(connection.getresponse().read())
    asked, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        connection.request("HEAD", f"/{rows[asked % 100]['id']}/resolve/main/config.json")
        connection.getresponse().read()
        asked += 1
    return asked / (time.monotonic() - began)


@click.command()
@click.option("--repos", default=200_000, show_default=True, help="Size of the hub.")
def main(repos: int) -> None:
    """Measure and print as JSON."""
    command = [sys.executable, "-m", "tests.hubs.synthetic", "--port", "0", "--repos", str(repos)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        connection = http.client.HTTPConnection(process.stdout.readline().strip().removeprefix("http://"))
        rows, speed, size = rows_per_second(connection)
        answers = answers_per_second(connection)
        process.terminate()
    click.echo(json.dumps({
        "rows": rows, "rows_per_second": round(speed), "bytes_per_row": round(size),
        "resolve_answers_per_second": round(answers),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
