"""Encoders as the Hub's repositories have them, of a few thousand random weights: folders of their files."""

from __future__ import annotations

import json
from pathlib import Path

TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def bytes_of_gpt() -> list[str]:
    """The 256 characters that byte-level BPE writes bytes with."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def clip(path: Path) -> Path:
    """CLIP as OpenAI's repositories have it: byte-level BPE in vocab.json and merges.txt, an old processor's file."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    words = [*bytes_of_gpt(), *(f"{c}</w>" for c in bytes_of_gpt())]
    merges = [("d", "o"), ("do", "g</w>"), ("p", "h"), ("ph", "o")]
    words += [a + b for a, b in merges] + ["<|startoftext|>", "<|endoftext|>"]
    (path / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges))
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    about = {**special, "unk_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    processor = {
        "crop_size": 32, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": 32,
        "feature_extractor_type": "CLIPFeatureExtractor",
        "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
    }  # fmt: skip
    (path / "preprocessor_config.json").write_text(json.dumps(processor))
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**TINY, "vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1},
        vision_config={**TINY, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    CLIPModel(config).save_pretrained(path)
    return path


def siglip_model(path: Path, vocabulary: int, size: int = 32) -> None:
    import torch
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(0)
    text = {**TINY, "vocab_size": vocabulary, "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**TINY, "image_size": size, "patch_size": 8}))
    model.save_pretrained(path)
    SiglipImageProcessor(size={"height": size, "width": size}).save_pretrained(path)


def siglip2(path: Path) -> Path:
    """SigLIP2 of fixed size as Google's repositories have it: a SigLIP with Gemma's tokenizer, which keeps the case."""
    from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    specials = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words = [*specials, *(f"<0x{i:02X}>" for i in range(256)), "▁", *LETTERS, *LETTERS[:26].upper(), *"<>/|."]
    merges = [("d", "o"), ("do", "g"), ("D", "o"), ("Do", "g")]
    words += [a + b for a, b in merges]
    model = BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges, unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.add_special_tokens([AddedToken(one, normalized=False, special=True) for one in specials])
    tokenizer.save(str(path / "tokenizer.json"))
    about = {
        "tokenizer_class": "GemmaTokenizer", "add_bos_token": False, "add_eos_token": True, "padding_side": "right",
        "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>", "model_max_length": 64,
        "model_input_names": ["input_ids"],
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    siglip_model(path, len(words))
    return path


def siglip(path: Path) -> Path:
    """SigLIP as Google's repositories have it: a class that wants sentencepiece, the same rules in tokenizer.json."""
    from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import Unigram

    scored = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0), ("▁dog", -1.0), ("▁cat", -1.0), ("▁s", -1.0)]
    tokenizer = Tokenizer(Unigram([*scored, *((c, -5.0) for c in LETTERS)], unk_id=2, byte_fallback=False))
    punctuation = normalizers.Replace(Regex(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"), "")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), punctuation, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.add_special_tokens(
        [AddedToken(one, normalized=False, special=True) for one in ("<pad>", "</s>", "<unk>")]
    )
    tokenizer.save(str(path / "tokenizer.json"))
    about = {
        "tokenizer_class": "SiglipTokenizer", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
        "model_max_length": 64, "model_input_names": ["input_ids"], "do_lower_case": True,
    }  # fmt: skip
    (path / "tokenizer_config.json").write_text(json.dumps(about))
    siglip_model(path, len(scored) + len(LETTERS))
    return path
