"""The index that a release carries, laid out as in a workspace's remote."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from hubprobe.release.read import import_release
from workspace import Workspace
from workspace.files import TEMPORARY_PREFIX
from workspace.remote import Remote

if TYPE_CHECKING:
    from search import Encoder


def carry_index(
    release: Path, *, encoder: Encoder | None = None, token: str | None = None, progress: bool = True
) -> int:
    """Put an index into the folder of a release, so that it can be searched where it lies; return its bytes.

    The index is made of the release and not the one of the workspace, which holds what a release leaves out.
    """
    shutil.rmtree(release / "index", ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=release.parent, prefix=TEMPORARY_PREFIX) as scratch:
        import_release(str(release), Path(scratch) / "copy", encoder=encoder, token=token, progress=progress)
        there = Remote(Workspace(Path(scratch) / "copy", remote=release.absolute().as_uri()), progress=progress)
        there.push("index")
        there.keep_settings()
        return there.counts["bytes_pushed"]
