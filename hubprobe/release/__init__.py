"""Releases: a workspace as a dataset that anyone can load, and a workspace and its index from such a dataset.

::

    plan.py        which repositories may be published, by the rules of licences.py, and why the others are left out
    tables.py      the released tables; sorting.py puts logits in order without holding them all, columns.py
                   writes maps as lists
    card.py        README.md with its front matter; queries.py are its questions
    manifest.py    the hash of every file: written, read and checked
    writing.py     `release`: all of it into a folder; pushing.py uploads that folder
    source.py      a release in a folder or on a Hub; importing.py makes a workspace of it
"""

from __future__ import annotations

from hubprobe.release.importing import ImportSummary, import_release
from hubprobe.release.pushing import PushSummary, push
from hubprobe.release.writing import ReleaseSummary, release

__all__ = ["ImportSummary", "PushSummary", "ReleaseSummary", "import_release", "push", "release"]
