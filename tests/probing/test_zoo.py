"""A few of the zoo's repositories, through the whole prober: its responses are the libraries' own answers.

All of them: ``python -m benchmarks.zoo`` (benchmarks/zoo/RESULTS.md).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from benchmarks.zoo import classes, compare, modules, odd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.zoo.repositories import Case

FEW = {
    classes.cases: ("SwinForImageClassification", "Siglip2ForImageClassification", "PPLCNetForImageClassification",
                    "TimmWrapperForImageClassification", "ShieldGemma2ForImageClassification"),
    modules.cases: ("test_efficientnet", "test_convnext"),
    odd.cases: ("old-MobileViTFeatureExtractor", "old-ViltFeatureExtractor", "CLIPImageProcessor-longest-edge",
                "CLIPImageProcessor-does-not-resize", "no-processor-DeiTForImageClassification", "null-settings",
                "ViTForImageClassification-in-float64", "auto_map-of-a-processor", "labels-from-1", "in-parts",
                "test_vit-flat-of-another-mean", "test_resnet-partial", "timm-an-export-with-another-img_size",
                "test_vit-beside-a-foreign-model_type"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FEW, ids=lambda kind: kind.__module__.rpartition(".")[2])
def test_responses_are_what_the_libraries_answer(kind: Callable[[], Iterator[Case]], tmp_path: Path) -> None:
    chosen = [case for case in kind() if case.name in FEW[kind]]
    assert len(chosen) == len(FEW[kind])
    results = compare.run(chosen, tmp_path, count=5, isolate=False)
    assert all(result.right for result in results), compare.table(results)


def test_another_answer_is_seen(tmp_path: Path) -> None:
    (case,) = [case for case in odd.cases() if case.name == "test_resnet-partial"]

    def other(folder: Path, images: list[object]) -> np.ndarray:
        assert case.oracle is not None
        return case.oracle(folder, images) + np.linspace(0, 0.1, len(images))[:, None]

    (result,) = compare.run([replace(case, oracle=other)], tmp_path, count=5, isolate=False)
    assert result.status == "ok"
    assert not result.right
