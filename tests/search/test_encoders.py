"""The encoder as transformers loads it: a tiny CLIP and a tiny SigLIP, made here, from a folder and from a hub."""

import json
import shutil
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from search.text.encoders import load_encoder, text_embeddings
from workspace import HubError, QueryError
from workspace.images import read_image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A CLIPModel of a few thousand parameters in Hugging Face layout."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("clip")
    words = ["<s>", "</s>", "<pad>", "<unk>", "a", "of", "photo", "dog", "cat", "drawing", "picture"]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    fast.save_pretrained(path)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={
            **size, "vocab_size": len(words), "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1,
            "pad_token_id": 2,
        },
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    CLIPModel(config).save_pretrained(path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def test_a_clip_folder_is_loaded(made, folder):
    encoder = load_encoder(made.workspace, f"clip:{folder}")
    texts = encoder.encode_texts(["dog", "a photo of a dog", "cat " * 500])
    images = encoder.encode_images([Image.new("RGB", (40, 20), c) for c in ("red", "blue")])
    assert texts.shape == (3, 16)
    assert images.shape == (2, 16)
    np.testing.assert_allclose(np.linalg.norm(np.concatenate([texts, images]), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(encoder.encode_texts(["dog"])[0], texts[0], rtol=1e-4, atol=1e-5)
    assert text_embeddings(encoder, ["dog", "cat"]).shape == (2, 16)
    assert load_encoder(made.workspace, f"clip:{folder}").commit == encoder.commit


def test_half_precision_is_computed_in_full_by_a_processor(made, folder, tmp_path):
    import torch
    from transformers import CLIPModel

    if torch.cuda.is_available():
        pytest.skip("a GPU computes in half precision")
    rounded = CLIPModel.from_pretrained(folder).half()
    rows = []
    for name, model in (("half", rounded), ("full", rounded.float())):
        shutil.copytree(folder, tmp_path / name)
        model.to(torch.float16 if name == "half" else torch.float32).save_pretrained(tmp_path / name)
        rows.append(load_encoder(made.workspace, f"clip:{tmp_path / name}").encode_texts(["dog", "a photo of a cat"]))
    np.testing.assert_array_equal(*rows)


def test_an_index_is_built_with_it(fresh, folder):
    import search

    fresh.index(encoder=f"clip:{folder}")
    assert search.open(fresh.workspace).search("dog").limit(3).to_arrow().num_rows == 3


@pytest.mark.parametrize(
    ("name", "error"),
    [("dog", QueryError), ("blip:x/y", QueryError), ("clip:", QueryError), ("clip:/no/where", HubError)],
)
def test_unknown_encoders(made, name, error):
    with pytest.raises(error):
        load_encoder(made.workspace, name)


def test_a_folder_that_is_no_encoder(made, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    with pytest.raises(HubError, match="cannot be loaded"):
        load_encoder(made.workspace, f"clip:{tmp_path}")


def test_query_images_are_checked(tmp_path):
    with pytest.raises(QueryError, match="cannot be read"):
        read_image(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(QueryError, match="cannot be read"):
        read_image(tmp_path / "text.png")
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 1, 0, 0, 0, 0)  # 400 megapixels, announced in 33 bytes
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(QueryError, match=r"pixels|cannot be read"):
        read_image(tmp_path / "bomb.png")
    Image.new("RGB", (50, 50), "red").save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(QueryError, match="cannot be read"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(QueryError, match="not finite"):
        read_image(Image.fromarray(np.full((4, 4), np.nan, np.float32)))
    assert read_image(Image.new("RGBA", (3, 3), (0, 0, 0, 0))).getpixel((1, 1)) == (255, 255, 255)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """A BertModel of a few thousand parameters, pooled by its mean as sentence-transformers writes it."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "a", "of", "photo", "dog", "cat", "car", "tree"]
    tokenizer = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(path)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), max_position_embeddings=40, **size)).save_pretrained(path)
    return path


def test_a_sentence_encoder_compares_captions(fresh, sentences):
    import search

    encoder = load_encoder(fresh.workspace, f"captions:{sentences}")
    together = encoder.encode_texts(["dog", "a photo of a cat", "dog dog dog tree"])
    np.testing.assert_allclose(encoder.encode_texts(["a photo of a cat"])[0], together[1], atol=1e-5)  # padding is idle
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, rtol=1e-5)
    fresh.index(encoder=encoder)
    index = search.open(fresh.workspace, encoder=encoder)
    captions = fresh.workspace.probes(["caption"]).column("caption").to_pylist()
    np.testing.assert_allclose(index.probe_embeddings, encoder.encode_texts(captions), atol=1e-5)
    assert index.info()["encoder"]["templates"] == ["{}"]
    assert index.search("dog", scoring="bridged").limit(3).to_arrow().num_rows == 3
    with pytest.raises(QueryError, match="cannot see"):
        index.search(Image.new("RGB", (8, 8)))


def test_pooling_by_the_first_token(made, sentences, tmp_path):
    import shutil

    shutil.copytree(sentences, tmp_path / "cls")
    (tmp_path / "cls" / "1_Pooling").mkdir()
    (tmp_path / "cls" / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    mean, first = (load_encoder(made.workspace, f"captions:{p}") for p in (sentences, tmp_path / "cls"))
    assert not np.allclose(mean.encode_texts(["dog tree"]), first.encode_texts(["dog tree"]), atol=1e-3)


def test_an_image_text_model_is_no_sentence_encoder(made, folder):
    with pytest.raises(HubError, match="write clip:"):
        load_encoder(made.workspace, f"captions:{folder}")


def test_a_vision_backbone_sees_example_images(fresh, sentences, tmp_path):
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    import search
    from workspace import Config, SearchConfig

    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **size)).save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "vit")
    name = f"images:{tmp_path / 'vit'}"
    with pytest.raises(QueryError, match="reads no text"):
        load_encoder(fresh.workspace, name).encode_texts(["dog"])
    config = Config(search=SearchConfig(image_encoder=name))
    (fresh.workspace.root / "hubprobe.toml").write_text(config.to_toml())
    workspace = type(fresh.workspace).open(fresh.workspace.root)
    encoder = load_encoder(workspace, f"captions:{sentences}")
    search.index(workspace, encoder=encoder, names=False, progress=False)
    index = search.open(workspace, encoder=encoder)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8))
    assert index.search(picture).limit(4).to_arrow().num_rows == 4
    assert index.search("dog").limit(4).to_arrow().num_rows == 4


@pytest.mark.parametrize(
    "change",
    [
        {"attn_implementation": "evil/kernel"},
        {"_attn_implementation": "evil/kernel"},
        {"experts_implementation": "evil/kernel"},
        {"auto_map": {"AutoModel": "evil.M", "AutoConfig": "evil.C"}},
        {"name_or_path": "/etc", "_name_or_path": "/etc"},
    ],
)
def test_what_an_encoder_config_names_is_not_loaded(made, folder, copied, monkeypatch, change):
    from transformers import modeling_utils

    def loader(*_):
        raise AssertionError("a kernel was asked for")

    monkeypatch.setattr(modeling_utils, "load_and_register_attn_kernel", loader, raising=False)
    path = copied(folder, config=change)
    same = load_encoder(made.workspace, f"clip:{path}").encode_texts(["dog"])
    np.testing.assert_array_equal(same, load_encoder(made.workspace, f"clip:{folder}").encode_texts(["dog"]))


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("clip", {"text_config": {"vocab_size": 10**9}}),
        ("clip", {"vision_config": {"num_hidden_layers": 10**9}}),
        ("clip", {"vision_config": {"hidden_size": 10**12}}),
        ("clip", {"vision_config": {"image_size": 10**6}}),
        ("clip", {"vision_config": {"patch_size": 0}}),
        ("clip", {"projection_dim": [[]]}),
        ("clip", {"projection_dim": 10**9}),
        ("clip", {"quantization_config": {"quant_method": "evil"}}),
        ("images", {"model_type": "timm_wrapper", "architecture": "resnet10t", "model_args": {"checkpoint_path": "x"}}),
        ("images", {"model_type": "../evil"}),
        ("images", {"model_type": ["clip"]}),
    ],
)
def test_an_encoder_that_asks_for_the_absurd_is_refused_by_a_sentence(made, folder, copied, kind, change):
    with pytest.raises(HubError, match=r"^the encoder .* cannot be loaded: "):
        load_encoder(made.workspace, f"{kind}:{copied(folder, config=change)}")


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 20_000}},
        {"crop_size": {"height": 10**6, "width": 10**6}},
        {"resample": 99},
        {"image_mean": [0.5, 0.5]},
        {"image_std": [float("nan")] * 3},
        {"image_processor_type": "AutoModel"},
        {"image_processor_type": "pipeline"},
        {"image_processor_type": 7},
    ],
)
def test_an_encoder_whose_processor_is_odd_is_refused_by_a_sentence(made, folder, copied, change):
    picture = Image.new("RGB", (40, 20), "red")
    with pytest.raises(HubError, match=r"^the encoder "):
        load_encoder(made.workspace, f"clip:{copied(folder, preprocessor_config=change)}").encode_images([picture])


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "evil.bin", "none.safetensors"])
def test_an_encoder_index_names_its_own_files_only(made, folder, copied, name):
    path = copied(folder)
    (path / "model.safetensors").rename(path / "other.safetensors")
    (path / "evil.bin").write_bytes(b"x")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"logit_scale": name}}))
    with pytest.raises(HubError, match=r"names no file could have|not all that its index names"):
        load_encoder(made.workspace, f"clip:{path}")


@pytest.fixture
def copied(tmp_path):
    """Copy an encoder's folder with other settings in its JSON files."""

    def copy(folder, **changes):
        path = tmp_path / "copy"
        shutil.copytree(folder, path)
        for name, change in changes.items():
            file = path / f"{name}.json"
            content = json.loads(file.read_text())
            for key, value in change.items():
                inner = content.get(key)
                content[key] = inner | value if isinstance(inner, dict) and isinstance(value, dict) else value
            file.write_text(json.dumps(content))
        return path

    return copy


@pytest.mark.parametrize(("sha", "size"), [("../../evil", 1), ("", 1), ("a" * 40, 10**12)])
def test_an_encoder_that_no_hub_would_give_is_not_fetched(fresh, monkeypatch, sha, size):
    import huggingface_hub
    from huggingface_hub.hf_api import RepoSibling

    info = SimpleNamespace(sha=sha, siblings=[RepoSibling("model.safetensors", size=size), RepoSibling("config.json")])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("was fetched"))
    with pytest.raises(HubError, match="choose another"):
        load_encoder(fresh.workspace, "clip:acme/evil")
