"""The row of one attempt: filled while a model runs, timed by phase, booked exactly once."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from time import perf_counter
from typing import Any

import pyarrow as pa

from workspace import ModelError, Status, Workspace, model_file_name, records, runs
from workspace.errors import DiskError
from workspace.files import write_table
from workspace.text import printable

_log = logging.getLogger(__name__)

MAX_REASON = 500  # characters of a message kept: libraries print whole state dicts

PHASES = ("fetch", "load", "preprocess", "forward", "write")
"""The phases that are timed, in order."""

_STAGE_STATUS = {
    "fetch": Status.INTERNAL_ERROR,  # a fetcher raises ModelError for all that a Hub can do
    "load": Status.LOAD_ERROR,
    "preprocess": Status.PROCESSOR_ERROR,
    "forward": Status.FORWARD_ERROR,
    "write": Status.INTERNAL_ERROR,
}


class Attempt:
    """One attempt at one model. ``fields`` holds the columns of `records.ATTEMPTS`, those known so far.

    ``watch`` is called with each phase that begins, and with None when it is over.
    """

    def __init__(self, repo_id: str, sha: str, number: int = 1, **fields: Any) -> None:
        self.watch: Callable[[str | None], None] = lambda _: None
        self.fields: dict[str, Any] = {
            "repo_id": repo_id,
            "sha": sha,
            "attempt": number,
            "started_at": runs.now(),
            **fields,
        }

    @property
    def stem(self) -> str:
        """Stem of this model's files."""
        return model_file_name(self.fields["repo_id"], self.fields["sha"])

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a phase; whatever it raises leaves as the `ModelError` whose status fits the phase."""
        started = perf_counter()
        self.fields["ended_in"] = name
        self.watch(name)
        try:
            yield
        except ModelError:
            raise
        except Exception as error:
            raise as_model_error(error, _STAGE_STATUS[name]) from error
        finally:
            column = f"seconds_{name}"
            self.fields[column] = self.fields.get(column, 0.0) + perf_counter() - started
            self.watch(None)

    def copy(self) -> Attempt:
        """Return the same attempt so far, to be booked in place of one whose phase never ends."""
        made = Attempt(self.fields["repo_id"], self.fields["sha"])
        made.fields = dict(self.fields)
        return made

    def ok(self) -> Attempt:
        """Mark the end as ``ok``."""
        self.fields |= {"status": Status.OK.value, "outcome": Status.OK.outcome.value, "reason": "", "ended_in": None}
        return self

    def end(self, error: ModelError) -> Attempt:
        """Mark the end as ``error`` says."""
        cause = error.__cause__
        self.fields |= {
            "status": error.status.value,
            "outcome": error.status.outcome.value,
            "reason": printable(error.reason, MAX_REASON),
            "error_class": None if cause is None else type(cause).__name__,
        }
        return self

    def commit(self, workspace: Workspace) -> bool:
        """Write the row to ``attempts/<model>-<attempt>.parquet``: from here on the model is done.

        Returns False, and writes nothing, when another job has done so meanwhile.
        """
        path = path_of(workspace, self.fields["repo_id"], self.fields["sha"], self.fields["attempt"])
        if path.exists():
            return False
        write_table(path, table([self.fields]))
        return True


def path_of(workspace: Workspace, repo_id: str, sha: str, number: int) -> Path:
    """Return the path of the row of attempt ``number`` at a model."""
    return workspace.attempts_dir / f"{model_file_name(repo_id, sha)}-{number:03d}.parquet"


def table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return attempt rows as a table of `records.ATTEMPTS`; columns a row lacks are null."""
    filled = [{name: _plain(row.get(name)) for name in records.ATTEMPTS.names} for row in rows]
    return pa.Table.from_pylist(filled, schema=records.ATTEMPTS)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return list(value.items())
    if isinstance(value, str):  # a lone surrogate in a stranger's config cannot be stored as UTF-8
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def skipped(row: Mapping[str, Any], number: int, started_at: datetime, **fields: Any) -> dict[str, Any]:
    """Return the attempt row of a repository that the catalog says must not be probed: its status and reason."""
    status = Status(row["eligibility"])
    return {
        "repo_id": row["id"],
        "sha": row["sha"],
        "attempt": number,
        "outcome": status.outcome.value,
        "status": status.value,
        "reason": row["reason"] or status.meaning,
        "started_at": started_at,
        "label_quality": row.get("label_quality"),
        "problem_type": row.get("problem_type"),
        **fields,
    }


def as_model_error(error: BaseException, status: Status) -> ModelError:
    """Return ``error`` as the `ModelError` to book: out of memory and a full disk have statuses of their own."""
    if is_out_of_memory(error):
        status = Status.OUT_OF_MEMORY
    elif isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
        status = Status.DISK_FULL
    if status is Status.INTERNAL_ERROR:
        _log.error("unexpected error", exc_info=error)
    else:
        _log.info("%s: %r", status.value, error, exc_info=error if _log.isEnabledFor(logging.DEBUG) else None)
    message = str(error).strip() or status.meaning
    result = ModelError(status, f"{type(error).__name__}: {message}")
    result.__cause__ = error
    return result


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` says that memory ran out, on the host or on a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    said = ("can't allocate memory", "out of memory", "bad_alloc")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in said)
