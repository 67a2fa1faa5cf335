"""The code that ``hubprobe use`` prints, run as printed against a hub on this machine: it answers as the prober did."""

from __future__ import annotations

import ast
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.zoo import classes, compare, modules, odd
from benchmarks.zoo.repositories import pictures
from hubprobe.demo.repository import PullRequest, Repo, RepoFile
from hubprobe.demo.server import HubServer
from hubprobe.usage import Facts, Usage, usage
from workspace import Workspace

RUN = """
import json, sys, torch
torch.set_num_threads(1)
answers = []
for code in json.load(sys.stdin):
    space = {}
    try:
        exec(compile(code, "<printed>", "exec"), space)
        answers.append(space["logits"].tolist())
    except Exception as error:
        answers.append(f"{type(error).__name__}: {error}")
print("\\n" + json.dumps(answers))
"""


def run(codes: list[str], image: bytes, url: str, folder: Path) -> list[Any]:
    """Run each code beside an ``image.jpg``, with the Hub at ``url``; return the logits, or what went wrong."""
    (folder / "image.jpg").write_bytes(image)  # libraries go by the content: a PNG loses nothing
    env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    env |= {"HF_ENDPOINT": url, "HF_HOME": str(folder / "home"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    done = subprocess.run([sys.executable, "-c", RUN], input=json.dumps(codes), cwd=folder, env=env,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answers: list[Any] = json.loads(done.stdout.splitlines()[-1])
    return answers


def raw(workspace: Workspace, repo_id: str, probe: int) -> np.ndarray:
    """Return the prober's outputs for a probe, NaN where none was kept, and the deviation of each over the probes."""
    rows = [r for r in workspace.responses().to_pylist() if r["repo_id"] == repo_id]
    ids = next(r["probe_ids"] for r in rows if r["logit"] == 0)
    place = ids.index(probe)
    found = [[np.nan, 1.0] if r["mean"] is None or r["response"] is None
             else [r["response"][place] * r["std"] + r["mean"], r["std"]] for r in rows]  # fmt: skip
    return np.array(found)


FEW = {
    classes.cases: ("SwinForImageClassification", "Siglip2ForImageClassification", "PPLCNetForImageClassification",
                    "TimmWrapperForImageClassification"),
    modules.cases: ("test_efficientnet",),
    odd.cases: ("old-MobileViTFeatureExtractor", "gray", "an-empty-processor",
                "no-processor-DeiTForImageClassification", "no-processor-ViTForImageClassification-64-x-96",
                "in-processor_config.json", "auto_map-of-a-known-class", "ViTForImageClassification-in-float16",
                "test_vit-flat-of-another-mean", "in-parts"),
}  # fmt: skip


def test_what_is_printed_for_odd_models_answers_as_the_prober_did(tmp_path: Path) -> None:
    cases = [case for kind, names in FEW.items() for case in kind() if case.name in names]
    assert len(cases) == sum(map(len, FEW.values()))
    compare.run(cases, tmp_path, count=3, isolate=False)
    workspace = Workspace.open(tmp_path / "work")
    wrong = answer_otherwise(workspace, tmp_path, [case.name for case in cases])
    assert not wrong, wrong


def answer_otherwise(workspace: Workspace, root: Path, names: list[str]) -> dict[str, Any]:
    """Return the repositories in ``root/repos`` whose printed code does not answer as the prober did, and how."""
    repos = {name: Repo.from_folder(f"zoo/{name}", root / "repos" / name) for name in names}
    tried = {row["repo_id"]: row for row in workspace.attempts().to_pylist()}
    printed = {n: usage(Facts(repo.id, repo.sha, None, None, _listed(repo), tried[n])) for n, repo in repos.items()}
    image = workspace.probes(["image"])["image"][0].as_py()["bytes"]
    with HubServer(list(repos.values())) as hub:
        answers = run([one.code for one in printed.values()], image, hub.url, root)
    wrong: dict[str, Any] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, str):
            wrong[name] = answer
            continue
        kept, spread = raw(workspace, name, 0).T
        error = float(np.nanmax(np.abs(np.array(answer) - kept) / spread))
        if not error <= 2 * compare.TOLERANCE:
            wrong[name] = error
    return wrong


def _listed(repo: Repo) -> dict[str, Any]:
    config = json.loads(repo.text("config.json"))
    timm = "architecture" in config
    return {"model_type": "timm" if timm else config["model_type"],
            "library_name": "transformers" if config.get("model_type") == "timm_wrapper" else None}  # fmt: skip


HOSTILE = "dog\"\"\"'''\n\r\x0b\x0c\u2028import os; os.abort()\n# -*- coding: utf-7 -*-\\\n\u202e{0}\x00\ud800"


def everything_named(code: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Name)}


@pytest.mark.parametrize("listed", [{"model_type": "vit"}, {"model_type": "timm"}], ids=["transformers", "timm"])
@pytest.mark.parametrize("logit", [None, 3])
def test_strangers_names_are_text_and_nothing_else(listed: dict[str, Any], logit: int | None) -> None:
    def printed(name: str) -> Usage:
        weights = {"weights_sha": name, "weights_ref": name, "license": name}
        settings = json.dumps({"mode": name, "size": {name: name}})
        tried = {"processor": name, "processor_source": "default", "processor_settings": settings}
        tried |= {"refused_reason": name, "probes_refused": [1], "processor_assumed": name}
        return usage(Facts(name, name, logit, name, listed | weights, tried), ((name, 0.5),))

    tame, wild = printed("a"), printed(HOSTILE)
    assert everything_named(wild.code) == everything_named(tame.code)
    assert ast.unparse(ast.parse(wild.code)).count("\n") == ast.unparse(ast.parse(tame.code)).count("\n")
    assert len(wild.code.splitlines()) == len(tame.code.splitlines())
    assert not any(line.lstrip().startswith("#") for line in wild.code.splitlines()[:2])  # could declare an encoding
    wild.code.encode()
    assert all(line.isprintable() for line in (*wild.meaning, *wild.quirks, wild.license))


def test_weights_of_a_conversion_are_those_of_its_commit(tmp_path: Path) -> None:
    """On main lie no weights, in the pull request others than those of another config."""
    (case,) = [case for case in odd.cases() if case.name == "new-ViTImageProcessorFast"]
    folder = tmp_path / "repo"
    folder.mkdir()
    case.write(folder)
    files: dict[str, Any] = {path.name: path for path in folder.iterdir()}
    main = {name: path for name, path in files.items() if name != "model.safetensors"}
    config = json.loads((folder / "config.json").read_text())
    older = files | {"config.json": json.dumps(config | {"hidden_act": "relu"}).encode()}
    pull = PullRequest(1, "SFconvertbot", {path: RepoFile.of(path, content) for path, content in older.items()})
    repo = Repo.of("zoo/converted", main, pulls=(pull,))
    listed = {"model_type": "vit", "weights_ref": pull.ref, "weights_sha": next(h.sha for h in repo.heads.values())}
    printed = usage(Facts(repo.id, repo.sha, 2, None, listed, {"processor": "ViTImageProcessor"}))
    image = pictures(1)[0]
    with HubServer([repo]) as hub:
        (answer,) = run([printed.code], image, hub.url, tmp_path)
    wanted = classes.pipeline(folder, [Image.open(io.BytesIO(image)).convert("RGB")])[0]
    np.testing.assert_allclose(answer, wanted, atol=1e-4)
    assert "pr/1" in " ".join(printed.quirks)
