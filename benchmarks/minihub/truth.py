"""Write ``truth.json``: what every logit of MiniHub recognises, and how well its model knows.

Run ``python -m benchmarks.minihub.truth`` after ``models.py``. The file, under ``$HUBPROBE_ASSETS/minihub``, holds the
concepts with their synonyms, the published models and the split of the concepts. ``--table`` prints the table of
``README.md``.
"""

import json
import statistics
import sys
from collections import Counter
from typing import Any

from benchmarks.minihub import pool
from benchmarks.minihub.bases import BASES, record_of
from benchmarks.minihub.concepts import load, split


def records() -> list[dict[str, Any]]:
    """Return the records of the published models, in the order of training."""
    found = [json.loads(path.read_text("utf-8")) for path in sorted((pool.root() / "records").glob("*.json"))]
    return [record for record in found if record["published"]]


def truth() -> dict[str, Any]:
    """Return the truth as written to ``truth.json``."""
    kept = ("logits", "heldout_top1", "heldout_images", "family", "model_type", "start", "unknown_to_base")
    return {
        "concepts": {concept["key"]: {"name": concept["name"], "synonyms": concept["synonyms"]} for concept in load()},
        "models": {record["repo"]: {name: record[name] for name in kept} for record in records()},
        "split": split(),
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return the table of families as Markdown."""
    lines = [
        "| family | class | base top-1 | base s | models | logits | worst | median | best | s a model |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for family in BASES:
        base, own = record_of(family), [record for record in found if record["family"] == family]
        if base is None or not own:
            continue
        scores = [record["heldout_top1"] for record in own]
        seconds = statistics.median(record["seconds"] for record in own)
        count = sum(len(record["logits"]) for record in own)
        lines.append(
            f"| {family} | {base['model_type']} | {base['heldout_top1']:.3f} | {base['seconds']} | {len(own)} "
            f"| {count} | {min(scores):.3f} | {statistics.median(scores):.3f} | {max(scores):.3f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def main(with_table: bool) -> None:
    """Write the truth; print the counts."""
    found = records()
    (pool.root() / "truth.json").write_text(json.dumps(truth(), indent=1, ensure_ascii=False) + "\n", "utf-8")
    known = Counter(key for record in found for key in record["logits"])
    counts = {
        "models": len(found),
        "families": len({record["family"] for record in found}),
        "logits": sum(len(record["logits"]) for record in found),
        "concepts": len(known),
        "fewest models of a concept": min(known[concept["key"]] for concept in load()),
    }
    sys.stdout.write(json.dumps(counts) + "\n")
    if with_table:
        sys.stdout.write(table(found) + "\n")


if __name__ == "__main__":
    main("--table" in sys.argv[1:])
