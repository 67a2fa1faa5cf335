"""Why a repository is eligible or not, step by step: the rules that decide it, each with its answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from crawler.decide.inspection import Inspector
from crawler.decide.repository import Whereabouts, ask_row
from crawler.decide.rules import STAGES, Rule
from crawler.hub.client import HubClient
from crawler.hub.transport import Deadline
from crawler.listing.rows import MalformedRowError, is_repo_id, parse
from workspace import QueryError, Status, Workspace
from workspace.architectures import lazy
from workspace.endpoint import token_for
from workspace.layout import MARKER
from workspace.model_rules import Verdict

SECONDS = 300.0


@dataclass(frozen=True)
class Step:
    """One rule as it was asked: where it stands, what it looks for, and whether the repository passed."""

    stage: str
    rule: str
    looks_for: str
    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Explanation:
    """The decision about one repository and the steps to it, in the order they were asked."""

    repo_id: str
    sha: str
    status: Status
    reason: str
    steps: tuple[Step, ...]
    requests: dict[str, int]

    def to_arrow(self) -> pa.Table:
        """Return the steps as a table: ``stage, rule, passed, looks_for, reason``."""
        names = ("stage", "rule", "passed", "looks_for", "reason")
        return pa.table({name: [getattr(step, name) for step in self.steps] for name in names})


def explain(workspace: Workspace, repo_id: str, *, token: str | bool | None = None) -> Explanation:
    """Ask the Hub about one repository now and decide it step by step; nothing is written to the catalog.

    Raises `QueryError` when ``repo_id`` is no repository's name, `HubError` when transformers or timm do not import.
    """
    if not is_repo_id(repo_id):
        raise QueryError(f"'{repo_id[:80]}' is no repository: write owner/name")
    client = HubClient(workspace.config.endpoint, token_for(workspace.config.endpoint, token))
    try:
        client.check_online()
        return _explain(workspace, client, repo_id)
    finally:
        client.close()


def _explain(workspace: Workspace, client: HubClient, repo_id: str) -> Explanation:
    steps: list[Step] = []
    found = ask_row(client, repo_id, Deadline(SECONDS))
    if isinstance(found, Whereabouts):
        return Explanation(repo_id, "", found.status, found.reason, (), dict(client.requests))
    try:
        listed = parse(found)
    except MalformedRowError as error:
        return Explanation(repo_id, "", Status.MALFORMED_ROW, error.reason, (), dict(client.requests))
    stages = {rule: stage for stage, rules in STAGES for rule in rules}

    def observe(rule: Rule, verdict: Verdict | None) -> None:
        looks_for = (rule.__doc__ or "").partition("\n")[0]
        reason = "" if verdict is None else f"{verdict.status.value}: {verdict.reason}"
        steps.append(Step(stages[rule], rule.__name__, looks_for, verdict is None, reason))

    with _cache(workspace) as cache:
        decision = Inspector(client, workspace.config.crawl, lazy(cache)).decide(listed, observe)
    return Explanation(listed.id, listed.sha, decision.status, decision.reason, tuple(steps), dict(client.requests))


@contextmanager
def _cache(workspace: Workspace) -> Iterator[Path]:
    """Yield the workspace's cache, or a passing one: a question makes no folder where there is no workspace yet."""
    if (workspace.root / MARKER).exists():
        yield workspace.cache_dir
        return
    with TemporaryDirectory() as folder:
        yield Path(folder)
