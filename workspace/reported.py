"""What is said of a model's accuracy: by its card's ``model-index``, by the Hub's ``evalResults``, by the card's prose.

Unverified, and untrusted text. A number above 1 is taken for percent; whatever is not of the Hub's shape says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from workspace.text import MAX_LABEL, plain

ACCURACY = ("accuracy", "acc", "top-1", "top1", "top_1")
"""How the metric that is wanted is called, in lower case, at its beginning."""

MODEL_INDEX, EVAL_RESULTS, PROSE = "model-index", "evalResults", "card"
SOURCES = (MODEL_INDEX, EVAL_RESULTS, PROSE)
"""Where an accuracy may be reported; the first that reports one counts."""

TASK = "image-classification"
MOST_RESULTS = 20
"""Results, and metrics of a result, that are looked at."""

_PROSE = re.compile(r"\baccuracy\b(?: of| is)?[\s:=]{1,3}(\d{1,3}(?:\.\d{1,6})?)\s?(%)?", re.IGNORECASE)


class Reported(NamedTuple):
    """A model's share of right answers, 0 to 1, the data set, where that is named, and which of `SOURCES` says so."""

    accuracy: float
    dataset: str | None
    source: str


def of_model_index(index: Any) -> Reported | None:
    """Return the first accuracy of the ``model-index`` of a card's front matter; None where it reports none."""
    for entry in _dicts(index):
        for result in _dicts(entry.get("results")):
            task = result.get("task")
            if isinstance(task, dict) and task.get("type", TASK) != TASK:
                continue
            for metric in _dicts(result.get("metrics")):
                share = _share(metric.get("value"))
                if share is not None and str(metric.get("type", metric.get("name"))).lower().startswith(ACCURACY):
                    where = result.get("dataset")
                    name = where.get("name") or where.get("type") if isinstance(where, dict) else None
                    return Reported(share, _name(name), MODEL_INDEX)
    return None


def of_eval_results(entries: Any) -> Reported | None:
    """Return the first result of the API's ``evalResults`` that can be an accuracy; None where there is none.

    They name a benchmark and no metric, so of a model of another task they mean another thing: ask only of image
    classifiers. An entry is as in ``.eval_results/*.yaml``, or that below ``data``; one that the Hub refused says why.

    >>> of_eval_results([{"dataset": {"id": "acme/beans", "task_id": "default"}, "value": 91.5}])
    Reported(accuracy=0.915, dataset='acme/beans', source='evalResults')
    """
    for entry in _dicts(entries):
        inner = entry.get("data", entry)
        share = _share(inner.get("value")) if isinstance(inner, dict) and "error" not in entry else None
        if share is not None:
            dataset = inner.get("dataset")
            return Reported(share, _name(dataset.get("id") if isinstance(dataset, dict) else None), EVAL_RESULTS)
    return None


def of_prose(summary: str | None) -> Reported | None:
    """Return the accuracy that the beginning of a card claims; None where it claims none that makes sense.

    >>> of_prose("It achieves the following results: Loss: 0.08 Accuracy: 0.9715").accuracy
    0.9715
    """
    found = _PROSE.search(summary or "")
    value = float(found[1]) if found else 0.0
    share = value / (100.0 if value > 1 or (found and found[2]) else 1.0)
    return Reported(round(share, 6), None, PROSE) if 0 < share <= 1 else None


def _share(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 100:
        return None
    return float(value) / (100.0 if value > 1 else 1.0)


def _name(value: Any) -> str | None:
    return plain(value, MAX_LABEL) if isinstance(value, str) else None


def _dicts(value: Any) -> Iterator[dict[Any, Any]]:
    return (entry for entry in value[:MOST_RESULTS] if isinstance(entry, dict)) if isinstance(value, list) else iter(())
