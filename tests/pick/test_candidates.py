"""Which models are tried: as many as asked for, or each that was named."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from hubprobe.pick import candidates, verb
from hubprobe.pick.candidates import Candidate, shortlist
from hubprobe.pick.images import Task
from hubprobe.pick.scores import UNKNOWN
from tests.search.conftest import CONCEPTS, make
from workspace import Workspace


def test_models_that_are_named_are_all_tried(tmp_path):
    made = make(tmp_path / "workspace", models=4)
    made.index()
    index = made.open()
    named = sorted(set(index.gallery.models.column("repo_id").to_pylist()))[:3]
    assert len(named) == 3
    found = shortlist(index, CONCEPTS[:2], count=1, models=named)
    assert sorted({candidate.repo_id for candidate in found}) == named
    assert len(shortlist(index, CONCEPTS[:2], count=1)) == 1


def jury(models: int, rng: np.random.Generator) -> tuple[verb._Jury, NDArray[np.int64]]:
    """Models whose first three outputs answer the concepts; for the last model's first the search holds its fourth."""
    truth = rng.integers(0, 3, 60)
    ran = []
    for m in range(models):
        raw = rng.normal(0, 0.7, (60, 6)).astype(np.float32)
        raw[np.arange(60), truth] += 3.0
        evidence = np.full((3, 6), 0.4) + np.eye(3, 6) * 0.2
        if m == models - 1:
            evidence[0, 3] = 0.62
        ran.append(verb._Ran(Candidate(f"o/{m}", "s", f"f{m}", np.arange(6), evidence), raw, np.ones(60, bool)))
    places = tuple(map(str, range(60)))
    task = Task(Path(), Workspace(Path("none")), ("a", "b", "c"), places, np.full(60, UNKNOWN), ())
    return verb._Jury(task, ran), truth


def test_outputs_are_chosen_by_what_all_models_say_of_the_images():
    rng = np.random.default_rng(0)
    alone, truth = jury(verb.FEWEST_FAMILIES - 1, rng)
    assert alone.outputs[-1][0][0] == 3  # two do not outvote the search
    together, truth = jury(5, rng)
    assert [own[0] for own in together.outputs[-1]] == [0, 1, 2]
    assert (together.votes[-1] == truth).mean() > 0.95


def test_an_output_fits_as_a_mean_differs_and_by_how_many_images_say_so():
    raw = np.array([[2, 0, np.nan], [2, 0, 1], [0, 1, 1], [0, 1, 1], [1, 5, 1]], np.float32)
    shown = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], float)  # the last is not known
    fit = candidates._fit(raw, shown)
    z = (raw - np.nanmean(raw, axis=0)) / np.maximum(np.nanstd(raw, axis=0), 1e-9)
    assert fit[0, 0] == pytest.approx(z[:2, 0].mean() - z[2:4, 0].mean())  # two against two: the root of one
    assert fit[0, 0] == pytest.approx(-fit[1, 0])
    assert (fit[:, 2] == 0).all()  # says the same of all
    half = candidates._fit(raw, shown * 0.5)
    assert half == pytest.approx(fit)  # probabilities say how images differ, not how many there are
    assert (candidates._fit(raw, np.eye(5, 2)[[0, 0, 0, 0, 0]]) == 0).all()  # of one concept alone: nothing to compare
