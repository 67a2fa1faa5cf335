"""The verb ``serve``."""

from __future__ import annotations

from pathlib import Path

import click

from hubprobe.cli.options import local_offline, token_option, workspace_option


@click.command()
@workspace_option
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. Any other than a loopback one lets other machines in.",
)
@click.option("--port", type=click.IntRange(0, 65_535), default=7860, show_default=True, help="Port; 0: a free one.")
@click.option("--open/--no-browser", "open_browser", default=False, help="Open the page in a browser; it is not.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0),
    default=600,
    show_default=True,
    help="Searches a minute and client; 0: no bound.",
)
@click.option(
    "--allow-host",
    "allow_hosts",
    metavar="NAME",
    multiple=True,
    help="Name under which the page may be asked, besides localhost: that of the proxy before it. Repeatable.",
)
@click.option("--mcp/--no-mcp", default=True, show_default=True, help="Whether to serve the MCP endpoint too.")
@token_option
def serve(
    folder: Path,
    host: str,
    port: int,
    open_browser: bool,
    rate: float,
    allow_hosts: tuple[str, ...],
    mcp: bool,
    token: str | None,
) -> None:
    """Search in the browser: cards with evidence, filters, example images, a page for every model, an API and MCP.

    Ctrl-C ends it. A new version of the index is picked up without a restart.

    \b
    Examples:
      hubprobe serve --workspace my-index --open
      hubprobe serve --workspace my-index --port 0 --no-browser
    """
    local_offline()
    from hubprobe.page import serve as run

    run(
        folder, host=host, port=port, rate=rate, token=token, mcp=mcp, open_browser=open_browser,
        allow_hosts=allow_hosts,
    )  # fmt: skip
