"""Numbers that the documentation states and the code holds are the same."""

from __future__ import annotations

import re
from importlib import import_module

from tests.docs.pages import DOCS

_UNITS = {"KiB": 2**10, "Mi": 2**20, "MiB": 2**20, "GiB": 2**30}
CAPS = {
    "parameters of a model": "workspace.CrawlConfig.max_parameters",
    "bytes of its weights": "workspace.CrawlConfig.max_weights_bytes",
    "outputs": "workspace.CrawlConfig.max_labels",
    "edge of its input, pixels": "workspace.CrawlConfig.max_image_size",
    "layers its config asks for": "workspace.model_rules.MAX_LAYERS",
    "a page of the listing": "crawler.listing.pages.MAX_PAGE",
    "a config": "workspace.model_config.MAX_CONFIG",
    "values in a JSON text of a Hub or a repository": "workspace.bounded_json.MAX_VALUES",
    "a safetensors header, bytes": "workspace.safetensors_header.MAX_HEADER",
    "tensors it names": "workspace.safetensors_header.MAX_TENSORS",
    "characters of their names, together": "workspace.safetensors_header.MAX_NAMES",
    "shards": "crawler.decide.repository.MAX_SHARDS",
    "bytes of a card that are read": "crawler.decide.repository.READ",
    "file names kept of a repository": "crawler.listing.rows.MAX_FILES",
    "redirects of a request": "crawler.hub.client.MAX_HOPS",
    "seconds of a small answer, first byte to last": "crawler.hub.client.EXCHANGE_SECONDS",
    "seconds to decide a repository": "crawler.decide.inspection.REPO_SECONDS",
    "seconds of a model, all phases but the fetch": "workspace.ProbeConfig.seconds_per_model",
    "pixels of an image: a probe's, an example's, a release's": "workspace.images.MAX_PIXELS",
    "its bytes, encoded": "workspace.images.MAX_BYTES",
    "its longer edge, in shorter edges": "workspace.images.MAX_ASPECT",
    "characters of a text query": "search.text.encoders.MAX_TEXT",
    "characters of a `where`": "search.filters.MAX_CONDITION",
    "brackets inside one another, in both": "search.filters.MAX_BRACKETS",
    "characters of an SQL statement": "search.statements.MAX_STATEMENT",
    "different searches in a statement": "search.statements.MAX_SEARCHES",
    "bytes that a statement's process may allocate": "search.statements.MEMORY_BYTES",
    "bytes of its answer": "search.statements.MAX_BYTES",
    "hits of a query": "search.query.MAX_LIMIT",
    "bytes that a row group of a release unpacks to": "hubprobe.release.checks.MAX_GROUP",
    "files a model's process may have open": "probing.child.walls.MAX_OPEN_FILES",
}
"""Where the code holds what docs/security.md says of each of these."""

_ROW = re.compile(r"^\| (.+?) \| ([\d,]+)(?: (\w+))? \|$", re.MULTILINE)


def test_a_cap_is_what_security_says() -> None:
    text = (DOCS / "security.md").read_text(encoding="utf-8").split("## Caps")[1].split("\n## ")[0]
    said = {what: int(number.replace(",", "")) * _UNITS.get(unit, 1) for what, number, unit in _ROW.findall(text)}
    assert said == {what: _value(where) for what, where in CAPS.items()}


def _value(where: str) -> int:
    *path, name = where.split(".")
    home = import_module(".".join(p for p in path if p.islower()))
    for part in (p for p in path if not p.islower()):
        home = getattr(home, part)
    return int(getattr(home, name))


def test_there_are_fifteen_questions() -> None:
    questions = re.findall(r"### (\d+)\. .*?\n\n```sql\n", (DOCS / "sql.md").read_text(encoding="utf-8"))
    assert [int(number) for number in questions] == list(range(1, 16))


def test_the_page_is_bounded_as_security_says() -> None:
    limits = import_module("hubprobe.page.limits").Limits()
    said = (DOCS / "security.md").read_text(encoding="utf-8")
    assert f"By client {limits.rate:.0f} searches a minute\nafter {limits.burst} at once" in said
    assert f"{limits.body_bytes // 2**20} MiB a request, {limits.at_once} requests at once" in said
