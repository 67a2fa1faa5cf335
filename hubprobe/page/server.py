"""Serving: a socket, a warning where others can reach it, and a clean end."""

from __future__ import annotations

import ipaddress
import socket
import sys
import webbrowser
from importlib.util import find_spec
from pathlib import Path

import click

from workspace import Workspace, WorkspaceError

SWITCH_S = 0.0005
"""How long a thread may keep Python's lock while another waits for it."""

IDLE_S = 20
"""After which a connection that asks nothing is closed."""


def serve(
    path: str | Path | Workspace,
    *,
    host: str = "127.0.0.1",
    port: int = 7860,
    rate: float = 600.0,
    token: str | None = None,
    mcp: bool = True,
    open_browser: bool = False,
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

    Raises `MissingStepError` without an index, `WorkspaceError` when the port is taken or Gradio is not installed.
    """
    if find_spec("gradio") is None or (mcp and find_spec("mcp") is None):
        raise WorkspaceError("the page needs Gradio: run pip install 'hubprobe[page]'")
    workspace = path if isinstance(path, Workspace) else Workspace.open(path)

    from hubprobe.page.opened import Current  # first: a workspace without an index is said at once

    current = Current(workspace, token=token)
    listening = _listen(host, port)
    url = address(listening)

    from hubprobe.page.api import quiet_gradio

    quiet_gradio()
    import uvicorn

    from hubprobe.page.app import application
    from hubprobe.page.limits import Limits

    app = application(current, Limits(rate=rate), mcp=mcp)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_keep_alive=IDLE_S, timeout_graceful_shutdown=3,
        server_header=False, h11_max_incomplete_event_size=64 * 1024,
    )  # fmt: skip
    # a search gives Python's lock away many times, and would wait 5 ms for it each time while requests come in
    sys.setswitchinterval(SWITCH_S)
    current.prepare()
    if not is_loopback(host):
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


def is_loopback(host: str) -> bool:
    """Say whether ``host`` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
