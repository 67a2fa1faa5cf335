"""Crawler and prober decide a config alike, and as the libraries themselves would: odd ones, and 63 from the real Hub.

The real ones lie beside a checkout of the project, in ``shared/real_configs``; without them their tests have no cases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.decide.rules import CONFIG_RULES, Facts, first_refusal
from crawler.listing.rows import Listed
from probing.model.loading import Caps, load
from workspace import CrawlConfig, ModelError, Status
from workspace.architectures import Architectures
from workspace.model_config import is_timm, parse_config

LIMITS = CrawlConfig()
CAPS = Caps(LIMITS.max_parameters, LIMITS.max_labels, LIMITS.max_image_size)
REAL = sorted((Path(__file__).parents[3] / "shared" / "real_configs").glob("*/config.json"))
REAL += sorted((Path(__file__).parents[2] / "shared" / "real_configs").glob("*/config.json"))


def crawlers(raw: bytes) -> Status | None:
    """What the crawler decides from a config alone."""
    try:
        config = parse_config(raw, LIMITS.max_labels)
    except ModelError as error:
        return error.status
    verdict = first_refusal(CONFIG_RULES, Facts(Listed("a/b", "0" * 40), LIMITS, Architectures.here(), config))
    return verdict.status if verdict else None


def probers(folder: Path, raw: bytes) -> Status | None:
    """What the prober decides of the same config, in a folder without weights; None when it looked for them."""
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(ModelError) as caught:
        load(folder, CAPS)
    return None if caught.value.status is Status.NO_WEIGHTS else caught.value.status


numbers = st.integers(-3, 12) | st.sampled_from([0, 1, 2, 3, 1000, 10**7, 2**40, 1.5, float("inf"), float("nan"), True])
words = st.sampled_from(["", "cat", "LABEL_0", "class_0", "0", "a/b", "\ud800", "é" * 300, "n01440764"])
scalars = st.none() | numbers | words
keys = st.integers(-1, 4).map(str) | st.sampled_from(["01", " 1", "x", "n01440764"])
labels = st.dictionaries(keys, scalars, max_size=4) | st.lists(scalars, max_size=4) | scalars
nested = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
timm_settings = st.fixed_dictionaries(
    {},
    optional={
        "num_classes": scalars, "label_names": labels, "input_size": st.just([3, 64, 64]) | nested, "mean": nested,
        "tag": scalars, "fixed_input_size": st.booleans() | scalars, "classifier": nested, "labels": labels,
    },
)  # fmt: skip
arguments = st.dictionaries(
    st.sampled_from(["img_size", "depth", "depths", "in_chans", "checkpoint_path", "pretrained", "foo", "act_layer"]),
    nested,
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "model_type": st.sampled_from(["vit", "clip", "bert", "timm_wrapper", "nonesuch", None, 3]),
        "architectures": st.sampled_from(
            [["ViTForImageClassification"], ["CLIPModel"], ["CLIPForImageClassification"], [], None, "ViTModel", [3]]
        ),
        "architecture": st.sampled_from(["resnet18", "test_vit.x", "nonesuch", "hf-hub:a/b", 3, None]),
        "id2label": labels, "num_labels": scalars, "_num_labels": scalars, "num_classes": scalars,
        "label_names": labels, "label_descriptions": labels, "problem_type": scalars | st.just("regression"),
        "auto_map": st.dictionaries(st.sampled_from(["AutoModel", "AutoConfig", "AutoTokenizer"]), scalars) | scalars,
        "quantization_config": st.just({}) | st.just({"bits": 4}) | scalars, "image_size": nested,
        "pretrained_cfg": timm_settings | scalars, "model_args": arguments | scalars, "vision_config": nested,
        "num_hidden_layers": nested, "hidden_size": nested, "text_config": nested,
    },
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(config=configs)
def test_crawler_and_prober_agree(config: dict[str, Any], tmp_path: Path) -> None:
    raw = json.dumps(config).encode()
    assert crawlers(raw) is probers(tmp_path, raw)


def test_the_crawler_knows_what_the_prober_knows(tmp_path: Path) -> None:
    assert Architectures.load(tmp_path) == Architectures.here()


# ── the real Hub ────────────────────────────────────────────────────────────────────────────────────────────────────
def _loadable(raw: dict[str, Any], path: Path) -> tuple[int, dict[int, str] | None] | None:
    """Return the number of outputs and the labels that the library itself makes of a config; None: no classifier."""
    if is_timm(raw):
        import timm
        from timm.models import _hub

        settings, name, _ = _hub._parse_model_cfg(json.loads(json.dumps(raw)), {})
        count = settings.get("num_classes", 1000)
        names = settings.get("label_names")
        return (count, dict(enumerate(names)) if names else None) if timm.is_model(name) and count else None
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING as MAPPING

    auto: Any = AutoConfig
    try:
        config = auto.from_pretrained(path.parent, trust_remote_code=False)
        classes: Any = MAPPING[type(config)]
    except (KeyError, ValueError):
        return None
    names = {c.__name__ for c in (classes if isinstance(classes, (tuple, list)) else [classes])}
    if not names & set(raw.get("architectures") or names):
        return None
    return config.num_labels, config.id2label if raw.get("id2label") else None


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_real_configs_are_decided_as_the_libraries_load_them(path: Path, tmp_path: Path) -> None:
    raw = path.read_bytes()
    status = crawlers(raw)
    assert probers(tmp_path, raw) is status
    content = json.loads(raw)
    loadable = _loadable(content, path)
    if loadable is None or content.get("auto_map"):
        assert status in (
            Status.NOT_A_CLASSIFIER, Status.UNKNOWN_ARCHITECTURE, Status.ZERO_SHOT, Status.CUSTOM_CODE,
        )  # fmt: skip
        return
    count, labels = loadable
    config = parse_config(raw, LIMITS.max_labels)
    assert config.num_labels == count
    assert (dict(enumerate(config.labels)) if labels and config.labels else None) == labels
    assert status is (Status.REGRESSION if count == 1 else None)


@pytest.mark.slow
@pytest.mark.parametrize("path", REAL, ids=lambda path: path.parent.name)
def test_real_configs_load_as_the_libraries_load_them(path: Path, tmp_path: Path) -> None:
    config = json.loads(path.read_bytes())
    if crawlers(path.read_bytes()) is not None:
        return
    torch.manual_seed(0)
    if is_timm(config):
        import timm
        from safetensors.torch import save_file

        if config["architecture"].startswith("vit"):
            config["model_args"] = config.get("model_args", {}) | {"embed_dim": 48, "depth": 1, "num_heads": 3}
        (tmp_path / "config.json").write_text(json.dumps(config))
        made = timm.create_model(f"local-dir:{tmp_path}", pretrained=False)
        save_file({k: v.contiguous() for k, v in made.state_dict().items()}, tmp_path / "model.safetensors")
        theirs: Any = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        size = config["pretrained_cfg"]["input_size"]
    else:
        from transformers import AutoConfig, AutoModelForImageClassification

        auto: Any = AutoModelForImageClassification
        (tmp_path / "config.json").write_text(json.dumps(_tiny(config)))
        auto.from_config(AutoConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path / "weights")
        (tmp_path / "weights" / "model.safetensors").rename(tmp_path / "model.safetensors")
        model = auto.from_pretrained(tmp_path, dtype=torch.float32).eval()
        edge = config.get("image_size", 224)
        size = [config.get("num_channels", 3), edge, edge]

        def theirs(x: Any) -> Any:
            return model(x).logits

    loaded = load(tmp_path, CAPS)
    x = torch.rand(1, *size)
    with torch.inference_mode():
        outputs, wanted = loaded.forward(x), theirs(x)
    assert outputs.shape == (1, loaded.num_labels)
    torch.testing.assert_close(outputs, wanted, rtol=0, atol=0)


def _tiny(config: dict[str, Any]) -> dict[str, Any]:
    """Return the same architecture with few layers and narrow ones."""
    small = dict(config)
    if "embed_dim" in small:  # Swin: hidden_size follows from it
        small.pop("hidden_size", None)
        small["embed_dim"] = 2 * small["num_heads"][0]
    if "num_attention_heads" in small and "hidden_size" in small:
        small |= {"hidden_size": 2 * small["num_attention_heads"], "intermediate_size": 8}
        small.pop("pooler_output_size", None)
    if "depths" in small:
        small["depths"] = [1] * len(small["depths"])
    if "num_hidden_layers" in small:
        small |= {"num_hidden_layers": 1, "out_features": None, "out_indices": None, "stage_names": None}
    if "hidden_sizes" in small:
        small["hidden_sizes"] = [8 << i for i in range(len(small["hidden_sizes"]))]
    return small
