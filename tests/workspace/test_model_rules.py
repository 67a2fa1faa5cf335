"""What a config asks for, in numbers, against sums done by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workspace import CrawlConfig, Status
from workspace.architectures import Architectures
from workspace.model_config import parse_config
from workspace.model_rules import MAX_LAYERS, at_least, refusal

VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "num_labels": 5}
KNOWN = Architectures(
    {"vit": frozenset({"ViTForImageClassification"})}, {}, frozenset({"vit"}), frozenset({"resnet18"})
)


def config(**values: Any) -> Any:
    return parse_config(json.dumps(VIT | values).encode(), 300_000)


@pytest.mark.parametrize(
    ("values", "floor"),
    [
        ({"hidden_size": 100, "num_hidden_layers": 3}, 3 * 100**2),
        ({"hidden_size": 100}, 100**2),
        ({"hidden_size": 100, "num_hidden_layers": 3, "num_labels": 9_000}, 100 * 9_000),
        # several widths or depths: the widest in a quarter of the layers
        ({"hidden_sizes": [10, 20, 40], "depths": [1, 2, 3]}, 6 * 40**2 // 4),
        ({"embed_dim": 40, "depths": [1, 2, 3]}, 6 * 40**2 // 4),
        ({"hidden_sizes": [40], "depths": [6]}, 6 * 40**2),
        ({"vision_config": {"hidden_size": 70, "num_hidden_layers": 2}, "hidden_size": 10}, 2 * 70**2),
        ({"hidden_size": 10**12, "num_hidden_layers": 10**12}, 10**18),
        ({}, 0),
    ],
)
def test_a_floor_of_the_parameters(values: dict[str, Any], floor: int) -> None:
    assert at_least(config(**values)) == floor


@pytest.mark.parametrize(("most", "refused"), [(3 * 100**2 - 1, True), (3 * 100**2, False)])
def test_the_cap_is_what_is_allowed(most: int, refused: bool) -> None:
    limits = CrawlConfig(max_parameters=most)
    verdict = refusal(config(hidden_size=100, num_hidden_layers=3), limits, KNOWN)
    assert (verdict is not None) is refused
    if verdict is not None:
        assert verdict.status is Status.TOO_MANY_PARAMETERS
        assert "30,000 parameters" in verdict.reason
        assert "29,999 are allowed" in verdict.reason


@pytest.mark.parametrize(("layers", "refused"), [(MAX_LAYERS, False), (MAX_LAYERS + 1, True)])
def test_layers_are_counted_at_all_levels(layers: int, refused: bool) -> None:
    values = {"num_hidden_layers": layers - 7, "vision_config": {"depths": [3, 4]}, "hidden_size": 1}
    assert (refusal(config(**values), CrawlConfig(), KNOWN) is not None) is refused


@pytest.mark.parametrize(("edge", "refused"), [(512, False), (513, True)])
def test_the_largest_image_is_allowed(edge: int, refused: bool) -> None:
    verdict = refusal(config(image_size=edge), CrawlConfig(max_image_size=512), KNOWN)
    assert (verdict is not None and verdict.status is Status.IMAGE_TOO_LARGE) is refused


def test_an_absurd_number_of_layers_is_said() -> None:
    verdict = refusal(config(num_hidden_layers=2_000_000, hidden_size=1), CrawlConfig(), KNOWN)
    assert verdict is not None
    assert verdict.reason == "its config asks for 2,000,000 layers, 1,000 are allowed"
