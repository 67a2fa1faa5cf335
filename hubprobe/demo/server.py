"""The demo hub: a folder of repositories behind the Hub's wire protocol, on this machine only.

``python -m hubprobe.demo.server --port 8600`` serves it until interrupted, so that any client of the Hub can be
pointed at it with ``HF_ENDPOINT=http://127.0.0.1:8600``. See ``docs/demo-hub.md``.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import click

from hubprobe.demo import lite0, unhealthy
from hubprobe.demo.listing import FolderCatalog, RefusedError, read_folder
from hubprobe.demo.protocol import Protocol, error
from hubprobe.demo.repository import Repo
from hubprobe.demo.uploads import Datasets
from hubprobe.demo.wire import Listener, Request, Respond, Response


@dataclass(frozen=True)
class Standing:
    """Where a caller stands in a window after one request."""

    bucket: str
    allowed: bool
    remaining: int
    reset_in: int  # seconds until the window ends, rounded up
    quota: int
    window: int  # seconds

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What every answer of the Hub says of it."""
        return [
            ("RateLimit", f'"{self.bucket}";r={self.remaining};t={self.reset_in}'),
            ("RateLimit-Policy", f'"fixed window";"{self.bucket}";q={self.quota};w={self.window}'),
        ]


Limiter = Callable[[str, str, str], Standing]
"""Counts a request of a bucket by a caller's address or token; returns where the caller stands."""


def unlimited(bucket: str, _address: str, _token: str) -> Standing:
    """Let everybody pass: nobody should wait for a hub on their own machine."""
    return Standing(bucket, True, 1_000_000, 300, 1_000_000, 300)


@dataclass(frozen=True)
class Asked:
    """One request and how it was answered."""

    time: float  # seconds, time.monotonic
    bucket: str  # api, resolvers, pages, or cdn for the second port
    method: str
    target: str  # path and query as sent
    status: int
    headers: dict[str, str]  # lower-case names

    @property
    def has_token(self) -> bool:
        """Return whether the request carried credentials."""
        return "authorization" in self.headers or "cookie" in self.headers


class RequestLog:
    """Thread-safe record of requests; counts are complete, the records kept are the latest ``keep``."""

    def __init__(self, keep: int = 100_000) -> None:
        self._lock = threading.Lock()
        self._kept: deque[Asked] = deque(maxlen=keep)
        self._counts: Counter[tuple[str, int]] = Counter()

    def add(self, asked: Asked) -> None:
        """Record one request."""
        with self._lock:
            self._kept.append(asked)
            self._counts[asked.bucket, asked.status] += 1

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._kept.clear()
            self._counts.clear()

    def count(self, bucket: str | None = None, status: int | None = None) -> int:
        """Return how many requests there were, in all or of one bucket and status."""
        with self._lock:
            return sum(n for (b, s), n in self._counts.items() if bucket in (None, b) and status in (None, s))

    def matching(self, part: str) -> list[Asked]:
        """Return the kept requests whose target contains ``part``."""
        return [asked for asked in self if part in asked.target]

    def __iter__(self) -> Iterator[Asked]:
        with self._lock:
            return iter(list(self._kept))

    def __len__(self) -> int:
        return self._counts.total()


HUB = Path(__file__).parent / "hub"
"""The repositories that ship with hubprobe."""

Intercept = Callable[[str, Request, Respond], Response]
"""Stands between the wire and the hub: given the bucket, the request and what would answer it, returns the answer."""


class HubServer:
    """Serves repositories over loopback HTTP; a context manager.

    Args:
        source: a folder with ``models/<owner>/<name>/``, some repositories, or a catalog.
        port: of the endpoint; 0 takes a free one. The CDN always gets a free one.
        page_size: rows of a list page at most.
        tree_page_size: entries of a tree page.
        limiter: rate limits; none by default.
        intercept: stands between the wire and the hub, to inject faults.
        latency: seconds every answer takes at least.

    Attributes:
        requests: what was asked, a `RequestLog`.
        catalog: the repositories; a `FolderCatalog` may be changed while it is served.
    """

    def __init__(
        self,
        source: Path | Iterable[Repo] | FolderCatalog,
        *,
        port: int = 0,
        page_size: int = 1000,
        tree_page_size: int = 1000,
        limiter: Limiter = unlimited,
        intercept: Intercept | None = None,
        latency: float = 0.0,
    ) -> None:
        if isinstance(source, Path):
            source = read_folder(source)
        self.catalog = source if isinstance(source, FolderCatalog) else FolderCatalog(source)
        self.requests = RequestLog()
        self.intercept = intercept
        self._limiter = limiter
        self._latency = latency
        self._protocol = Protocol(self.catalog, lambda _: self.cdn_url, (page_size, tree_page_size))
        self._datasets = Datasets(lambda: self.url, lambda: self.cdn_url)
        self._endpoint = Listener(lambda request: self._logged(_bucket(request), request, self._answer), port=port)
        self._cdn = Listener(self._respond_cdn)
        self._back: threading.Timer | None = None  # set while `down`

    @property
    def url(self) -> str:
        """Address of the endpoint, for ``HF_ENDPOINT``."""
        return f"http://{self._endpoint.host}:{self._endpoint.port}"

    @property
    def cdn_url(self) -> str:
        """Address of the CDN: another origin, to which no client may send its token.

        Under another name than the endpoint's: huggingface_hub 1.31 and 2.0 take a redirect to the same host, whatever
        its port, for one within the Hub, and then miss the commit that only the first answer states.
        """
        return f"http://localhost:{self._cdn.port}"

    def start(self) -> HubServer:
        """Bind the ports and answer in the background."""
        self._cdn.start()
        self._endpoint.start()
        return self

    def stop(self) -> None:
        """Close the ports and all connections, for good."""
        if self._back is not None:
            self._back.cancel()
            self._back = None
        self._endpoint.stop()
        self._cdn.stop()

    def down(self, seconds: float) -> threading.Timer:
        """Refuse connections for ``seconds``, from now on, then be back on the same ports; returns the timer."""
        self.stop()
        self._back = threading.Timer(seconds, self.start)
        self._back.daemon = True
        self._back.start()
        return self._back

    def __enter__(self) -> HubServer:  # noqa: PYI034 - Self needs Python 3.11
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _respond_cdn(self, request: Request) -> Response:
        datasets = request.segments[0] == "datasets"
        return self._logged("cdn", request, self._datasets.deliver if datasets else self._protocol.deliver)

    def _answer(self, request: Request) -> Response:
        bucket = _bucket(request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        standing = self._limiter(bucket, request.client, token)
        if standing.allowed:
            here = self._datasets if self._datasets.answers(request) else self._protocol
            response = here.answer(request)
        else:
            message = f"We had to rate limit you, you hit the quota of {standing.quota} {bucket} requests"
            message += f" per {standing.window} seconds."
            response = error(RefusedError(429, "", message))
        response.headers += standing.headers
        return response

    def _logged(self, bucket: str, request: Request, answer: Respond) -> Response:
        arrived = time.monotonic()
        if self._latency:
            time.sleep(self._latency)
        status = 0  # of a request that was cut before there was an answer
        try:
            response = self.intercept(bucket, request, answer) if self.intercept else answer(request)
            status = response.status
        finally:
            self.requests.add(Asked(arrived, bucket, request.method, request.target, status, request.headers))
        response.headers.append(("X-Request-Id", f"Root=1-{uuid4().hex}"))
        return response


def _bucket(request: Request) -> str:
    parts = request.segments
    if parts[0] == "api":
        return "resolvers" if parts[1:2] == ("resolve-cache",) else "api"
    return "resolvers" if "resolve" in parts[1:4] else "pages"


def demo_repos(*, with_unhealthy: bool = True, with_lite0: bool = True) -> list[Repo]:
    """Return the repositories of the demo hub: those that ship, those that must not be probed, each for its own reason,
    and the real EfficientNet-Lite0, assembled from its package on first use.
    """
    repos = read_folder(HUB)
    if with_unhealthy:
        home = next(repo for repo in repos if "ForImageClassification" in repo.text("config.json"))
        repos += unhealthy.repos(home)
    if with_lite0:
        root = lite0.cached()
        repos.append(Repo.from_folder(lite0.REPO_ID, root / "models" / lite0.REPO_ID, lite0.FACTS))
    return repos


def serve_demo(*, port: int = 0, with_unhealthy: bool = True, with_lite0: bool = True) -> HubServer:
    """Return the demo hub, not yet started: use it as a context manager."""
    return HubServer(demo_repos(with_unhealthy=with_unhealthy, with_lite0=with_lite0), port=port)


@click.command()
@click.option("--port", default=8600, show_default=True, help="Port of the endpoint; 0 takes a free one.")
@click.option("--page-size", default=1000, show_default=True, help="Rows of a list page at most.")
@click.option("--healthy-only", is_flag=True, help="Leave out the repositories that must not be probed.")
def main(port: int, page_size: int, healthy_only: bool) -> None:
    """Serve the demo hub on this machine until interrupted; its address goes to stdout."""
    with HubServer(demo_repos(with_unhealthy=not healthy_only), port=port, page_size=page_size) as server:
        click.echo(server.url)
        click.echo(f"serving; in another terminal: HF_ENDPOINT={server.url} hf models ls", err=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo(f"{len(server.requests)} requests answered", err=True)


if __name__ == "__main__":
    sys.exit(main())
