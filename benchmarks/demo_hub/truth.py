"""Collect the records of the trained models into ``hubprobe/demo/truth.json``.

Run ``python -m benchmarks.demo_hub.truth`` after ``models.py``. The truth is for evaluation alone:
it stays outside the repos. It also holds the real ImageNet model's logits, mapped by hand. The
table of the models is written between the markers of this folder's README.md.
"""

import json
from pathlib import Path
from typing import Any

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.concepts import load
from benchmarks.demo_hub.imagenet_map import IMAGENET_REPO, logits
from benchmarks.demo_hub.models import HUB
from benchmarks.demo_hub.plan import MODELS, OTHER_SYNONYMS

TRUTH = HUB.parents[1] / "truth.json"
README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table begins -->", "<!-- table ends -->"
COLUMNS = (
    "| model | class | concepts | pixels | parameters | bytes | labels | steps | seconds | unseen images | top-1 |\n"
    "|---|---|---:|---:|---:|---:|---|---:|---:|---|---:|\n"
)


def records() -> list[dict[str, Any]]:
    """Return the records of the models that are in the hub, in the plan's order."""
    folder = sources.assets() / "trained"
    found = []
    for spec in MODELS:
        path = folder / f"{spec.repo.replace('/', '--')}.json"
        if path.exists():
            record = json.loads(path.read_text("utf-8"))
            if record["healthy"] and (HUB / spec.repo / "model.safetensors").exists():
                found.append(record)
    return found


def concept_entries(models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return name and synonyms of every concept that some model knows, sorted by key."""
    used = {key for model in models for key in model["logits"]} | {key for key in logits() if key}
    known = {concept["key"]: concept["synonyms"] for concept in load()} | OTHER_SYNONYMS
    return {key: {"name": key, "synonyms": known[key]} for key in sorted(used)}


def model_entries(models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the truth of every repo: its logits' concepts, its labels' kind, its accuracy."""
    wanted = ("logits", "heldout_top1", "heldout_style", "heldout_images")
    entries = {
        model["repo"]: {**{key: model[key] for key in wanted}, "labels": model["labels"].partition(":")[0]}
        for model in models
    }
    entries[IMAGENET_REPO] = {
        "logits": logits(), "heldout_top1": None, "heldout_style": None, "heldout_images": 0, "labels": "named",
    }  # fmt: skip
    return dict(sorted(entries.items()))


def table(models: list[dict[str, Any]]) -> str:
    """Return the Markdown table of the models."""
    rows = [
        f"| {m['repo']} | {m['family']} | {len(m['logits'])} | {m['size']} | {m['parameters']:,} | {m['bytes']:,} "
        f"| {m['labels']} | {m['steps']} | {m['seconds']} | {m['heldout_images']} {m['heldout_style']} "
        f"| {m['heldout_top1']:.3f} |\n"
        for m in models
    ]
    return COLUMNS + "".join(rows)


def main() -> None:
    """Write the truth and the table."""
    models = records()
    truth = {"concepts": concept_entries(models), "models": model_entries(models)}
    TRUTH.write_text(json.dumps(truth, indent=1, ensure_ascii=False) + "\n", "utf-8")
    if README.exists():
        head, _, rest = README.read_text("utf-8").partition(BEGIN)
        README.write_text(f"{head}{BEGIN}\n{table(models)}{END}{rest.partition(END)[2]}", "utf-8")


if __name__ == "__main__":
    main()
