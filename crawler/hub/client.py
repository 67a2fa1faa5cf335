"""HTTP to the Hub: paced by its rate limits, bounded in time and bytes, redirects followed by hand.

Redirects are followed here and not by the HTTP library so that the token goes to the endpoint's own origin and nowhere
else, that every hop is counted in its bucket, and that the hash and size named on the first hop are kept.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub.utils import httpx  # type: ignore[attr-defined]

from crawler.hub.pacing import Bucket, RateLimits, Retries, bucket_name, standing, stated_wait
from crawler.hub.transport import RETRIED, Deadline, RetryError, Transport, UnansweredError, exchange, pause, refusal
from workspace import Status, __version__
from workspace.endpoint import checked, is_loopback, is_on, origin, proxy_for

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
READ_SECONDS = 30.0  # silence allowed between two pieces of an answer
EXCHANGE_SECONDS = 60.0  # one small answer, first byte to last
PATIENCE_SECONDS = 240.0  # how long an outage is waited out
MAX_HOPS = 6  # redirects of one request
_PIECE = 1 << 20  # bytes inflated at a time
_REDIRECTS = (301, 302, 303, 307, 308)
_URL_CHARACTERS = "%/:=&?~#+!$,;'@()*[]"
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)
_HUB_PATH = re.compile(r"/(?:api/(?:models|resolve-cache)/|[^/]+(?:/[^/]+)?/resolve/)")
"""What paths of the Hub look like: a mirror under a path of its own may leave that out where it redirects."""


@dataclass
class Answer:
    """One answer after redirects. ``headers`` are the last hop's; ``linked`` the ``x-`` headers of the first hop."""

    status: int
    headers: Mapping[str, str]
    linked: Mapping[str, str] = field(default_factory=dict)
    location: str | None = None  # set when a redirect was asked not to be followed
    body: bytes = b""

    @property
    def etag(self) -> str:
        """Name of the content: git blob sha1 (40 hex digits) or LFS sha256 (64); empty when neither was stated.

        A mirror that strips the Hub's headers has an ``ETag`` of its own, which says nothing of the kind.
        """
        ours = self.headers.get("etag", "") if "x-repo-commit" in self.linked else ""
        raw = self.linked.get("x-linked-etag") or ours
        etag = raw.removeprefix("W/").strip('"').lower()
        return etag if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", etag) else ""

    @property
    def span(self) -> tuple[int, int, int | None] | None:
        """First byte, last byte and size of the whole, of an answer in part; None when it is none."""
        found = _RANGE.fullmatch(self.headers.get("content-range", "")) if self.status == 206 else None
        return (int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])) if found else None

    @property
    def size(self) -> int | None:
        """Size of the whole file in bytes, from whichever header states it."""
        if (size := _number(self.linked.get("x-linked-size", ""))) is not None:
            return size
        if self.span is not None:
            return self.span[2]
        return _number(self.headers.get("content-length", "")) if self.status == 200 else None


class HubClient:
    """A connection to one endpoint, shared by threads.

    Args:
        endpoint: address of the Hub.
        token: sent to the endpoint's own origin only; never logged.

    Attributes:
        limits: the rate limits as the Hub states them.
        requests: requests sent, by bucket; ``elsewhere`` is any other origin.
        retries: what is tried again, and how often it was.
    """

    def __init__(self, endpoint: str, token: str | None = None) -> None:
        self.endpoint = checked(endpoint)
        self._origin, self._prefix = origin(self.endpoint), urlsplit(self.endpoint).path
        self._token = token
        self.limits = RateLimits()
        self.requests: dict[str, int] = {"api": 0, "resolvers": 0, "elsewhere": 0}
        self.retries = Retries(PATIENCE_SECONDS)
        self._lock = threading.Lock()
        # The transport alone: a client would keep cookies, read a .netrc and make the next request of every redirect
        # before it is refused, for a third of the time of a small answer.
        self._transport = Transport()
        self._agent = user_agent()
        timeouts = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS, pool=EXCHANGE_SECONDS)
        self._extensions = {"timeout": timeouts.as_dict()}

    def __repr__(self) -> str:
        return f"HubClient({self.endpoint!r})"

    def close(self) -> None:
        """Close all connections; requests that wait for their turn, or to be tried again, give up."""
        self.retries.stop()
        self._transport.close()

    def check_online(self) -> None:
        """Raise `HubError` when the environment says that the Hub must not be asked."""
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            if is_on(name):
                raise UnansweredError(Status.NETWORK_ERROR, f"{name} is set, so the Hub is not asked: unset it")

    def resolve_url(self, repo_id: str, sha: str, path: str) -> str:
        """Return the address of a file at a commit; every part is quoted, because all of them are untrusted."""
        return f"{self.endpoint}/{quote(repo_id)}/resolve/{quote(sha, safe='')}/{quote(path)}"

    def api_url(self, repo_id: str, rest: str = "") -> str:
        """Return the address of a repository in the API."""
        return f"{self.endpoint}/api/models/{quote(repo_id)}{rest}"

    def same_origin(self, url: str) -> bool:
        """Return whether ``url`` is on the endpoint: scheme, host and port."""
        return origin(url) == self._origin

    def path_of(self, url: str) -> str:
        """Return the path of an address as the Hub itself would have it: without what the endpoint puts before it."""
        path = urlsplit(url).path
        return path.removeprefix(self._prefix) if path.startswith(f"{self._prefix}/") else path

    def read(
        self,
        url: str,
        *,
        limit: int,
        deadline: Deadline | None = None,
        start: int | None = None,
        stop: int | None = None,
        content: bytes | None = None,
        follow: bool = True,
        what: str = "",
        check: Callable[[Answer], None] | None = None,
        slow_tries: int | None = None,
    ) -> Answer:
        """GET ``url``, or POST a form (``content``) to it; return its answer with at most ``limit`` bytes of body.

        With ``start`` and ``stop`` the bytes ``[start, stop)`` are asked for; a server that ignores the range is read
        only as far as needed. ``follow=False`` returns a redirect (``location``) instead of following it.
        What may pass by itself is tried again, when the server takes too long at most ``slow_tries`` times; ``check``
        may raise `RetryError` for an answer that makes no sense. Raises `UnansweredError`.
        """
        extra = {} if start is None else {"range": f"bytes={start}-{(stop or limit) - 1}"}
        if content is not None:
            extra["content-type"] = "application/x-www-form-urlencoded"
        method = "GET" if content is None else "POST"

        def once() -> Answer:
            seconds = EXCHANGE_SECONDS if deadline is None else max(min(EXCHANGE_SECONDS, deadline.left), 0.01)
            with exchange(seconds):
                asked = self.open(url, method=method, headers=extra, content=content, follow=follow, deadline=deadline)
                with asked as (answer, chunks):
                    answer.body = bounded(answer, chunks, limit, start, stop) if answer.location is None else b""
            if check is not None and answer.location is None:
                check(answer)
            return answer

        return self.retries.call(once, deadline, what or urlsplit(url).path, slow_tries)

    @contextmanager
    def open(
        self,
        url: str,
        *,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        follow: bool = True,
        deadline: Deadline | None = None,
    ) -> Iterator[tuple[Answer, Iterator[bytes]]]:
        """Send one request, follow its redirects, and yield the answer and its body in pieces (content-decoded).

        No retries: what `retries` may try again is raised as `RetryError` or the transport's own errors. Raises
        `UnansweredError` for a final refusal.
        """
        self.check_online()
        linked: dict[str, str] = {}
        what, asked = self.path_of(url), headers or {}
        for _ in range(MAX_HOPS):
            with self._send(method, url, asked, content, deadline) as response:
                status, found = response.status_code, response.headers
                if status in _REDIRECTS and "location" in found:
                    target = self._target(url, found["location"], status)
                    if not follow:
                        yield Answer(status, found, linked, location=target), iter(())
                        return
                    linked = {k: v for k, v in found.items() if k.startswith("x-")} | linked
                    url = target
                    continue
                first_byte = asked.get("range", "").startswith("bytes=0-")
                if status == 416 and first_byte and linked.get("x-linked-size", "0") == "0":
                    # Only a file without a byte ends before its first one; of a longer one the answer makes no sense.
                    yield Answer(200, {**found, "content-length": "0"}, linked), iter(())
                    return
                if status >= 400:
                    problem = refusal(response, what)
                    if status not in RETRIED:
                        raise problem
                    raise RetryError(problem, stated_wait(found) if status in (429, 503) else None)
                linked = {k: v for k, v in found.items() if k.startswith("x-")} | linked
                yield Answer(status, found, linked), decoded(response.iter_raw(), found.get("content-encoding", ""))
                return
        raise UnansweredError(Status.SERVER_ERROR, f"{what}: redirected {MAX_HOPS} times, in a loop")

    @contextmanager
    def _send(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, deadline: Deadline | None
    ) -> Iterator[httpx.Response]:  # type: ignore[name-defined, unused-ignore]
        path, ours = self.path_of(url), self.same_origin(url)
        bucket: Bucket | None = self.limits.bucket(path) if ours else None
        encoding = "gzip" if path.startswith("/api/models") else "identity"
        sent = {"accept": "*/*", "accept-encoding": encoding, "user-agent": self._agent, **headers}
        if ours and self._token and _is_private(url):
            sent["authorization"] = f"Bearer {self._token}"
        try:
            request = httpx.Request(method, url, headers=sent, content=content, extensions=self._extensions)
        except (httpx.InvalidURL, ValueError) as error:
            raise UnansweredError(Status.SERVER_ERROR, f"{path}: redirected to an address that is none") from error
        if bucket is not None and (wait := bucket.reserve()) > 0:
            pause(wait, deadline, self.retries.sleep)
        with self._lock:
            self.requests[bucket_name(path) if ours else "elsewhere"] += 1
        try:
            response = self._transport.handle_request(request)
            response.request = request
            try:
                if bucket is not None:
                    counted = self.limits.answered(path, bucket, standing(response.headers))
                    bucket = None
                    if response.status_code == 429:
                        counted.hold(stated_wait(response.headers) or 0.0)
                yield response
            finally:
                response.close()
        finally:
            if bucket is not None:
                bucket.answered(None)

    def _target(self, url: str, location: str, status: int) -> str:
        try:
            target: str = quote(urljoin(url, location), safe=_URL_CHARACTERS)
            path = urlsplit(target).path
        except ValueError as error:
            raise UnansweredError(Status.SERVER_ERROR, "redirected to an address that is none", status) from error
        if not target.startswith(("http://", "https://")):
            raise UnansweredError(Status.SERVER_ERROR, "redirected to an address that is not HTTP", status)
        if url.startswith("https:") and not target.startswith("https:"):
            raise UnansweredError(Status.SERVER_ERROR, "redirected from HTTPS to plain HTTP", status)
        if self.same_origin(target) and not path.startswith(f"{self._prefix}/") and _HUB_PATH.match(path):
            return urljoin(target, f"{self._prefix}{target[target.index(path) :]}")
        return target


def bounded(answer: Answer, chunks: Iterator[bytes], limit: int, start: int | None, stop: int | None) -> bytes:
    """Read what was asked for and no more: a body may be endless, and a server may ignore the range.

    Without a range, more than ``limit`` bytes raise `UnansweredError` (too_many_bytes). With one, bytes ``[start,
    stop)`` of the file come back, fewer only at its end; another answer is worth another try.
    """
    body = bytearray()
    if start is None or stop is None:
        for chunk in chunks:
            body += chunk
            if len(body) > limit:
                raise UnansweredError(Status.TOO_MANY_BYTES, f"an answer of more than {limit:,} bytes", answer.status)
        return bytes(body)
    at = answer.span[0] if answer.span else 0
    if at > start:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "the Hub sent another part than was asked for", 206))
    for chunk in chunks:
        body += chunk
        if len(body) >= stop - at:
            break
    part = bytes(body[start - at : stop - at])
    wanted = stop - start if answer.size is None else max(min(stop, answer.size) - start, 0)
    if len(part) < wanted:
        raise RetryError(UnansweredError(Status.SERVER_ERROR, "the Hub sent less than was asked for", answer.status))
    return part


def decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Yield a body in pieces of at most a megabyte; what is compressed is inflated piece by piece, bombs too.

    The HTTP library would inflate a piece whole, and several codings one inside the other.
    """
    if encoding in ("", "identity"):
        yield from pieces
        return
    if encoding not in ("gzip", "x-gzip"):
        problem = f"the Hub sent a coding that was not asked for: {encoding[:40]}"
        raise RetryError(UnansweredError(Status.SERVER_ERROR, problem, 200))
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    for chunk in pieces:
        piece = inflate.decompress(chunk, _PIECE)
        while piece:
            yield piece
            piece = inflate.decompress(inflate.unconsumed_tail, _PIECE)
    if not inflate.eof:
        raise zlib.error("a compressed answer ended too early")


def _is_private(url: str) -> bool:
    """Return whether nobody on the way to ``url`` can read along, a proxy's way included."""
    if url.startswith("https:"):
        return True
    proxy = proxy_for(url)
    return is_loopback(url) and (not proxy or is_loopback(f"http://{proxy.partition('://')[2]}"))


def _number(text: str) -> int | None:
    return int(text) if text.isdecimal() and len(text) <= 18 else None


# ── who we say we are, in every request: the project, and whom to write to about it ───────────────────────────────────
CONTACT = "HUBPROBE_CONTACT"
"""Environment variable: an address (mail or web) at which whoever runs this crawl can be reached."""


def user_agent() -> str:
    """Return ``hubprobe/<version> (crawler of image classifiers; <project's address>; contact: <yours>)``.

    The project's address is the package's own; parts that nobody has stated are left out.
    """
    parts = ["crawler of image classifiers"]
    if address := _project():
        parts.append(f"+{address}")
    if contact := _one_line(os.environ.get(CONTACT, "")):
        parts.append(f"contact: {contact}")
    return f"hubprobe/{__version__} ({'; '.join(parts)})"


def _project() -> str:
    try:
        stated = metadata.metadata("hubprobe").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        return ""
    return next((_one_line(line.partition(",")[2]) for line in stated), "")


def _one_line(text: str) -> str:
    """A header takes printable ASCII; what else an address may hold would only break it."""
    return re.sub(r"[^\x20-\x7e]|[()]", "", text).strip()[:200]
