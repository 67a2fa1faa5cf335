"""The image tower: a small vision transformer, trained against the text space and the teacher.

Run ``python -m benchmarks.demo_hub.clip_image SECONDS [--all-styles] [--resume]`` after ``clip_teacher``.
Loss: cross entropy over all captions (cosine to their text targets), the same distribution from the
teacher (the only label of uncaptioned drawings), and the teacher's features through a head that is
thrown away. Twemoji is held out for validation unless ``--all-styles`` is given; that, with
``--resume``, is the last stage, at a quarter of the rate.
"""

import json
import math
import sys
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from benchmarks.demo_hub.clip_pool import STYLES
from benchmarks.demo_hub.clip_targets import DIMENSIONS, SEED, work
from benchmarks.demo_hub.clip_teacher import FEATURES, caption_bank
from benchmarks.demo_hub.probe_sources import concepts

SIZE, PATCH = 70, 14
"""Pixels a side of the input and of a patch: 26 tokens, the most that the time allows."""
HIDDEN, LAYERS, HEADS = 160, 5, 5
BATCH = 96
RATE = 1.5e-3
WHITENED = 20_000
"""Patches from which the patch embedding's first weights are computed."""
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Of the CLIP image processor."""
SCALE = 20.0
CONCEPT_WEIGHT = 3.0
VALIDATION = "twemoji"


def vision_config() -> CLIPVisionConfig:
    """Return the image tower's configuration."""
    return CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=DIMENSIONS,
    )


def _sine_positions(side: int, width: int) -> torch.Tensor:
    frequency = 1 / 100 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * frequency
    wave = torch.cat([angle.sin(), angle.cos()], dim=1)
    grid = torch.cat([wave[:, None].expand(side, side, -1), wave[None].expand(side, side, -1)], dim=-1)
    return grid.reshape(side * side, width)


@torch.no_grad()
def whitening(images: torch.Tensor) -> torch.Tensor:
    """Return filters (`HIDDEN`, 3, `PATCH`, `PATCH`): the leading principal components of patches, whitened."""
    patches = nn.functional.unfold(images, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
    patches = patches[torch.randperm(len(patches))[:WHITENED]]
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    scale = (values[-HIDDEN:] + 0.02 * values[-HIDDEN:].mean()).rsqrt()
    return (vectors[:, -HIDDEN:] * scale).T.reshape(HIDDEN, 3, PATCH, PATCH)


@torch.no_grad()
def initialise(model: CLIPVisionModelWithProjection, images: torch.Tensor) -> None:
    """Start from the structure that trained vision transformers share (Trockman & Kolter 2023, mimetic initialisation).

    Query-key products near the identity, value-output products near its negative, sine positions, and a
    whitening patch embedding from some inputs (n, 3, side, side): with few images this replaces much of
    the early training.
    """
    vision = model.vision_model
    vision.embeddings.patch_embedding.weight.copy_(whitening(images))
    vision.embeddings.position_embedding.weight[1:] = 0.5 * _sine_positions(SIZE // PATCH, HIDDEN)
    vision.embeddings.position_embedding.weight[0] = 0
    width = HIDDEN // HEADS
    for layer in vision.encoder.layers:
        attention = layer.self_attn
        for head in range(HEADS):
            rows = slice(head * width, (head + 1) * width)
            product = 0.7 * torch.randn(HIDDEN, HIDDEN) / math.sqrt(HIDDEN) + 0.7 * torch.eye(HIDDEN)
            left, values, right = torch.linalg.svd(product)
            root = values[:width].sqrt()
            attention.q_proj.weight[rows] = (left[:, :width] * root).T
            attention.k_proj.weight[rows] = root[:, None] * right[:width]
        product = 0.4 * torch.randn(HIDDEN, HIDDEN) / math.sqrt(HIDDEN) - 0.4 * torch.eye(HIDDEN)
        left, values, right = torch.linalg.svd(product)
        attention.v_proj.weight.copy_(values.sqrt()[:, None] * right)
        attention.out_proj.weight.copy_(left * values.sqrt())


def views(images: NDArray[np.uint8], generator: torch.Generator, train: bool = True) -> torch.Tensor:
    """Return normalised inputs (n, 3, 70, 70) of pool images: cropped, flipped and coloured at random if ``train``."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    count = len(pixels)
    if not train:
        pixels = nn.functional.interpolate(pixels, size=SIZE, mode="bicubic", antialias=True).clamp(0, 1)
    else:

        def uniform(low: float, high: float) -> torch.Tensor:
            return torch.rand(count, generator=generator) * (high - low) + low

        zoom = uniform(0.8, 1.08)
        flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
        theta = torch.zeros(count, 2, 3)
        theta[:, 0, 0], theta[:, 1, 1] = zoom * flip, zoom * uniform(0.93, 1.07)
        theta[:, 0, 2], theta[:, 1, 2] = uniform(-0.12, 0.12), uniform(-0.12, 0.12)
        smooth = nn.functional.avg_pool2d(nn.functional.pad(pixels, (0, 1, 0, 1), mode="replicate"), 2, 1)
        grid = nn.functional.affine_grid(theta, [count, 3, SIZE, SIZE], align_corners=False)
        pixels = nn.functional.grid_sample(smooth, grid, padding_mode="border", align_corners=False)
        contrast, brightness = uniform(0.85, 1.15), uniform(-0.08, 0.08)
        pixels = (pixels * contrast[:, None, None, None] + brightness[:, None, None, None]).clamp(0, 1)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


class Pool:
    """The pool and everything known of it, in memory or mapped."""

    def __init__(self) -> None:
        """Open what ``clip_pool`` and ``clip_teacher`` wrote."""
        self.images = np.load(work() / "pool.npy", mmap_mode="r")
        self.captions = torch.from_numpy(np.load(work() / "pool_caption.npy")).long()
        self.styles = torch.from_numpy(np.load(work() / "pool_style.npy"))
        self.features = torch.from_numpy(np.load(work() / "teacher_features.npy"))
        self.teacher = torch.from_numpy(np.load(work() / "teacher_embedding.npy"))
        self.bank = caption_bank()

    def batch(self, rows: torch.Tensor) -> NDArray[np.uint8]:
        """Return the images of some rows, uint8 (n, 96, 96, 3)."""
        return np.stack([self.images[row] for row in rows.tolist()])


def loss_of(output: torch.Tensor, predicted: torch.Tensor, pool: Pool, rows: torch.Tensor) -> torch.Tensor:
    """Return the training loss of a batch; see the module's text for its three parts."""
    logits = SCALE * nn.functional.normalize(output, dim=-1) @ pool.bank.T
    with torch.no_grad():
        taught = (1.5 * SCALE * pool.teacher[rows].float() @ pool.bank.T).softmax(-1)
        likeness = (SCALE * pool.bank @ pool.bank.T)[pool.captions[rows].clamp(min=0)].softmax(-1)
        exact = nn.functional.one_hot(pool.captions[rows].clamp(min=0), len(pool.bank)).float()
        share = (pool.captions[rows] >= 0).float()[:, None] * 0.6
        goal = share * (0.85 * exact + 0.15 * likeness) + (1 - share) * taught
    contrast = nn.functional.cross_entropy(logits, goal)
    feature = 1 - nn.functional.cosine_similarity(predicted, pool.features[rows].float()).mean()
    return contrast + 2.0 * feature


@torch.no_grad()
def accuracy(model: CLIPVisionModelWithProjection, pool: Pool, limit: int = 1500) -> tuple[float, float]:
    """Return top-1 and top-5 accuracy over all captions on augmented views of the validation style."""
    rows = ((pool.styles == STYLES.index(VALIDATION)) & (pool.captions >= 0)).nonzero().squeeze(1)[:limit]
    model.eval()
    generator = torch.Generator()
    ranked = torch.cat(
        [
            (model(views(pool.batch(part), generator, train=False)).image_embeds @ pool.bank.T).topk(5).indices
            for part in rows.split(250)
        ]
    )
    model.train()
    hit = ranked == pool.captions[rows][:, None]
    return float(hit[:, 0].float().mean()), float(hit.any(1).float().mean())


def sampling(pool: Pool) -> torch.Tensor:
    """Return how often each view is drawn, float32 (n,): `CONCEPT_WEIGHT` for the demo hub's concepts, 1 otherwise."""
    names: list[str] = json.loads((work() / "captions.json").read_text("utf-8"))
    known = {concept["name"] for concept in concepts()}
    wanted = torch.tensor([name in known for name in names] + [False])
    return torch.where(wanted[pool.captions], CONCEPT_WEIGHT, 1.0)


def optimisers_of(model: CLIPVisionModelWithProjection, hint: nn.Linear, rate: float) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices inside the transformer's layers and AdamW for everything else."""
    inner = [p for p in model.vision_model.encoder.parameters() if p.ndim == 2]
    chosen = {id(p) for p in inner}
    outer = [p for p in [*model.parameters(), *hint.parameters()] if id(p) not in chosen]
    return [
        torch.optim.Muon(inner, lr=rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=rate, weight_decay=0.05, betas=(0.9, 0.98)),
    ]


def train(seconds: float, all_styles: bool, resume: bool) -> None:
    """Train for ``seconds`` and write ``image.pt``; progress goes to stderr."""
    torch.manual_seed(SEED)
    pool = Pool()
    model = CLIPVisionModelWithProjection(vision_config())
    hint = nn.Linear(HIDDEN, FEATURES)
    generator = torch.Generator().manual_seed(SEED)
    initialise(model, views(pool.images[:2000], generator))
    rate = RATE / 4 if resume and all_styles else RATE
    if resume:
        saved = torch.load(work() / "image.pt", weights_only=True)
        model.load_state_dict(saved["model"])
        hint.load_state_dict(saved["hint"])
    model.train()
    chance = sampling(pool)
    if not all_styles:
        chance[pool.styles == STYLES.index(VALIDATION)] = 0
    parameters = [*model.parameters(), *hint.parameters()]
    optimisers = optimisers_of(model, hint, rate)
    start, step = time.monotonic(), 0
    mean_loss = 0.0
    while (spent := (time.monotonic() - start) / seconds) < 1:
        batch = torch.multinomial(chance, BATCH)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent)))
        encoded = model(views(pool.batch(batch), generator))
        hidden = model.vision_model.post_layernorm(encoded.last_hidden_state[:, 0])
        loss = loss_of(encoded.image_embeds, hint(hidden), pool, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad()
        mean_loss += max(0.02, 1 / (step + 1)) * (loss.item() - mean_loss)
        step += 1
        if step % 100 == 0:
            report = f"step {step} seen {step * BATCH} spent {spent:.3f} loss {mean_loss:.3f}"
            if step % 300 == 0:
                top1, top5 = accuracy(model, pool)
                report += f" {VALIDATION} top-1 {top1:.3f} top-5 {top5:.3f}"
                torch.save({"model": model.state_dict(), "hint": hint.state_dict()}, work() / "image.pt")
            sys.stderr.write(report + "\n")
    top1, top5 = accuracy(model, pool, limit=10_000)
    sys.stderr.write(f"end: {step} steps of {BATCH}, {VALIDATION} top-1 {top1:.3f} top-5 {top5:.3f}\n")
    torch.save({"model": model.state_dict(), "hint": hint.state_dict()}, work() / "image.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(float(sys.argv[1]), "--all-styles" in sys.argv, "--resume" in sys.argv)
