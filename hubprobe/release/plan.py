"""What of a workspace goes into a release: decided here, before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from hubprobe.release import licences
from workspace import Workspace, records

OPT_OUT = "release-optout.txt"
"""In the workspace: owners or owner/name, one a line; what follows a # is a remark."""

_PLACES = "home|Users|root|tmp|var|mnt|opt|usr|srv|data|work|scratch"
_FOREIGN = re.compile(rf"(?<![\w/:.])(?:/(?:{_PLACES})/|[A-Za-z]:\\)[^\s'\",;)]*")


@dataclass(frozen=True)
class Plan:
    """What is released.

    Attributes:
        models: newest catalog rows of the repositories kept, `records.CATALOG`, by id.
        attempts: last attempts at them, `records.ATTEMPTS`, by repository and commit.
        left_out: repositories left out, by reason, most frequent first.
        probe_images: whether the probes' images and captions may be passed on.
        licences: classes and tags of models kept, sorted.
    """

    models: pa.Table
    attempts: pa.Table
    left_out: dict[str, int]
    probe_images: bool
    licences: tuple[str, ...]

    @property
    def kept(self) -> frozenset[str]:
        """Repositories in the release."""
        return frozenset(self.models["id"].to_pylist())


def plan(
    workspace: Workspace,
    *,
    keep: tuple[str, ...] | None = None,
    probes_license: str | None = None,
    probe_images: bool = True,
) -> Plan:
    """Decide, by licences, gating and opt-outs, what of ``workspace`` may be published.

    Args:
        workspace: has a catalog, attempts and a probe set.
        keep: classes or tags of licences; the configuration's ``[release] licenses`` when None.
        probes_license: licence of the probe images whose source states none; the configuration's when None.
        probe_images: False leaves images and captions out whatever their licence.

    Raises `ConfigError` for an unknown licence, `MissingStepError` when nothing was crawled.
    """
    settings = workspace.config.release
    kept_licences = licences.checked(settings.licenses if keep is None else keep)
    opt_out = _opt_out(workspace)
    catalog, attempts = workspace.catalog(), workspace.attempts()
    last = {r["repo_id"]: r["status"] for r in attempts.select(["repo_id", "status"]).to_pylist()}
    columns = ["id", "private", "disabled", "gated", "license", "renamed_to", "eligibility"]
    reasons = []
    for row in catalog.select(columns).to_pylist():
        row["ends"] = (row["eligibility"], last.get(row["id"]))
        reasons.append(licences.why_left_out(row, kept_licences, opt_out))
    models = catalog.filter(pa.array([not reason for reason in reasons], pa.bool_()))
    kept = pa.array(models["id"].to_pylist(), pa.string())
    unlisted = set(last) - set(catalog["id"].to_pylist())
    counts = Counter(reason for reason in reasons if reason)
    counts["not_listed"] = len(unlisted)
    attempts = attempts.filter(pc.is_in(attempts["repo_id"], value_set=kept))
    return Plan(
        _published(models).sort_by("id").cast(records.CATALOG),
        _scrubbed(attempts).sort_by([("repo_id", "ascending"), ("sha", "ascending")]),
        {name: count for name, count in sorted(counts.items(), key=lambda c: (-c[1], c[0])) if count},
        probe_images and _may_pass_on(workspace, probes_license or settings.probes_license),
        tuple(sorted(kept_licences)),
    )


def _opt_out(workspace: Workspace) -> frozenset[str]:
    config = workspace.config
    names = [*config.crawl.opt_out, *config.release.opt_out]
    path = workspace.root / OPT_OUT
    if path.exists():
        names += [line.partition("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    return frozenset(name.strip().lower() for name in names if name.strip())


def _may_pass_on(workspace: Workspace, stated: str) -> bool:
    """Return whether every probe's own licence, or the one stated for those without, lets its image be passed on.

    All or none: evidence with holes would look like a broken index.
    """
    own = workspace.probes(["license"])["license"].to_pylist()
    return bool(own) and all(licences.redistributable(tag or stated) for tag in own)


def _published(models: pa.Table) -> pa.Table:
    """Return catalog rows without machines' paths; a card's words only where its repository states a licence."""
    models = _scrubbed(models)
    if "card_summary" not in models.column_names:
        return models
    stated = [licences.class_of(tag) not in ("none", "other") for tag in models["license"].to_pylist()]
    words = pc.if_else(pa.array(stated, pa.bool_()), models["card_summary"], pa.scalar(None, pa.string()))
    return models.set_column(models.column_names.index("card_summary"), models.schema.field("card_summary"), words)


def _scrubbed(table: pa.Table) -> pa.Table:
    """Return ``table`` with this machine's folders cut out of ``reason``: an exception may name them."""
    column = [scrub(text) for text in table["reason"].to_pylist()]
    field = table.schema.field("reason")
    return table.set_column(table.column_names.index("reason"), field, pa.array(column, pa.string()))


def scrub(text: str | None) -> Any:
    """Return ``text`` with absolute paths of a machine reduced to their last part."""
    if not text:
        return text
    return _FOREIGN.sub(lambda found: "…/" + re.split(r"[/\\]", found[0].rstrip("/\\"))[-1], text)
