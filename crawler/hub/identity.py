"""Who we say we are: every request names the project and whom to write to about it."""

from __future__ import annotations

import os
import re
from importlib import metadata

from workspace import __version__

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
