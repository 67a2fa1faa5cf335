"""Many small files of attempts made one, by one process, so that a workspace of 100,000 models stays quick to open.

Responses stay one file per model: that file is what is replaced whole when a model is run on more probes.
"""

from __future__ import annotations

import logging

import pyarrow as pa
import pyarrow.parquet as pq

from workspace import Workspace, records
from workspace.files import canonical_json, short_hash, table_files, write_table

_log = logging.getLogger(__name__)

LEAST = 64
"""Files from which on compacting is worth it: one row of 38 columns takes 20 KB on its own, 0.2 KB in company."""

_PREFIX = "compacted-"
_KEY = ["repo_id", "sha", "attempt"]


def compact_attempts(workspace: Workspace, *, least: int = LEAST) -> int:
    """Merge the files of ``attempts/`` into one when there are at least ``least``; return how many were merged.

    The new file is complete before the old ones are deleted. A kill in between leaves rows twice, equal ones, which
    every reader of attempts takes as one and the next compaction removes.
    """
    files = table_files(workspace.attempts_dir)
    if sum(not f.name.startswith(_PREFIX) for f in files) < least:
        return 0
    table = pa.concat_tables([pq.read_table(f, schema=records.ATTEMPTS) for f in files])
    order = table.sort_by([(name, "ascending") for name in _KEY])
    keys = list(zip(*(order.column(name).to_pylist() for name in _KEY), strict=True))
    kept = order.filter(pa.array([i == 0 or keys[i] != keys[i - 1] for i in range(len(keys))]))
    path = workspace.attempts_dir / f"{_PREFIX}{short_hash(canonical_json(sorted(set(keys))))}.parquet"
    write_table(path, kept)
    for file in files:
        if file != path:
            file.unlink(missing_ok=True)
    _log.info("merged %d files of attempts into %s", len(files), path.name)
    return len(files)
