"""Texts and images as the encoders of the Hub were trained on them, against transformers' own classes."""

import numpy as np
import pytest
from PIL import Image

from search.text.encoders import TEMPLATES, load_encoder, read_of
from tests.hubs import encoders
from workspace import HubError


def by_hand(path, texts, images, **reading):
    """What transformers' own classes make of lists of texts and images, and nothing of ours."""
    import torch
    from transformers import AutoImageProcessor, AutoModel, PreTrainedTokenizerFast

    model = AutoModel.from_pretrained(path).eval()
    pixels = AutoImageProcessor.from_pretrained(path)(images=images, return_tensors="pt")
    reading.setdefault("tokenizer", PreTrainedTokenizerFast)
    words = reading.pop("tokenizer").from_pretrained(path)(texts, return_tensors="pt", **reading)
    with torch.no_grad():
        rows = [model.get_text_features(**words).pooler_output, model.get_image_features(**pixels).pooler_output]
    return [torch.nn.functional.normalize(part, dim=1).numpy() for part in rows]


PICTURES = [Image.fromarray(np.random.default_rng(i).integers(0, 255, (20 + i, 50 - i, 3), np.uint8)) for i in range(3)]


def test_siglip2_is_read_as_it_was_trained(made, siglip2):
    encoder = load_encoder(made.workspace, f"clip:{siglip2}")
    full = {"padding": "max_length", "max_length": 64}
    texts, images = by_hand(siglip2, ["a dog", "dog dog"], PICTURES, **full)
    np.testing.assert_allclose(encoder.encode_texts(["A DOG", "dog Dog"]), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(PICTURES), images, atol=1e-5)
    upper, _ = by_hand(siglip2, ["A DOG"], PICTURES, **full)
    assert not np.allclose(upper[0], texts[0], atol=1e-3)  # left to itself, its tokenizer keeps the case


def test_siglip_is_read_as_it_was_trained_where_sentencepiece_is_missing(made, siglip):
    encoder = load_encoder(made.workspace, f"clip:{siglip}")
    texts, images = by_hand(siglip, ["a dog", "dogs cat"], PICTURES, padding="max_length", max_length=64)
    np.testing.assert_allclose(encoder.encode_texts(["A dog!", "dog's, cat"]), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(PICTURES), images, atol=1e-5)


def test_clip_is_read_as_transformers_reads_it(made, clip):
    from transformers import CLIPTokenizer

    encoder = load_encoder(made.workspace, f"clip:{clip}")
    texts, images = by_hand(clip, ["a Dog", "photo dog cat"], PICTURES, tokenizer=CLIPTokenizer, padding=True)
    np.testing.assert_allclose(encoder.encode_texts(["a Dog", "photo dog cat"]), texts, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(PICTURES), images, atol=1e-5)


def test_naflex_gets_all_of_what_its_processor_makes(made, siglip2, tmp_path):
    import shutil

    import torch
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(siglip2 / name, tmp_path / name)
    torch.manual_seed(0)
    vision = {**encoders.TINY, "patch_size": 8, "num_patches": 16}
    text = {**encoders.TINY, "vocab_size": 400, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    Siglip2Model(Siglip2Config(text_config=text, vision_config=vision)).save_pretrained(tmp_path)
    Siglip2ImageProcessor(patch_size=8, max_num_patches=16).save_pretrained(tmp_path)
    encoder = load_encoder(made.workspace, f"clip:{tmp_path}")
    texts, images = by_hand(tmp_path, ["a dog"], PICTURES, padding="max_length", max_length=64)
    np.testing.assert_allclose(encoder.encode_images(PICTURES), images, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(["a dog"]), texts, atol=1e-5)


@pytest.mark.parametrize(
    ("which", "special", "written"),
    [
        ("clip", ["<|endoftext|>", "<|startoftext|>"], "< | e n d o f t e x t | >"),
        ("siglip2", ["<eos>", "<pad>", "<bos>", "<unk>"], "< e o s >"),
        ("siglip", ["</s>", "<pad>", "<unk>"], "s"),
    ],
)
def test_special_tokens_are_plain_text(made, request, which, special, written):
    from search.text.tokens import Reader, tokenizer_of

    path = request.getfixturevalue(which)
    reader = Reader.of(tokenizer_of(path, "it"), path, which, 77)
    ids = set(reader.tokenizer.convert_tokens_to_ids(special))
    plain = reader.batch(["dog"])["input_ids"][0].tolist()
    for token in special:
        asked = reader.batch([f"dog {token} dog"])["input_ids"][0].tolist()
        own = [i for i in asked if i in ids]
        assert own == [i for i in plain if i in ids][: len(own)]  # what the tokenizer puts around any text
        assert len(own) <= len([i for i in plain if i in ids])
    first = reader.tokenizer.convert_ids_to_tokens(reader.batch([f"dog {special[0]}"])["input_ids"][0].tolist())
    letters = "".join(first).replace("</w>", "").replace("▁", "")
    assert written.replace(" ", "") in letters.removeprefix("<|startoftext|>").removeprefix("dog")
    encoder = load_encoder(made.workspace, f"clip:{path}")
    alone, asked = encoder.encode_texts(["dog", f"dog {special[0]} cat"])
    assert not np.allclose(alone, asked, atol=1e-4)  # the text does not end at a token that it only spells


@pytest.mark.parametrize("which", ["clip", "siglip2", "siglip"])
def test_what_is_read_of_a_long_text(made, request, which):
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    path = request.getfixturevalue(which)
    encoder = load_encoder(made.workspace, f"clip:{path}")
    assert encoder.kept("Dog, cat") == "Dog, cat"
    long = "dog " * 100  # cut between words: a word that is cut is read as another
    kept = encoder.kept(long.strip())
    assert long.startswith(kept)
    assert 10 < len(kept) < len(long)
    np.testing.assert_allclose(*encoder.encode_texts([long, kept]), atol=1e-5)  # nothing that was read is missing
    assert not np.allclose(*encoder.encode_texts([long, kept[: kept.rindex(" ")]]), atol=1e-6)  # nor anything more
    read = read_of(encoder, long.strip())
    reader = CLIPTokenizer if which == "clip" else PreTrainedTokenizerFast
    tokenizer, context = reader.from_pretrained(path), 77 if which == "clip" else 64

    def fits(text: str) -> bool:
        return all(len(tokenizer(template.format(text))["input_ids"]) <= context for template in TEMPLATES)

    assert fits(read)
    assert not fits(f"{read} dog")  # the longest prompt leaves least room
    assert read_of(encoder, "Dog, cat") == "Dog, cat"


def test_a_text_that_is_cut_is_said_to_be(fresh, siglip2):
    import search

    fresh.index(encoder=f"clip:{siglip2}")
    index = search.open(fresh.workspace)
    assert index.search("dog").notes == ()
    query = index.search("dog and cat " * 20)
    (note,) = query.notes
    assert query.descriptor.read is not None
    assert query.descriptor.read in ("dog and cat " * 20)
    assert "longer than the encoder reads" in note
    assert f"of {len(query.descriptor.about)} characters" in note
    assert index.search(all_of=["dog", "cat " * 100], none_of=["tree " * 100]).notes[1:] != ()


def test_an_encoder_without_all_its_weights_is_refused(made, clip, tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    shutil.copytree(clip, tmp_path / "cut")
    file = tmp_path / "cut" / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_projection.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(HubError, match=r"lacks weights, text_projection\.weight"):
        load_encoder(made.workspace, f"clip:{tmp_path / 'cut'}")


def test_a_backbone_whose_pooler_was_never_trained_is_averaged(made, tmp_path):
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    torch.manual_seed(0)
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, **encoders.TINY), add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    with torch.no_grad():
        mean = model(**processor(PICTURES, return_tensors="pt")).last_hidden_state.mean(dim=1)
    found = load_encoder(made.workspace, f"images:{tmp_path}").encode_images(PICTURES)
    np.testing.assert_allclose(found, torch.nn.functional.normalize(mean, dim=1).numpy(), atol=1e-5)
