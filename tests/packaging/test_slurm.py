"""The SLURM script: it parses, its options exist, and on a cluster of two pretended hosts it probes everything."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.built import ROOT
from tests.packaging.shown import command_lines, unknown
from workspace import Config, Workspace
from workspace.files import read_json

SCRIPT = ROOT / "examples" / "slurm.sh"
TEXT = SCRIPT.read_text(encoding="utf-8")

SRUN = """#!/bin/bash
echo "srun $*" >> "$LOG"
while [[ $1 == --* ]]; do shift; done
hosts=()
for node in $(seq 0 $((SLURM_JOB_NUM_NODES - 1))); do SLURM_NODEID=$node "$@" & hosts+=("$!"); done
for _ in "${hosts[@]}"; do wait -n || { kill "${hosts[@]}"; exit 1; }; done  # as --kill-on-bad-exit does
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$LOG"
[ "$1" = show ] || exit 0
echo 127.0.0.1
seq -f 127.0.0.%.0f 2 30000  # more than a pipe holds: a reader that stops at the first line would end the script
"""
SHIM = """#!/bin/bash
echo "hubprobe $*" >> "$LOG"
"""


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """The environment of a job on two hosts, with a SLURM that runs both of them here."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "hubprobe": SHIM}.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "here[1-2]"}
    ours = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "HF_", "HUBPROBE_"))}
    return {**ours, **job, "PATH": path, "LOG": str(tmp_path / "log"), "PYTHONPATH": str(ROOT)}


def test_it_is_a_script_that_parses() -> None:
    assert os.access(SCRIPT, os.X_OK)
    done = subprocess.run(["bash", "-n", str(SCRIPT)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "#SBATCH --array" not in TEXT


def test_every_verb_and_option_of_hubprobe_in_it_exists() -> None:
    lines = command_lines(TEXT.replace("#   hubprobe", "hubprobe"))  # the comment says what to run before
    assert {line[0] for line in lines} == {"crawl", "probes", "probe", "complete", "index", "status", "doctor"}
    assert not [wrong for line in lines for wrong in unknown(line)]


def test_every_option_of_accelerate_in_it_exists() -> None:
    from accelerate.commands.launch import launch_command_parser

    known = {option for action in launch_command_parser()._actions for option in action.option_strings}
    (line,) = re.findall(r"accelerate launch (.*?) -m hubprobe", TEXT.replace("\\\n", " "), re.DOTALL)
    used = re.findall(r"--[\w-]+", line)
    assert len(used) == 8
    assert set(used) <= known


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hosts_probe_every_model(cluster: dict[str, str], tmp_path: Path, names: Path) -> None:
    import crawler
    from hubprobe.demo.server import serve_demo
    from probing import probes

    with serve_demo(with_unhealthy=False, with_lite0=False) as hub:
        workspace = Workspace.create(tmp_path / "index", Config(endpoint=hub.url))
        probes.build(workspace, str(ROOT / "hubprobe" / "demo" / "probes.parquet"), n=24, seed=0, progress=False)
        shutil.copytree(names, workspace.cache_dir, dirs_exist_ok=True)
        crawler.crawl(workspace, limit=2, token=False, progress=False)
        job = subprocess.Popen(
            ["bash", str(SCRIPT), str(workspace.root)],
            env=cluster, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        try:
            _, said = job.communicate(timeout=900)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(job.pid, signal.SIGKILL)
    assert job.returncode == 0, said[-4000:]
    assert workspace.attempts(["status"]).column("status").to_pylist() == ["ok"] * 2
    (manifest,) = workspace.runs_dir.glob("*-probe-*.json")
    assert read_json(manifest)["processes"] == 2  # joined; which of them takes a model is a matter of moments
    log = Path(cluster["LOG"]).read_text(encoding="utf-8").splitlines()
    verbs = [line.split()[1] for line in log if line.startswith("hubprobe")]
    assert verbs == ["doctor", "complete", "index", "status"]
    assert len([line for line in log if line.startswith("srun")]) == 1


def stub_launcher(cluster: dict[str, str], text: str) -> None:
    path = Path(cluster["PATH"].split(":")[0]) / "accelerate"
    path.write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
    path.chmod(0o755)


def test_a_launch_that_dies_is_started_again_and_three_are_enough(cluster: dict[str, str], tmp_path: Path) -> None:
    stub_launcher(cluster, 'echo x >> "$LOG.launches"; [ "$(wc -l < "$LOG.launches")" -gt 2 ]')
    done = subprocess.run(["bash", str(SCRIPT), "w"], env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "launch 1 ended with an error" in done.stderr
    assert "hubprobe index --workspace w --quiet" in Path(cluster["LOG"]).read_text("utf-8")
    stub_launcher(cluster, "exit 1")
    Path(cluster["LOG"]).unlink()
    done = subprocess.run(["bash", str(SCRIPT), "w"], env=cluster, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "hubprobe complete" not in Path(cluster["LOG"]).read_text("utf-8")


def test_before_its_time_is_over_it_is_sent_again(cluster: dict[str, str]) -> None:
    stub_launcher(cluster, 'touch "$LOG.started"; exec sleep 600')
    job = subprocess.Popen(["bash", str(SCRIPT), "w"], env=cluster, stderr=subprocess.PIPE, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while not Path(cluster["LOG"] + ".started").exists() and time.monotonic() < until:
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=120) == 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert f"scontrol requeue {cluster['SLURM_JOB_ID']}" in Path(cluster["LOG"]).read_text("utf-8")


def test_the_page_about_probing_shows_this_script() -> None:
    assert shutil.which("bash")
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert "examples/slurm.sh" in text
