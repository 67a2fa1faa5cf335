"""At the end of the report: how much of the documentation was run, and what of it was not, and why."""

from __future__ import annotations

from typing import Any

import pytest

DOCUMENTATION: pytest.StashKey[dict[str, list[Any]]] = pytest.StashKey()
"""What the tests of the documentation leave here: seconds and names of what was run, names and reasons of the rest."""

_from_workers: list[dict[str, list[Any]]] = []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In a worker process, send it to the one that reports."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None and DOCUMENTATION in session.config.stash:
        output["documentation"] = session.config.stash[DOCUMENTATION]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take what a worker sent."""
    _from_workers.append(getattr(node, "workeroutput", {}).get("documentation", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say it."""
    parts = [*_from_workers, terminalreporter.config.stash.get(DOCUMENTATION, {})]
    took = sorted((tuple(entry) for part in parts for entry in part.get("took", [])), reverse=True)
    left_out = [entry for part in parts for entry in part.get("left_out", [])]
    if not took:
        return
    terminalreporter.section(f"documentation: {len(took)} commands and blocks were run, {len(left_out)} were not")
    for seconds, what in took[:5]:
        terminalreporter.line(f"{seconds:6.1f} s  {what}")
    for what, why in left_out:
        terminalreporter.line(f"not run: {why:40} {what}")
