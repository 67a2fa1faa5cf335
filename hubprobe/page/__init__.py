"""The page: search in the browser, with an API and an MCP endpoint beside it.

The HTML is written here, on the server, and not by Gradio's own front end: it is there in one round trip, works without
scripts, and may be served under a content security policy under which no text from the Hub can run.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
import webbrowser
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import click

from workspace import Workspace, WorkspaceError

__all__ = ["serve"]

SWITCH_S = 0.0005
"""How long a thread may keep Python's lock while another waits for it."""

HEAD_BYTES = 64 * 1024
"""Of a request's head: address and headers."""

LIBRARIES = ("starlette", "uvicorn", "pydantic", "cachetools", "python_multipart", "mcp", "prometheus_client")
"""What comes with the extra ``page``."""


def serve(
    path: str | Path | Workspace,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    rate: float = 600.0,
    token: str | None = None,
    mcp: bool = True,
    open_browser: bool = False,
    allow_hosts: Collection[str] = (),
    pick: bool | None = None,
) -> None:
    """Serve the page of a workspace until it is interrupted.

    Args:
        path: the workspace, which has an index.
        host: address to listen on; other machines can reach the page unless it is a loopback address.
        port: port; 0 takes a free one.
        rate: searches a minute and client; 0 means no bound.
        token: for fetching the encoder when it is not in the workspace's cache.
        mcp: whether to serve the MCP endpoint too.
        open_browser: whether to open the page in a browser.
        allow_hosts: names under which the page may be asked, besides localhost and the address it listens on: that of
            the proxy before it.
        pick: whether visitors may have models fetched and run on images of theirs; when None, only if the page cannot
            be reached from other machines.

    Raises `MissingStepError` without an index, `WorkspaceError` when the port is taken or the page's libraries are not
    installed.
    """
    if any(find_spec(name) is None for name in LIBRARIES):
        raise WorkspaceError(f"the page needs {', '.join(LIBRARIES)}: run pip install 'hubprobe[page]'")

    import uvicorn

    from hubprobe.page.app import application
    from hubprobe.page.limits import Limits, protocol
    from hubprobe.page.opened import Current
    from hubprobe.sync import fresh
    from workspace.endpoint import is_local

    workspace = fresh(path, "open")
    current = Current(workspace, token=token)
    listening = _listen(host, port)
    url = address(listening)
    limits = Limits(rate=rate, connections=min(Limits.connections, open_files() // 2))
    names = allow_hosts if is_address(host) else [host, *allow_hosts]
    app = application(current, limits, mcp=mcp, hosts=names, pick=is_local(host) if pick is None else pick)
    config = uvicorn.Config(
        app, http=protocol(limits), ws="none", log_level="warning", access_log=False, timeout_graceful_shutdown=3,
        server_header=False, h11_max_incomplete_event_size=HEAD_BYTES,
    )  # fmt: skip
    # a search gives Python's lock away many times, and would wait 5 ms for it each time while requests come in
    sys.setswitchinterval(SWITCH_S)
    current.prepare()
    if not is_local(host):
        click.echo(
            f"warning: {host} can be reached from other machines. Anybody who does may search this index; there is no "
            "login. Put a proxy with one in front, or leave --host away.",
            err=True,
        )
    click.echo(f"the page is at {url}  (Ctrl-C ends it)", err=True)
    if open_browser:
        webbrowser.open(url)
    try:
        uvicorn.Server(config).run(sockets=[listening])
    except KeyboardInterrupt:  # uvicorn has ended cleanly by then, and hands the signal on
        pass
    finally:
        listening.close()


def is_address(host: str) -> bool:
    """Say whether ``host`` is an address, not a name."""
    try:
        return bool(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return False


def open_files() -> int:
    """Return how many files and connections this process may have open."""
    try:
        import resource
    except ImportError:  # Windows
        return 2048
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**20 if soft == resource.RLIM_INFINITY else soft


def address(listening: socket.socket) -> str:
    """Return the address of a listening socket as a browser takes it."""
    host, port = listening.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "127.0.0.1" if listening.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(where)
        listening.listen(512)
    except (OSError, OverflowError) as error:
        raise WorkspaceError(
            f"cannot listen on {host} port {port}: {error}; name another --port, or 0 for a free one"
        ) from error
    return listening
