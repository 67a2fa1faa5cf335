"""What holds for all tests: those that need a GPU are not collected where there is none; the demo runs once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.demo_run import demo, installed, report

__all__ = ["demo", "installed", "report"]  # fixtures for every folder

if TYPE_CHECKING:
    import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    import torch

    if not torch.cuda.is_available():
        items[:] = [item for item in items if item not in needing]
        config.hook.pytest_deselected(items=needing)
