"""Releases: a workspace as a dataset that anyone can load, and a workspace and its index from such a dataset.

::

    plan.py     which repositories may be published, by their licences, and why the others are left out
    tables.py   the released tables: schemas, order, files
    write.py    `release`: all of it into a folder
    card.py     what it says of itself: README.md (from templates/card.md), croissant.json, CITATION.cff
    diff.py     what has changed since an earlier release
    source.py   the manifest and its hashes; a release found in a folder or on a Hub; `push`
    checks.py   a stranger's tables: measured before they are decoded, and what every row of them must be
    read.py     `import`: a workspace and its index from a release
"""

from __future__ import annotations

from hubprobe.release.read import ImportSummary, import_release
from hubprobe.release.source import PushSummary, push
from hubprobe.release.write import ReleaseSummary, release

__all__ = ["ImportSummary", "PushSummary", "ReleaseSummary", "import_release", "push", "release"]
