"""Real models' answers to 1,000 real photographs: a logit's question is answered as well as by published scorings.

The shard (benchmarks/photohub/README.md) holds two ImageNet models and thirty fine-tuned ones, responses only.
"""

from pathlib import Path

import numpy as np
import pytest

from search.scan import peers, whitening
from search.scan.scoring import Descriptor, compile_query

SHARD = Path(__file__).parents[2] / "benchmarks" / "photohub" / "shard.npz"
QUERIES = 80


@pytest.fixture(scope="module")
def shard():
    with np.load(SHARD) as found:
        return {name: found[name] for name in found.files}


def scores(vectors, asking, scoring, known, whitened):
    """Return how well every logit answers each of some logits, higher for better, by what the scan compares."""
    out = []
    for row in asking:
        query = Descriptor.from_raw(vectors[row], kind="logit")
        comparison = compile_query(query, scoring, None)
        part = vectors[:, comparison.columns]
        if comparison.positive:
            strong = (np.maximum(part, 0.0) ** 2) @ comparison.weights
            own = strong / known.length - peers.SHARE * known.hubness
            share = whitening.SHARE
            out.append((1 - share) * own + share * whitened.cosines(whitened.of(query.vector[None])[0]))
        else:
            out.append(-((part - comparison.targets) ** 2) @ comparison.weights)
    return np.stack(out)


def top1(shard, asking, found, answers):
    concept, model = shard["concept"], shard["model"]
    hits = []
    for row, own in zip(asking, answers, strict=True):
        allowed = found & (model != model[row])
        best = np.flatnonzero(allowed)[np.argmax(own[allowed])]
        hits.append(concept[best] == concept[row])
    return float(np.mean(hits))


def test_a_logits_question_is_never_answered_worse_than_by_a_baseline(shard):
    vectors, model = shard["vectors"].astype(np.float32), shard["model"]
    known = peers.measure(lambda rows: vectors[rows], model.astype(np.int32))
    whitened = whitening.whiten(lambda rows: vectors[rows], len(vectors))
    real = np.char.startswith(shard["models"], "timm/")[model]
    rng = np.random.default_rng(0)
    for asks, found in ((real, real), (~real, ~real), (~real, real)):
        others = [row for row in rng.permutation(np.flatnonzero(asks)) if _carried(shard, row, found)][:QUERIES]
        ours = top1(shard, others, found, scores(vectors, others, "bridged", known, whitened))
        for baseline in ("probelog", "full"):
            assert ours >= top1(shard, others, found, scores(vectors, others, baseline, known, whitened)), baseline
    assert ours > 0.3


def _carried(shard, row, found):
    others = found & (shard["model"] != shard["model"][row])
    return bool((shard["concept"][others] == shard["concept"][row]).any())
