"""Deciding one repository with as few requests as its answer needs, and explaining the decision step by step.

========================  ==============  ==============================================================================
what is asked             bucket          why so
========================  ==============  ==============================================================================
nothing                   none            two thirds of the Hub are decided by the listing: format, gate, tags
config.json, pinned       resolvers (2)   the bucket with six times the quota of ``api``
header of the weights     resolvers (1)   one ranged read; its redirect also states size and sha256
paths-info, pinned        api (1)         only for what would be eligible: names the hash and size of every file a
                                          probe fetches in one answer, and says if it was renamed or taken away
top of README.md, pinned  resolvers (1)   only for what is eligible, and unless ``[crawl] cards = false``
pull requests, one of     api (1 or 2)    only where nothing but pickled weights speaks against it: a conversion bot may
them                                      have added safetensors; not when ``[crawl] converted = false``
========================  ==============  ==============================================================================

A tree call per candidate instead would cost the scarcer bucket before anything is known, and a HEAD per file would cost
more and verify nothing that these answers do not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa

from crawler.decide.repository import (
    CARD,
    MAX_ANSWER,
    READ,
    ElsewhereError,
    Offer,
    Whereabouts,
    ask_offer,
    ask_paths,
    ask_row,
    file_of,
    is_file,
    reported,
    summary,
    whereabouts,
)  # fmt: skip
from crawler.decide.rules import (
    CONFIG,
    CONFIG_RULES,
    LIST_RULES,
    STAGES,
    WEIGHTS_RULES,
    Facts,
    Rule,
    first_refusal,
    may_be_converted,
)  # fmt: skip
from crawler.hub.client import Answer, HubClient
from crawler.hub.transport import Deadline, UnansweredError
from crawler.listing.rows import File, Listed, MalformedRowError, is_repo_id, parse
from workspace import CrawlConfig, HubError, ModelError, QueryError, Status, Workspace, conversions
from workspace.architectures import Architectures, lazy
from workspace.endpoint import token_for
from workspace.layout import MARKER
from workspace.model_config import MAX_CONFIG, ModelConfig, parse_config
from workspace.model_rules import Verdict
from workspace.reported import Reported
from workspace.safetensors_header import FIRST_READ, INDEX, WEIGHTS, Header, header_of, is_shard, shards
from workspace.text import printable

logger = logging.getLogger(__name__)

REPO_SECONDS = 180.0  # one repository, waiting for our turn not counted
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
"""Files beside config and weights that a probe reads when they are there."""
MAX_ASKED = 100  # files asked about at once beside those that are needed: a repository may list any number
REFUSED_FILES = Whereabouts(Status.FILE_MISSING, "its files are refused although the repository is there")

Observe = Callable[[Rule, Verdict | None], None]


@dataclass
class Decision:
    """The end of one repository in the catalog."""

    listed: Listed
    status: Status = Status.ELIGIBLE
    reason: str = ""
    config: ModelConfig | None = None
    header: Header | None = None
    renamed_to: str | None = None
    card: str | None = None  # what its card says first
    reported: Reported | None = None  # and the accuracy that its model-index reports
    offer: Offer | None = None  # its weights, where they are in a pull request
    known: dict[str, File] = field(default_factory=dict)  # sizes and hashes learned on the way
    stated: dict[str, File | None] = field(default_factory=dict)  # what the API says of files; None of those not there

    def end(self, why: Whereabouts | ModelError | MalformedRowError | UnansweredError) -> None:
        """Note why it cannot be probed."""
        self.status, self.reason, self.renamed_to = why.status, why.reason, getattr(why, "renamed_to", None)


class Inspector:
    """Decides repositories; safe to use from several threads.

    ``architectures`` returns what can be built, and is called when the first config has to be judged.
    """

    def __init__(self, client: HubClient, limits: CrawlConfig, architectures: Callable[[], Architectures]) -> None:
        self._client, self._limits, self._architectures = client, limits, architectures

    def stop(self) -> None:
        """Make decisions under way end soon, whichever way: nobody will book them."""
        self._client.retries.stop()

    def from_listing(self, listed: Listed) -> Decision | None:
        """Return the decision if the listing alone makes it, at no request; None when more has to be asked."""
        facts = Facts(listed, self._limits)
        verdict = first_refusal(LIST_RULES, facts)
        if verdict is None or (verdict.status is Status.PICKLE_ONLY and may_be_converted(facts)):
            return None
        return Decision(listed, verdict.status, verdict.reason)

    def may_be_converted(self, listed: Listed) -> bool:
        """Return whether a repository's pull requests are looked through: one or two requests more."""
        return may_be_converted(Facts(listed, self._limits))

    def decide(self, listed: Listed, observe: Observe | None = None) -> Decision:
        """Return the decision, asking the Hub for what is missing. Never raises for a repository's own faults.

        ``observe`` is told of every rule as it is asked, with its verdict.
        """
        decision = Decision(listed)
        deadline = Deadline(REPO_SECONDS)
        try:
            self._decide(decision, deadline, observe)
        except (ModelError, MalformedRowError) as error:
            decision.end(error)
        except UnansweredError as error:
            decision.end(error)
            if error.status is Status.GONE:
                decision.end(whereabouts(self._client, listed.id, deadline) or REFUSED_FILES)
        except HubError:
            raise  # nothing of this repository: no model can be judged
        except Exception as error:
            logger.exception("deciding %s failed", listed.id)
            kind = Status.INTERNAL_ERROR
            decision.end(Whereabouts(kind, f"{kind.meaning} ({type(error).__name__})"))
        return decision

    def _decide(self, decision: Decision, deadline: Deadline, observe: Observe | None) -> None:
        if not decision.listed.complete:
            found = ask_row(self._client, decision.listed.id, deadline)
            if isinstance(found, Whereabouts):
                raise ElsewhereError(found)
            decision.listed = replace(parse(found), id=decision.listed.id)  # its row has the name it was listed by
            if not decision.listed.complete:
                raise MalformedRowError(
                    decision.listed.id, "names no commit or no files, so nothing of it can be pinned"
                )
        facts = Facts(decision.listed, self._limits)
        why = ""
        if may_be_converted(facts):
            offered = ask_offer(self._client, decision.listed, self._limits.converters, deadline)
            if isinstance(offered, Offer):
                decision.offer, facts = offered, replace(facts, offered=offered.paths)
                decision.stated |= {file.path: file for file in offered.weights}
            else:
                why = f"; {offered}"
        _pass(LIST_RULES, facts, observe, why)
        datasets = [tag.removeprefix("dataset:") for tag in decision.listed.tags if tag.startswith("dataset:")]
        raw = self._file(decision, CONFIG, MAX_CONFIG, deadline)
        decision.config = parse_config(raw, self._limits.max_labels, datasets)
        facts = replace(facts, architectures=self._architectures(), config=decision.config)
        _pass(CONFIG_RULES, facts, observe)
        decision.header = self._header(decision, deadline)
        _pass(WEIGHTS_RULES, replace(facts, header=decision.header), observe)
        self._confirm(decision, deadline)
        if self._limits.cards and decision.status is Status.ELIGIBLE and CARD in decision.listed.paths:
            self._read_card(decision, deadline)

    def _read_card(self, decision: Decision, deadline: Deadline) -> None:
        url = self._client.resolve_url(decision.listed.id, decision.listed.sha, CARD)
        try:
            answer = self._client.read(url, limit=READ, start=0, stop=READ, deadline=deadline)
        except (UnansweredError, ModelError) as error:  # a model is as good without its card
            logger.info("the card of %s was not read: %s", decision.listed.id, error)
            return
        decision.card, decision.reported = summary(answer.body), reported(answer.body)

    def _header(self, decision: Decision, deadline: Deadline) -> Header:
        if WEIGHTS in decision.listed.paths or (decision.offer is not None and WEIGHTS in decision.offer.paths):
            return self._header_of(decision, WEIGHTS, deadline)
        header = Header((), 0)
        for name in shards(self._file(decision, INDEX, MAX_ANSWER, deadline)):
            header = header + self._header_of(decision, name, deadline)
        return header

    def _header_of(self, decision: Decision, path: str, deadline: Deadline, tries: int = 2) -> Header:
        url = self._url(decision, path)
        check = self._checked(decision, path, deadline, whole=False)

        def read(start: int, stop: int) -> bytes:
            return self._client.read(url, limit=stop - start, start=start, stop=stop, deadline=deadline).body

        answer = self._client.read(url, limit=FIRST_READ, start=0, stop=FIRST_READ, deadline=deadline, check=check)
        decision.known[path] = file_of(path, answer)
        try:
            return header_of(answer.body, answer.size or 0, read)
        except ModelError:
            # A part of a file has no hash of its own: only bytes that come twice alike are the file's own fault.
            if tries == 1:
                raise
        return self._header_of(decision, path, deadline, tries - 1)

    def _file(self, decision: Decision, path: str, limit: int, deadline: Deadline) -> bytes:
        url = self._url(decision, path)
        check = self._checked(decision, path, deadline, whole=True)
        answer = self._client.read(url, limit=limit, deadline=deadline, check=check)
        decision.known[path] = replace(file_of(path, answer), size=len(answer.body))
        return answer.body

    def _url(self, decision: Decision, path: str) -> str:
        """Return where a file lies: pinned to the listed commit, or to that of the pull request which adds it."""
        offer = decision.offer
        sha = offer.sha if offer is not None and path in offer.paths else decision.listed.sha
        return self._client.resolve_url(decision.listed.id, sha, path)

    def _checked(self, decision: Decision, path: str, deadline: Deadline, *, whole: bool) -> Callable[[Answer], None]:
        """Return what tells whether an answer is a file of the commit. Only one without a hash costs a question."""

        def check(answer: Answer) -> None:
            stated = None if answer.etag else self._stated(decision, [path], deadline)[path]
            is_file(answer, stated, whole=whole)

        return check

    def _stated(self, decision: Decision, paths: list[str], deadline: Deadline) -> dict[str, File | None]:
        """Return what the API says of files of the commit, asked once for all that a decision may need."""
        listed, stated = decision.listed, decision.stated
        if any(path not in stated for path in paths):
            usual = [path for path in listed.paths if path in (CONFIG, INDEX, *PROCESSORS) or is_shard(path)]
            replaced = conversions.pickles(listed.paths) if decision.offer is not None else []
            wanted = [*dict.fromkeys([*paths, *sorted(usual)[:MAX_ASKED], *replaced])]
            wanted = [path for path in wanted if path not in stated]
            stated |= dict.fromkeys(wanted) | ask_paths(self._client, listed.id, listed.sha, wanted, deadline)
        return stated

    def _confirm(self, decision: Decision, deadline: Deadline) -> None:
        listed = decision.listed
        wanted = [*decision.known, *(p for p in PROCESSORS if p in listed.paths)]
        if decision.offer is not None:
            wanted += conversions.pickles(listed.paths)
        stated = self._stated(decision, wanted, deadline)
        if decision.offer is not None:
            main = {path: entry.oid if (entry := stated.get(path)) else None for path in listed.paths}
            if why := conversions.objection(main, decision.offer.oids):
                raise ModelError(Status.PICKLE_ONLY, f"{decision.offer.ref} is not used: {printable(why)}")
        for path, seen in decision.known.items():
            entry = stated[path]
            if entry is None:
                raise ModelError(Status.FILE_MISSING, f"{path} is not in its commit")
            if entry.size != seen.size or (seen.sha256 or entry.sha256) != entry.sha256:
                raise ModelError(Status.CORRUPT_FILE, f"the Hub serves another {path} than it lists")
        decision.known |= {path: entry for path in wanted if (entry := stated[path]) is not None}


def _pass(rules: tuple[Rule, ...], facts: Facts, observe: Observe | None, why: str = "") -> None:
    for rule in rules:
        verdict = rule(facts)
        if observe is not None:
            observe(rule, verdict)
        if verdict is not None:
            raise ModelError(verdict.status, verdict.reason + why)


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

    # a question makes no folder where there is no workspace yet
    is_made = (workspace.root / MARKER).exists()
    with nullcontext(workspace.cache_dir) if is_made else TemporaryDirectory() as cache:
        decision = Inspector(client, workspace.config.crawl, lazy(Path(cache))).decide(listed, observe)
    return Explanation(listed.id, listed.sha, decision.status, decision.reason, tuple(steps), dict(client.requests))
