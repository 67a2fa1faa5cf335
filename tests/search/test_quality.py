"""The estimate of a model's accuracy: what it is made of, and that it ranks models as the truth would."""

import numpy as np
import pytest

from search.text.quality import accuracy
from tests.search.conftest import CONCEPTS, make, write_descriptors
from tests.search.test_lists import in_catalog


def test_it_counts_answers_on_the_probes_that_show_a_class_best():
    expected = np.array([[0.9, 0.8, 0.1, 0.0], [0.0, 0.3, 0.7, 0.6]], np.float32)
    raw = np.array([[5, 1, 0, 9], [0, 2, 3, 1], [-1, 9, 1, 0]], np.float32)  # the third output has no name
    # class 0: probes 0 and 1, of which 0 is right; class 1: probes 2 and 3, of which 2 is right
    assert accuracy(raw, np.array([0, 1]), expected) == pytest.approx(0.5)
    assert accuracy(raw, np.array([0, 1]), np.array([[1, 1, 1, 1], [0, 0, 0, 0]], np.float32)) is None


def test_better_models_are_estimated_higher_and_silent_ones_not_at_all(tmp_path):
    made = make(tmp_path / "workspace", models=12)
    rng = np.random.default_rng(1)
    n, noises = len(made.content), np.linspace(0.1, 1.6, 10)
    shown, truth = made.content.argmax(axis=1), []
    for i, noise in enumerate(noises):
        chosen = rng.permutation(len(CONCEPTS))[:8]
        raw = made.content[:, chosen].T + noise * rng.standard_normal((8, n))
        own = np.isin(shown, chosen)
        truth.append((chosen[raw.argmax(axis=0)][own] == shown[own]).mean())
        mean, std = raw.mean(axis=1), raw.std(axis=1)
        vectors = ((raw - mean[:, None]) / std[:, None]).astype(np.float16)
        rows = [
            {"repo_id": f"zoo/m{i}", "sha": "f" * 40, "logit": j, "label": CONCEPTS[c], "mean": float(mean[j]),
             "std": float(std[j]), "variance": 0.0, "vector": vectors[j]}
            for j, c in enumerate(chosen)
        ]  # fmt: skip
        write_descriptors(made.workspace, rows, n, f"zoo-{i}")
    in_catalog(made, {f"zoo/m{i}": "named" for i in range(10)}, 8)
    made.index()
    index = made.open()
    models = {row["repo_id"]: row for row in index.gallery.models.to_pylist()}
    found = np.array([models[f"zoo/m{i}"]["estimated_accuracy"] for i in range(10)], float)
    ranks = [np.argsort(np.argsort(values)) for values in (found, np.array(truth))]
    assert np.corrcoef(*ranks)[0, 1] > 0.85
    assert np.abs(found - truth).mean() < 0.2
    assert models["owner0/model-000"]["estimated_accuracy"] is None  # LABEL_0, LABEL_1 ...
    best = index.sql("SELECT repo_id FROM models ORDER BY estimated_accuracy DESC NULLS LAST LIMIT 1")
    assert models[best["repo_id"][0].as_py()]["estimated_accuracy"] == max(
        row["estimated_accuracy"] for row in models.values() if row["estimated_accuracy"] is not None
    )
