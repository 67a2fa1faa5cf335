"""One host: a workspace folder of its own, its share of the models, and the remote."""

from __future__ import annotations

import io
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

import probing
from hubprobe.sync import synced
from workspace import Workspace, records
from workspace.files import write_table
from workspace.seams import Fetched

SHA = "a" * 40
SECONDS = 1.0
"""What fetching a model takes: the hosts share two processors here, so that running alone would take no time."""


def make_models(folder: Path, count: int) -> None:
    """Write tiny vision transformers with weights of their own."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    for i in range(count):
        torch.manual_seed(i)
        config = ViTConfig(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32,
            patch_size=8, id2label={j: f"label {j}" for j in range(5)},
        )  # fmt: skip
        config.architectures = ["ViTForImageClassification"]
        ViTForImageClassification(config).save_pretrained(folder / f"model-{i:04d}")
        (folder / f"model-{i:04d}" / "preprocessor_config.json").write_text(
            '{"image_processor_type": "ViTImageProcessor", "do_resize": true, "size": {"height": 32, "width": 32}}'
        )


def make_workspace(root: Path, count: int) -> Workspace:
    """Return a workspace with probes, and a catalog of the models and of two that are not eligible."""
    workspace = Workspace.create(root)
    pictures = root.parent / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        rng = np.random.default_rng(0)
        for i in range(40):
            buffer = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((32, 32)).save(buffer, "PNG")
            (pictures / f"{i}.png").write_bytes(buffer.getvalue())
    probing.probes.build(workspace, pictures, n=40, progress=False)
    rows = [{"id": f"model-{i:04d}", "eligibility": "eligible", "reason": ""} for i in range(count)]
    rows += [{"id": f"other-{i}", "eligibility": "pickle_only", "reason": "only pickles"} for i in range(2)]
    same = {"sha": SHA, "crawled_at": datetime(2026, 1, 1, tzinfo=timezone.utc)}
    full = [{name: (row | same).get(name) for name in records.CATALOG.names} for row in rows]
    write_table(workspace.catalog_dir / "rows.parquet", pa.Table.from_pylist(full, schema=records.CATALOG))
    return workspace


def run(workspace: Workspace, repos: Path, shard: str | None) -> None:
    """Probe with the workspace's remote, where it has one, as the verb does."""

    def fetch(row: dict[str, str]) -> Fetched:
        if shard is not None:
            time.sleep(SECONDS)
        return Fetched(repos / row["id"], 1, SECONDS, lambda: None)

    with synced(workspace, "probe") as remote:
        probing.probe(
            workspace,
            fetch,
            remote=remote,
            shard=shard,
            progress=False,
            isolate=False,
            precision="float32",  # type: ignore[arg-type]
        )


def main() -> None:
    folder, number, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    root = folder / f"host-{number}"
    Workspace.create(root)
    run(Workspace.open(root), folder / "repos", f"{number}/{count}")


if __name__ == "__main__":
    main()
