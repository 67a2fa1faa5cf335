"""The real ImageNet classifier, assembled from its package and loaded as anybody would."""

import json

import pytest

from hubprobe.demo import lite0
from hubprobe.demo.listing import record
from hubprobe.demo.repository import Repo


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        root = lite0.cached()
        assert lite0.cached() == root
    assert [p.name for p in root.parent.iterdir()] == [root.name]
    return root / "models" / lite0.REPO_ID


@pytest.mark.slow
def test_transformers_loads_it_and_the_logits_are_the_packages(folder):
    timm = pytest.importorskip("timm")
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
    assert type(model).__name__ == "TimmWrapperForImageClassification"
    assert model.config.num_labels == 1000
    original = timm.create_model("tf_efficientnet_lite0").eval()
    given = torch.load(lite0.package_file(), weights_only=True)
    original.load_state_dict(dict(zip(original.state_dict(), given.values(), strict=True)))
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        apart = (model(images).logits - original(images)).abs().max()
    assert apart < 0.05  # fp16 storage


@pytest.mark.slow
def test_the_hub_lists_it_as_timm(folder):
    row = record(Repo.from_folder(lite0.REPO_ID, folder, lite0.FACTS))
    assert (row["library_name"], row["pipeline_tag"]) == ("timm", "image-classification")
    assert 4_600_000 < row["safetensors"]["total"] < 4_800_000
    assert "license:apache-2.0" in row["tags"]
    assert json.loads((folder / "config.json").read_text())["pretrained_cfg"]["crop_pct"] == 0.875
