"""Releases: a workspace as a dataset that anyone can load, and a workspace and its index from such a dataset.

::

    plan.py        which repositories may be published, by their licences, and why the others are left out
    tables.py      the released tables: schemas, order, files
    card.py        README.md with its front matter, from templates/card.md
    manifest.py    the hash of every file: written, read and checked
    write.py       `release`: all of it into a folder
    hub.py         such a folder uploaded, and a release found in a folder or on a Hub
    parquet.py     its files, measured before they are decoded; rules.py: what every row of them must be
    read.py        `import`: a workspace and its index from it
"""

from __future__ import annotations

from hubprobe.release.hub import PushSummary, push
from hubprobe.release.read import ImportSummary, import_release
from hubprobe.release.write import ReleaseSummary, release

__all__ = ["ImportSummary", "PushSummary", "ReleaseSummary", "import_release", "push", "release"]
