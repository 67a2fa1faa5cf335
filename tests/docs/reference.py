"""Writes ``docs/records.md`` and ``docs/configuration.md`` from the schemas, the settings and the statuses themselves.

``python -m tests.docs.reference docs`` writes both; a test asserts that they are what it would write.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from workspace import records
from workspace.config import Config
from workspace.status import MEANING, LabelQuality, Status

COMMAND = "python -m tests.docs.reference docs"

_RECORDS = """\
# Records

<!-- Written by `{command}` from workspace/records.py and workspace/status.py. -->

The tables of a workspace, as Parquet files. A type with `*` is never null. The files' metadata hold these meanings,
too, and `hubprobe.schema_version` = {version}. SQL sees them under [these names](sql.md). Labels, names and messages
are [strangers' text](security.md#strangers-text).

Keys are the same in all tables, and never null: `repo_id` (string, owner/name; `id` in the catalog), `sha` (string, the
commit, 40 hex digits) and `logit` (int32, the output's number within its model, from 0).

## The twenty columns people use

Under SQL's names; the tables below have them all.

| of | columns |
|---|---|
| each repository (`models`, `catalog`) | `repo_id`, `sha`, `license`, `downloads`, `last_modified`, \
`library_name`, `model_type`, `parameters`, `image_size`, `num_logits` |
| how good it is (`models`, `search()`) | `label_quality`, `estimated_accuracy`, \
`reported_accuracy`, `score` and `probability` of a hit |
| each output (`logits`, `search()`) | `logit`, `label`, \
`observed`: the share of the probes that it was run on, the others being filled in |
| how it ended (`attempts`) | `status`, `reason` |

```bash
hubprobe sql --workspace my-index "
    SELECT repo_id, sha, license, downloads, last_modified, library_name, model_type, parameters, image_size,
           num_logits, label_quality, estimated_accuracy, reported_accuracy, score, probability, logit, label, observed,
           status, reason
    FROM search('dog', limit := 5) LEFT JOIN (SELECT repo_id, sha, status, reason FROM attempts) USING (repo_id, sha)
    ORDER BY rank"
```

"""

_STATUSES = """\
## Statuses

How a repository can end: `attempts.status`, and `attempted = ok + skipped + failed`. The first rule that refuses
decides. Decided from *list*, *config* or *weights* (by the crawler, before any weights are fetched) it is *skipped*;
from *fetch*, *load* or *run* (by the prober) it is *failed*. `catalog.eligibility` holds `eligible`, a skipped
status, or the *fetch* status of a request that the next crawl makes again.

| status | decided from | meaning |
|---|---|---|
"""

_LABELS = """\
## Label quality

| `label_quality` | its labels are |
|---|---|
"""

_READING = '''\
## Reading them without hubprobe

```python
import duckdb

duckdb.sql("""
    SELECT repo_id, count(*) AS logits, round(avg(std), 2) AS spread
    FROM 'my-index/responses/*/*.parquet' WHERE excluded IS NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 5
""").show()
```

In numpy, descriptors are a matrix:

```python
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds

folder = next(Path("my-index/descriptors").iterdir())
table = ds.dataset(folder, format="parquet").to_table(columns=["repo_id", "sha", "logit", "vector"])
vectors = table["vector"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
assert vectors.dtype == np.float16
```
'''

_CONFIGURATION = """\
# Configuration

<!-- Written by `{command}` from workspace/config.py. -->

Edit `hubprobe.toml` in the workspace's folder: it is written, with every setting at its default, when the workspace
is made. An unknown name, or a value of another type than the default's, is an error. A command line option goes
before the setting.

A change in `[crawl]` (but `pipeline_tag`): the next crawl decides again what it lists. `[search] encoder` and
`image_encoder` count when the index is built, `scoring` and `k` when it is asked. All settings but `endpoint`,
`[release]` and `[workspace]` are hashed into every run's manifest (`config_hash`).

"""

_TABLES = {
    "catalog": (
        "catalog/*.parquet",
        "id, crawled_at",
        "One row per repository and crawl that saw it change; the newest `crawled_at` of an `id` is its state.",
    ),
    "probes": (
        "probes/<probe_set>/probes.parquet",
        "probe_id",
        "One row per probe image. `probe_set` is the hash of the ordered `image_hash` column.",
    ),
    "attempts": (
        "attempts/*.parquet",
        "repo_id, sha, attempt",
        "One row per attempt at a model, always: ok, skipped and failed alike.",
    ),
    "responses": (
        "responses/<probe_set>/*.parquet",
        "repo_id, sha, logit",
        "One row per logit of a probed model: `raw = response * std + mean`; its softmax is `exp(raw - logsumexp)`.",
    ),
    "descriptors": (
        "descriptors/<probe_set>/*.parquet",
        "repo_id, sha, logit",
        "One row per searchable logit; n is the number of probes.",
    ),
}
"""Where each table lies in the workspace's folder, its key, and what a row is."""

_QUALITIES = {
    LabelQuality.NAMED: "words. Only these may lend themselves to other models, as far as behaviour bears them out",
    LabelQuality.LABEL_I: "generated: `LABEL_0`, `LABEL_1` ...",
    LabelQuality.NUMERIC: "numbers",
    LabelQuality.MISSING: "not there",
    LabelQuality.INFERRED: "worked out, not stated: ImageNet's names for a timm model whose tag says ImageNet, or "
    "labels whose numbering does not fit the outputs. Shown, but not lent to other models",
    LabelQuality.GUESSED_BY_COUNT: "not there, in a timm model that has as many classes as an ImageNet variant: timm "
    "would give it ImageNet's names by that number alone",
}


def records_page() -> str:
    """Return ``docs/records.md``."""
    schemas = {**records.TABLES, "descriptors": records.descriptors(4000)}
    tables = "\n".join(_table(name, schema) for name, schema in schemas.items())
    statuses = [
        f"| `{s.value}` | {MEANING[s].stage} | {MEANING[s].sentence} |\n" for s in Status if s is not Status.ELIGIBLE
    ]
    labels = [f"| `{quality.value}` | {_QUALITIES[quality]} |\n" for quality in LabelQuality]
    head = _RECORDS.format(command=COMMAND, version=records.SCHEMA_VERSION)
    return "\n".join([head + tables, _LABELS + "".join(labels), _STATUSES + "".join(statuses), _READING])


def configuration_page() -> str:
    """Return ``docs/configuration.md``."""
    parts = [_CONFIGURATION.format(command=COMMAND) + _section("Outside any section", Config())]
    parts += [_section(f"[{f.name}]", getattr(Config(), f.name)) for f in fields(Config) if f.name != "endpoint"]
    return "\n".join(parts)


def _section(title: str, settings: Any) -> str:
    """Return one dataclass as a table: a field's meaning is the description that pydantic keeps."""
    about = re.sub(r"`+", "`", (inspect.getdoc(type(settings)) or "").splitlines()[0])
    lines = [f"## {title}\n", f"{about}\n", "| setting | default | meaning |", "|---|---|---|"]
    for field in fields(settings):
        value = getattr(settings, field.name)
        if is_dataclass(value):
            continue
        meaning = str(type(settings).__pydantic_fields__[field.name].description).replace("|", "\\|")
        lines.append(f"| `{field.name}` | `{json.dumps(value)}` | {meaning} |")
    return "\n".join(lines) + "\n"


def _table(name: str, schema: pa.Schema) -> str:
    where, key, row = _TABLES[name]
    lines = [f"## {name}\n", f"{row} In `{where}`; key `{key}`.\n"]
    lines += ["| column | type | meaning |", "|---|---|---|"]
    for field in schema:
        if field.name in ("repo_id", "sha", "logit") and name != "catalog":
            continue
        metadata = {k.decode(): v.decode().replace("|", "\\|") for k, v in (field.metadata or {}).items()}
        kind = _type(field.type) + ("" if field.nullable else "*")
        unit = metadata.get("unit", "")
        said = unit if unit.startswith(metadata["doc"]) else f"{metadata['doc']} ({unit})"
        meaning = said if unit and unit not in metadata["doc"] else metadata["doc"]
        lines.append(f"| `{field.name}` | {kind} | {meaning} |")
    return "\n".join(lines) + "\n"


def _type(kind: pa.DataType) -> str:
    if pa.types.is_map(kind):
        return f"map of {_type(kind.key_type)} to {_type(kind.item_type)}"
    if pa.types.is_struct(kind):
        return "struct of " + ", ".join(f"`{f.name}` {_type(f.type)}" for f in kind)
    if pa.types.is_fixed_size_list(kind):
        return f"list of n {_type(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {_type(kind.value_type)}"
    names = {"halffloat": "float16", "float": "float32", "timestamp[us, tz=UTC]": "timestamp (µs, UTC)"}
    return names.get(str(kind), str(kind))


PAGES = {"records.md": records_page, "configuration.md": configuration_page}
"""What writes each page, by its name in ``docs/``."""


def main(folder: str) -> None:
    """Write every page into ``folder``."""
    for name, page in PAGES.items():
        (Path(folder) / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
