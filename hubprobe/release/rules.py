"""What every row of a released table must be: a table of rules by column, and the definitions that bind whole rows.

A release is a stranger's text and numbers, as a repository is, and goes under the same caps. Nothing here changes a
value: what does not fit is refused, by file and row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubprobe.release.parquet import first_true, refusal
from workspace import CrawlConfig, LabelQuality, Status
from workspace.text import MAX_LABEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TEXT = 4_096
"""Characters of a text without a rule of its own: names of files are the longest that a crawl keeps."""

MAX_LISTED_LABEL = 1_000
"""Characters of a label in the catalog: of one that an earlier crawl listed. Probed ones have `MAX_LABEL`."""

MAX_LOGITS = CrawlConfig().max_labels
"""Outputs of one model: what a crawl takes unless told otherwise."""

MAX_ITEMS = {"tags": 2_000, "files": 20_000, "id2label": MAX_LOGITS, "base_models": 2_000, "architectures": 2_000}
"""Entries of a list in one row."""

TOLERANCE = 2.0**-8
"""What the mean and the standard deviation of float16 z-scores may be off by: eight times their rounding."""


@dataclass(frozen=True)
class Rule:
    """What every value of a column must be; nulls are judged by the schema.

    Attributes:
        says: what a value is not, when it breaks the rule: "is no commit".
        holds: returns whether it holds, for every value of an array.
    """

    says: str
    holds: Callable[[pa.Array], pa.Array]


def _text(limit: int = MAX_TEXT) -> Rule:
    return Rule(f"has more than {limit:,} characters", lambda a: pc.less_equal(pc.utf8_length(a), limit))


def _form(pattern: str, what: str) -> Rule:
    return Rule(f"is no {what}", lambda a: pc.match_substring_regex(a, f"^(?:{pattern})$"))


def _one_of(values: Collection[str], what: str) -> Rule:
    known = pa.array(sorted(values), pa.string())
    return Rule(f"is no {what} that hubprobe knows", lambda a: pc.is_in(a, value_set=known))


def _number(low: float, high: float = float(2**62)) -> Rule:
    def holds(values: pa.Array) -> pa.Array:
        number = values.cast(pa.float64(), safe=False)
        return pc.and_(pc.less_equal(low, number), pc.less_equal(number, high))  # never true of NaN

    says = f"is not from {low:g} to {high:g}" if high < 2**62 else f"is not a finite number from {low:g} up"
    return Rule(says, holds)


def _moment() -> Rule:
    ends = [pa.scalar(datetime(year, 1, 1, tzinfo=timezone.utc), pa.timestamp("us", tz="UTC")) for year in (1970, 9001)]
    return Rule("is no time", lambda a: pc.and_(pc.less_equal(ends[0], a), pc.less(a, ends[1])))


_NAME = r"[\w.-]{0,95}"
_REPO = _form(rf"(?:[A-Za-z0-9]{_NAME}/)?[A-Za-z0-9_]{_NAME}", "repository, owner/name")
_COMMIT = _form("[0-9a-f]{40}", "commit, 40 hex digits")
_HASH = _form("[0-9a-f]{16}", "hash of 16 hex digits")
_SHA256 = _form("[0-9a-f]{64}", "sha256, 64 hex digits")
_QUALITY = _one_of([q.value for q in LabelQuality], "label quality")
_PROBLEM = _one_of(["single_label_classification", "multi_label_classification", "regression"], "kind of problem")
_FINITE = _number(-3.5e38, 3.5e38)
_COUNT = _number(-(2.0**63))  # as the Hub states it, which may be anything

RULES: dict[str, dict[str, Rule]] = {
    "models": {
        "id": _REPO,
        "sha": _form("(?:[0-9a-f]{40})?", "commit, 40 hex digits"),
        "createdAt": _moment(),
        "lastModified": _moment(),
        "crawled_at": _moment(),
        "gated": _text(100),
        "num_labels": _number(0, 2**31),
        "id2label[]": _text(MAX_LISTED_LABEL),
        "label_quality": _QUALITY,
        "problem_type": _PROBLEM,
        "image_size": _number(0, 2**31),
        "weights_bytes": _number(0),
        "eligibility": _one_of([s.value for s in Status if s is not Status.OK], "verdict"),
        "card_summary": _text(MAX_TEXT),
    },
    "attempts": {
        "repo_id": _REPO,
        "sha": _COMMIT,
        "attempt": _number(1),
        "outcome": _one_of(["ok", "skipped", "failed"], "outcome"),
        "status": _one_of([s.value for s in Status if s is not Status.ELIGIBLE], "status"),
        "started_at": _moment(),
        **{f"seconds_{part}": _number(0, 1e9) for part in ("fetch", "load", "preprocess", "forward", "write")},
        "bytes_fetched": _number(0),
        "parameters": _number(0),
        "half_error": _number(0, 3.5e38),
        "batch_size": _number(0),
        "processor_hash": _HASH,
        "probe_set": _HASH,
        "probes_run": _number(0),
        "num_logits": _number(0, MAX_LOGITS),
        "num_excluded": _number(0, MAX_LOGITS),
        "label_quality": _QUALITY,
        "problem_type": _PROBLEM,
        "peak_memory_bytes": _number(0),
        "rank": _number(0),
        "config_hash": _HASH,
    },
    "probes": {
        "probe_id": _number(0),
        "image_hash": _SHA256,
        "width": _number(1, 2**15),
        "height": _number(1, 2**15),
    },
    "descriptors": {
        "repo_id": _REPO,
        "sha": _COMMIT,
        "logit": _number(0, MAX_LOGITS - 1),
        "label": _text(MAX_LABEL),
        "mean": _FINITE,
        "std": _number(1e-45, 3.5e38),  # an output that does not vary is excluded, and has no descriptor
        "vector[]": _number(-65_504, 65_504),
        "variance": _number(0, 3.5e38),
        "deviation[]": _number(0, 65_504),
        "position": _number(0, 2**40),
    },
}
"""Rules by table and column; ``[]`` stands for the entries of a list, a dot for a part of a struct."""

NEVER_NULL = re.compile(r"vector\[\]|deviation\[\]|.*\[\]\.key|(?:versions|files|safetensors\.parameters)\[\]")
"""Parts of columns that may not be null, beyond what the schema says of whole columns."""


def check_rows(file: str, first: int, table: str, rows: pa.RecordBatch) -> None:
    """Check every value of a row group against `RULES`.

    Args:
        file: name of the file, for messages.
        first: number of the group's first row in it.
        table: name of the table.
        rows: as `hubprobe.release.parquet.TableFile.groups` gives them.

    Raises `WorkspaceError` that names file and row.
    """
    rules = RULES[table]
    for name, column in zip(rows.schema.names, rows.columns, strict=True):
        for path, values, parents in _parts(name, column, None):
            bad, says = _broken(path, values, rules.get(path))
            at = first_true(bad)
            if at >= 0:
                row = at if parents is None else int(parents[at])
                raise refusal(file, f"'{path}' {says}", first + row)


def _parts(path: str, values: pa.Array, rows: NDArray[Any] | None) -> Iterator[tuple[str, pa.Array, Any]]:
    """Yield a column and everything nested in it, each with the row that every value belongs to."""
    yield path, values, rows
    kind = values.type
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        within = pc.list_parent_indices(values).to_numpy()
        yield from _parts(f"{path}[]", values.flatten(), within if rows is None else rows[within])
    elif pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from _parts(f"{path}.{field.name}", pc.struct_field(values, [number]), rows)


def _broken(path: str, values: pa.Array, rule: Rule | None) -> tuple[pa.Array, str]:
    """Return which values break a rule, and what to say of them."""
    kind = values.type
    if NEVER_NULL.fullmatch(path) and values.null_count:
        return pc.is_null(values), "is null"
    if pa.types.is_list(kind):
        limit = MAX_ITEMS.get(path, MAX_TEXT if path != "deviation" else 2**31)
        return _of(pc.greater(pc.list_value_length(values), limit)), f"has more than {limit:,} entries"
    distinct = values.dictionary if pa.types.is_dictionary(kind) else values
    if pa.types.is_string(distinct.type):
        unreadable = _not_utf8(distinct)
        if unreadable is not None:
            return _of(_spread(unreadable, values)), "is not UTF-8 text"
        rule = rule or _text()
    if rule is None:
        return pa.array([], pa.bool_()), ""
    return _of(_spread(pc.invert(rule.holds(distinct)), values)), rule.says


def _spread(mask: pa.Array, values: pa.Array) -> pa.Array:
    return mask.take(values.indices) if pa.types.is_dictionary(values.type) else pc.and_(mask, values.is_valid())


def _of(mask: pa.Array) -> pa.Array:
    return pc.fill_null(mask, False)


def _not_utf8(values: pa.Array) -> pa.Array | None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([value is not None and not _decodes(value) for value in values.cast(pa.binary()).to_pylist()])
    return None


def _decodes(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


class Rising:
    """Keys that must rise from row to row and from file to file: sorted as a release is, and none of them twice."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] | None = None

    def check(self, file: str, first: int, names: Sequence[str], rows: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
        """Yield the key of every row of a group; raises `WorkspaceError` at one that is not above that before it."""
        for row, key in enumerate(zip(*(rows[name].to_pylist() for name in names), strict=True)):
            if self._last is not None and key <= self._last:
                what = "the same key twice" if key == self._last else "rows out of order"
                raise refusal(file, f"{what} ({', '.join(names)})", first + row)
            self._last = key
            yield key


def check_vectors(file: str, first: int, rows: pa.RecordBatch, n: int) -> None:
    """Check the descriptors of a row group against their definition: z-scores over the probes that were run.

    A fully probed logit has mean 0 and standard deviation 1. Of a partially probed one that holds for the probes drawn
    at random, which are at least a tenth of all and not named in the table, so only what follows from it is asked: the
    smallest tenth of the responses has a mean square of at most 1, and all together one that a tenth alone gives.

    Args:
        file: name of the file, for messages.
        first: number of the group's first row in it.
        rows: of the table ``descriptors``, checked by `check_rows`.
        n: probes.

    Raises `WorkspaceError` that names file and row.
    """
    values = rows["vector"].flatten().to_numpy().reshape(-1, n).astype(np.float32)
    full = rows["observed"].is_null().to_numpy(zero_copy_only=False)
    off = np.abs(values.mean(axis=1)) > TOLERANCE
    off |= np.abs(values.std(axis=1) - 1) > TOLERANCE
    if (off & full).any():
        row = int(np.argmax(off & full))
        what = (
            "is zero"
            if not values[row].any()
            else (f"has mean {values[row].mean():.3g} and standard deviation {values[row].std():.3g}, not 0 and 1")
        )
        raise refusal(file, f"'vector' {what}", first + row)
    extras = zip(*(rows[name].to_pylist() for name in ("observed", "deviation", "variance")), strict=True)
    for row, (observed, deviation, variance) in enumerate(extras):
        why = ""
        if deviation is not None and (full[row] or len(deviation) != n):
            why = "'deviation' is not one number for each probe of a partially probed model"
        elif full[row]:
            why = "'variance' is not 0 where all probes were run" if variance else ""
        else:
            why = _partly(values[row], observed)
        if why:
            raise refusal(file, why, first + row)


def _partly(values: NDArray[np.float32], observed: bytes) -> str:
    n = values.size
    bits = np.unpackbits(np.frombuffer(observed, np.uint8))
    if bits.size != -(-n // 8) * 8 or bits[n:].any() or not int(bits.sum()) >= 2:
        return "'observed' is not one bit for each probe"
    squares = np.sort(np.square(values[bits[:n].astype(bool)]))
    tenth = max(1, squares.size // 10)
    if squares[:tenth].mean() > 1 + TOLERANCE or squares.mean() < 0.05:
        return f"'vector' has a mean square of {squares.mean():.3g} over the probes run, which no z-scores have"
    return ""
