"""What holds for all tests: those that need a GPU are not collected where there is none; the demo runs once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.built import built
from tests.demo_run import demo, installed, ran, report
from tests.once import once
from workspace.architectures import Architectures

__all__ = ["built", "demo", "installed", "ran", "report"]  # fixtures for every folder
pytest_plugins = ["tests.documentation"]

if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many processes as there are cores: its threads would wait spinning
    os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOMS = ("completion", "crawler", "hubprobe", "probing", "search", "workspace")


@pytest.fixture(scope="session")
def names(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder in which transformers and timm have been asked what they know: five seconds, once for this run."""
    return once(tmp_path_factory, "names", _ask)


def _ask(folder: Path) -> None:
    Architectures.load(folder)


@pytest.fixture(autouse=True)
def _loggers() -> Iterator[None]:
    """Take back what the command line, called in this process, made of our loggers: others' tests listen to them."""
    ours = [logging.getLogger(room) for room in ROOMS]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in ours]
    yield
    for logger, (handlers, propagate, level) in zip(ours, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


@pytest.hookimpl(tryfirst=True)  # before the marks are read by whoever hands the tests to processes
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_together(item)))
    items.sort(key=_turn)
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if item not in needing]
        config.hook.pytest_deselected(items=needing)


FIRST = (
    "end_to_end/test_demo", "end_to_end/test_first_contact", "hubprobe/test_cluster", "page/test_browser",
    "packaging/test_slurm", "release/test_forged", "crawler/test_faults", "crawler/test_state", "page/test_api",
)  # fmt: skip
"""Files that take half a minute and more, the demo's own run before all others."""


def _turn(item: pytest.Item) -> int:
    """Return when an item is begun: the long ones, then those that want the demo's run, then all that is short."""
    name = item.path.relative_to(Path(__file__).parent).with_suffix("").as_posix()
    if name in FIRST:
        return FIRST.index(name)
    return len(FIRST) + (not (name.startswith("end_to_end/") or name == "pick/test_verb" or _is_a_page(item)))


def _is_a_page(item: pytest.Item) -> bool:
    return item.path.parent.name == "docs" and item.get_closest_marker("slow") is not None


def _together(item: pytest.Item) -> str:
    """Return the group that one process runs: a file; each page of the docs."""
    if _is_a_page(item):
        return item.name
    return item.path.relative_to(item.config.rootpath).as_posix()
