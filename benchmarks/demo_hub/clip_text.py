"""The text tower: a small causal transformer that learns the sentence encoder's space.

Run ``python -m benchmarks.demo_hub.clip_text`` after ``clip_targets``. Every phrase is shown bare or
in a prompt; the target is the bare phrase's in either case, so prompts do not move the embedding.
"""

import math
import sys
import time

import numpy as np
import torch
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from benchmarks.demo_hub.clip_targets import DIMENSIONS, SEED, targets, work

VOCABULARY = 6_000
LENGTH = 32
HIDDEN, LAYERS, HEADS = 160, 3, 5
BATCH = 256
SCALE = 20.0
"""Inverse temperature of the in-batch cross entropy."""
PROMPTS = (
    "{}", "{}", "{}", "a photo of a {}", "a photo of {}", "a photo of a {}.", "a drawing of a {}", "an image of a {}",
    "a picture of a {}", "an icon of a {}", "a {}", "the {}", "clip art of a {}", "a close-up photo of a {}",
    "a photo of an {}", "a photo of the {}", "an emoji of a {}", "a cartoon of a {}", "a photo of many {}",
)  # fmt: skip


def train_tokenizer(texts: list[str]) -> CLIPTokenizer:
    """Return a CLIP tokenizer (byte-level BPE, lower case) with `VOCABULARY` entries learned from ``texts``."""
    corpus = texts + [prompt.format("") for prompt in PROMPTS] * 200
    tokenizer = CLIPTokenizer().train_new_from_iterator(corpus, vocab_size=VOCABULARY)
    tokenizer.model_max_length = LENGTH
    tokenizer.save_pretrained(work() / "tokenizer")
    return CLIPTokenizer.from_pretrained(work() / "tokenizer")


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """Return the text tower's configuration for a tokenizer."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=LENGTH,
        projection_dim=DIMENSIONS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def train(seconds: float) -> None:
    """Train for ``seconds`` and write ``text.pt``; every 250 steps the held-out cosine goes to stderr."""
    torch.manual_seed(SEED)
    texts, embedded = targets()
    tokenizer = train_tokenizer(texts)
    model = CLIPTextModelWithProjection(text_config(tokenizer)).train()
    goal = torch.from_numpy(embedded)
    generator = np.random.default_rng(SEED)
    held = generator.choice(len(texts), 600, replace=False)
    rows = np.setdiff1d(np.arange(len(texts)), held)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.02, betas=(0.9, 0.98))
    start, step = time.monotonic(), 0
    while (spent := (time.monotonic() - start) / seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 200) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * spent)))
        picked = generator.choice(rows, BATCH, replace=False)
        prompts = generator.integers(len(PROMPTS), size=BATCH)
        batch = [PROMPTS[p].format(texts[i]) for p, i in zip(prompts, picked, strict=True)]
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        output = nn.functional.normalize(model(**inputs).text_embeds, dim=-1)
        wanted = goal[picked]
        contrast = nn.functional.cross_entropy(SCALE * output @ wanted.T, (SCALE * 1.5 * wanted @ wanted.T).softmax(-1))
        loss = contrast + 5 * (1 - (output * wanted).sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        step += 1
        if step % 250 == 0:
            cosine = held_out_cosine(model, tokenizer, [texts[i] for i in held], goal[held])
            own = float((output * wanted).sum(-1).mean())
            sys.stderr.write(f"step {step} {spent:.2f} train {own:.3f} held {cosine:.3f}\n")
            torch.save(model.state_dict(), work() / "text.pt")
    torch.save(model.state_dict(), work() / "text.pt")


@torch.no_grad()
def held_out_cosine(
    model: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, texts: list[str], goal: torch.Tensor
) -> float:
    """Return the mean cosine between the tower's embeddings of prompted texts and their targets."""
    prompted = [f"a photo of a {text}" for text in texts]
    inputs = tokenizer(prompted, padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
    output = nn.functional.normalize(model.eval()(**inputs).text_embeds, dim=-1)
    model.train()
    return float((output * goal).sum(-1).mean())


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(float(sys.argv[1]) if len(sys.argv) > 1 else 480.0)
