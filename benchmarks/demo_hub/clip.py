"""Put the demo's CLIP model together and measure it.

``python -m benchmarks.demo_hub.clip`` joins the trained towers into one folder in Hugging Face layout,
``hubprobe/demo/hub/models/hubprobe/demo-clip``, and prints text-to-image retrieval on the probe set.
The steps before it: ``clip_targets``, ``clip_text``, ``clip_pool``, ``clip_teacher``, ``clip_image``.
"""

import io
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from benchmarks.demo_hub.clip_image import MEAN, SCALE, SIZE, STD, vision_config
from benchmarks.demo_hub.clip_targets import DIMENSIONS, work
from benchmarks.demo_hub.clip_text import text_config
from benchmarks.demo_hub.probe_sources import concepts
from benchmarks.demo_hub.probes import OUTPUT as PROBES

OUTPUT = Path(__file__).resolve().parents[2] / "hubprobe" / "demo" / "hub" / "models" / "hubprobe" / "demo-clip"
CARD = Path(__file__).with_name("clip_card.md")
PROMPT = "a photo of a {}"


def assemble() -> None:
    """Write the model (float16), its image processor, tokenizer and card to `OUTPUT`."""
    tokenizer = CLIPTokenizer.from_pretrained(work() / "tokenizer")
    config = CLIPConfig(
        text_config=text_config(tokenizer).to_dict(),
        vision_config=vision_config().to_dict(),
        projection_dim=DIMENSIONS,
        logit_scale_init_value=math.log(SCALE),
    )
    model = CLIPModel(config)
    state = torch.load(work() / "text.pt", weights_only=True)
    state |= torch.load(work() / "image.pt", weights_only=True)["model"]
    missing, unexpected = model.load_state_dict(state, strict=False)
    if unexpected or set(missing) != {"logit_scale"}:
        message = f"the towers do not fit: missing {missing}, unexpected {unexpected}"
        raise ValueError(message)
    OUTPUT.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(OUTPUT)
    (OUTPUT / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(OUTPUT)
    CLIPImageProcessor(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        resample=Image.Resampling.BICUBIC,
        image_mean=list(MEAN),
        image_std=list(STD),
    ).save_pretrained(OUTPUT)
    (OUTPUT / "README.md").write_text(CARD.read_text("utf-8"), "utf-8")


@torch.no_grad()
def embeddings(images: Sequence[Image.Image], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit-length image and text embeddings from the assembled folder, float32 (n, `DIMENSIONS`) each."""
    model = CLIPModel.from_pretrained(OUTPUT, dtype=torch.float32).eval()
    processor = CLIPProcessor.from_pretrained(OUTPUT)
    seen, read = [], []
    for start in range(0, len(images), 128):
        inputs = processor(images=list(images[start : start + 128]), return_tensors="pt")
        seen.append(model.visual_projection(model.vision_model(**inputs).pooler_output))
    for start in range(0, len(texts), 128):
        inputs = processor(text=list(texts[start : start + 128]), padding=True, return_tensors="pt")
        read.append(model.text_projection(model.text_model(**inputs).pooler_output))
    return nn.functional.normalize(torch.cat(seen), dim=-1), nn.functional.normalize(torch.cat(read), dim=-1)


def retrieval(scores: torch.Tensor, queries: Sequence[str], captions: Sequence[str]) -> tuple[float, float, float, int]:
    """Return top-1, top-5 and AUC of ``scores`` (queries, probes), and how many queries have a probe at all.

    A hit: a probe among the first whose caption is the query. AUC: how often a right probe outranks a wrong
    one, averaged over the queries; it tells how good the whole text descriptor is, not only its top.
    """
    right = torch.tensor([[caption == query for caption in captions] for query in queries])
    known = right.any(1)
    ranked = scores[known].topk(5, dim=1).indices
    hit = right[known].gather(1, ranked)
    place = scores[known].argsort(1).argsort(1).double()
    count = right[known].sum(1)
    auc = ((place * right[known]).sum(1) - count * (count - 1) / 2) / (count * (len(captions) - count))
    return float(hit[:, 0].float().mean()), float(hit.any(1).float().mean()), float(auc.mean()), int(known.sum())


def report() -> str:
    """Return the retrieval figures on the probe set, one line each."""
    rows = pq.read_table(PROBES).to_pylist()
    images = [Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows]
    captions = [row["caption"] for row in rows]
    names = [str(concept["name"]) for concept in concepts()]
    everything = sorted(set(captions))
    seen, read = embeddings(images, [PROMPT.format(text) for text in [*names, *everything]])
    scores = read @ seen.T
    lines = []
    for title, queries, part in (
        ("concepts", names, scores[: len(names)]),
        ("all captions", everything, scores[len(names) :]),
    ):
        for source in ("", "iconify", "openclipart"):
            kept = [i for i, row in enumerate(rows) if row["source"].startswith(source)]
            top1, top5, auc, known = retrieval(part[:, kept], queries, [captions[i] for i in kept])
            where = f"among {len(kept)} {source or 'all'} probes"
            lines.append(f"{title} ({known}) {where}: top-1 {top1:.3f} top-5 {top5:.3f} AUC {auc:.3f}")
    size = sum(path.stat().st_size for path in OUTPUT.iterdir()) / 1e6
    return "\n".join([*lines, f"folder: {size:.2f} MB"])


if __name__ == "__main__":
    torch.set_num_threads(1)
    assemble()
    sys.stdout.write(report() + "\n")
