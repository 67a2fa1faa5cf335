"""What has changed since an earlier release: which repositories, commits and ends."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from hubprobe.release.read import groups
from hubprobe.release.source import ReleaseSource
from hubprobe.release.tables import models, plain_schema
from workspace import records

KINDS = {
    "added": "repositories that the earlier one has not",
    "removed": "repositories that it has and this one has not",
    "newly_probed": "models that can be searched now and could not be then",
    "no_longer_probed": "models that could be searched then and cannot be now",
    "another_commit": "models that were probed at another commit",
    "ended_otherwise": "models that were not probed then nor now, for another reason or at another commit",
}
"""Kinds of changes, and what each counts."""

_STATUS = ["repo_id", "sha", "status"]


@dataclass(frozen=True)
class Difference:
    """Changes between two releases."""

    release_id: str  # of the earlier one
    probe_set: bool  # whether both are of the same probes; else no two descriptors can be compared
    # repositories by kind of change, sorted; kinds without any are left out
    names: dict[str, list[str]] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """Return what a manifest keeps of it: counts and no names, for who is gone may have asked to be."""
        counts = {kind: len(names) for kind, names in self.names.items()}
        return {"release_id": self.release_id, "same_probes": self.probe_set, "changes": counts}


def difference(
    earlier: ReleaseSource, listed: Iterable[str], attempts: Iterable[Mapping[str, str]], probe_set: str
) -> Difference:
    """Compare an earlier release, a stranger's perhaps, with what is released now.

    Its tables of models and attempts are fetched and checked. Of the new one are the repositories ``listed``, rows of
    ``attempts`` (``repo_id``, ``sha``, ``status``) and the ``probe_set``.

    Raises `WorkspaceError` when the earlier one is damaged, `HubError` when it cannot be fetched.
    """
    for table in ("models", "attempts"):
        for part in earlier.manifest.tables[table]:
            earlier.file(part.path)
    key = plain_schema(models())
    key = pa.schema([key.field("repo_id")], key.metadata)
    ends = plain_schema(records.ATTEMPTS)
    ends = pa.schema([ends.field(name) for name in _STATUS], ends.metadata)
    before = {repo for _, _, rows in groups(earlier, "models", key) for repo in rows["repo_id"].to_pylist()}
    ended = _ends(row for _, _, rows in groups(earlier, "attempts", ends) for row in rows.to_pylist())
    found: dict[str, list[str]] = {kind: [] for kind in KINDS}
    now, ending = set(listed), _ends(attempts)
    found["added"], found["removed"] = sorted(now - before), sorted(before - now)
    for repo in sorted(ended.keys() | ending.keys()):
        old, new = ended.get(repo, {}), ending.get(repo, {})
        was, is_ = ({sha for sha, status in ends.items() if status == "ok"} for ends in (old, new))
        if is_ and was:
            kind = "another_commit" if is_ - was else ""
        else:
            kind = "newly_probed" if is_ else "no_longer_probed" if was else ""
            kind = kind or ("ended_otherwise" if old and new and old != new else "")
        if kind:
            found[kind].append(repo)
    changed = {kind: names for kind, names in found.items() if names}
    return Difference(earlier.manifest.release_id, earlier.manifest.probe_set == probe_set, changed)


def _ends(attempts: Iterable[Mapping[str, str]]) -> dict[str, dict[str, str]]:
    ends: dict[str, dict[str, str]] = {}
    for row in attempts:
        ends.setdefault(row["repo_id"], {})[row["sha"]] = row["status"]
    return ends
