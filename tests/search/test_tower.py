"""The text tower without torch: the same rows as transformers', and left alone where it is not known to be right."""

import json
import shutil

import numpy as np
import pytest

import search
from search.text.encoders import load_encoder, load_tower
from search.text.tower import Tower

TEXTS = [
    "dog",
    "A DOG's photo, 2 dogs!",
    "cat " * 200,
    "  two\n\twords ",
    "!?.",
    "Größe naïve 北京 🐕",
    "<|endoftext|> </s> <eos>",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, clip, siglip2, siglip):
    """CLIP as its repositories have it today: tokenizer.json beside, and a config of a model of half precision."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    saved = tmp_path_factory.mktemp("tower") / "clip"
    shutil.copytree(clip, saved)
    AutoTokenizer.from_pretrained(clip).save_pretrained(saved)
    found = {"clip": saved, "siglip2": siglip2, "siglip": siglip}
    for name, folder, dtype in (("shards", siglip2, torch.float32), ("half", saved, torch.bfloat16)):
        found[name] = saved.parent / name
        shutil.copytree(folder, found[name], ignore=shutil.ignore_patterns("*.safetensors"))
        AutoModel.from_pretrained(folder).to(dtype).save_pretrained(found[name], max_shard_size="100KB")
    assert len(list(found["shards"].glob("*.safetensors"))) > 1
    return found


@pytest.mark.parametrize("which", ["clip", "siglip2", "siglip", "shards", "half"])
def test_a_tower_reads_texts_as_transformers_does(made, folders, which, monkeypatch):
    monkeypatch.setattr("search.text.tower.find_spec", lambda _: None)
    name = f"clip:{folders[which]}"
    encoder = load_encoder(made.workspace, name)
    tower = load_tower(made.workspace, name, encoder.commit)
    assert tower is not None
    wanted = encoder.encode_texts(TEXTS)
    if which == "half":  # transformers computes it in bfloat16, of 8 bits
        assert 0.001 < np.linalg.norm(tower.encode_texts(TEXTS) - wanted, axis=1).max() < 0.03
    else:
        np.testing.assert_allclose(tower.encode_texts(TEXTS), wanted, atol=2e-6)
    assert tower.agrees(dict(zip(TEXTS, wanted, strict=True)), lambda one, texts: one.encode_texts(texts))
    for text in TEXTS:
        assert tower.kept(text) == encoder.kept(text)


def test_what_a_tower_does_not_know_is_left_to_transformers(made, folders, clip, tmp_path):
    assert load_tower(made.workspace, f"clip:{clip}", "") is None  # vocab.json and merges.txt
    other = tmp_path / "other"
    shutil.copytree(folders["clip"], other)
    config = json.loads((other / "config.json").read_text())
    for change in ({"model_type": "altclip"}, {"text_config": {**config["text_config"], "hidden_act": "gelu"}}):
        (other / "config.json").write_text(json.dumps(config | change))
        assert load_tower(made.workspace, f"clip:{other}", "") is None


@pytest.mark.parametrize(
    ("which", "file", "change", "why"),
    [
        ("clip", "tokenizer_config.json", {"padding_side": "left"}, "padded at the left"),
        ("siglip", None, {}, "read by sentencepiece"),
        ("clip", None, {"most": 8}, "it reads 77 tokens"),
    ],
)
def test_a_tower_that_would_read_otherwise_is_none(folders, tmp_path, monkeypatch, which, file, change, why):
    folder = shutil.copytree(folders[which], tmp_path / "copy")
    if file:
        about = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(about | change))
    if "most" in change:
        monkeypatch.setattr("search.text.tower.MOST_TOKENS", change["most"])
    monkeypatch.setattr("search.text.tower.find_spec", lambda _: object())
    with pytest.raises(ValueError, match=why):
        Tower(folder, "x", "y")
    assert Tower.of(folder, "x", "y") is None


def test_a_tower_agrees_with_something_or_not_at_all(folders):
    tower = Tower.of(folders["clip"], "x", "y")
    known = dict(zip(TEXTS, tower.encode_texts(TEXTS), strict=True))
    assert tower.agrees(known, lambda one, texts: one.encode_texts(texts))
    assert not tower.agrees({}, lambda one, texts: one.encode_texts(texts))
    assert not tower.agrees(known, lambda one, texts: one.encode_texts(texts)[::-1])


def test_a_new_text_needs_no_torch_and_a_tower_that_is_wrong_is_not_believed(fresh, folders, monkeypatch):
    fresh.index(encoder=f"clip:{folders['clip']}")
    expected = load_encoder(fresh.workspace, f"clip:{folders['clip']}").encode_texts(["a dog nobody asked for"])

    def loaded(*_: object, **__: object) -> None:
        raise AssertionError

    index = search.open(fresh.workspace, keep_texts=False)
    with monkeypatch.context() as changed:
        changed.setattr("search.texts.load_encoder", loaded)
        first = index.search("a dog nobody asked for").to_dicts()
    assert len(first) == 10
    wrong = Tower._norm
    monkeypatch.setattr(Tower, "_norm", lambda self, x, name: wrong(self, x, name)[..., ::-1])
    other = search.open(fresh.workspace, keep_texts=False)
    again = other.search("a dog nobody asked for").to_dicts()
    assert [hit["logit"] for hit in again] == [hit["logit"] for hit in first]
    assert not isinstance(other.texts._tower, Tower)
    np.testing.assert_allclose(other.encoder.encode_texts(["a dog nobody asked for"]), expected, atol=1e-6)
