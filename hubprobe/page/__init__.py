"""The page: search in the browser, with an API and an MCP endpoint beside it.

The HTML is written here, on the server, and not by Gradio's own front end: it is there in one round trip, works without
scripts, and may be served under a content security policy under which no text from the Hub can run.
"""

from __future__ import annotations

from hubprobe.page.server import serve

__all__ = ["serve"]
