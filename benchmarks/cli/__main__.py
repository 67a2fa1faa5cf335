"""What a verb costs as a process: ``python -m benchmarks.cli --workspace my-index [--repo OWNER/NAME] [--text dog]``.

Processor seconds (user and system, children included), seconds on the clock and peak memory, the least of ``--runs``
runs: on a busy machine processor seconds still compare, the clock does not. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def measured(command: list[str], runs: int) -> tuple[float, float, float]:
    """Return processor seconds, clock seconds and peak MB of a command, the least of some runs; ends when it fails."""
    found = []
    for _ in range(runs):
        with tempfile.TemporaryFile() as out:
            started = time.perf_counter()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
            _, code, used = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - started
            if code:
                out.seek(0)
                raise SystemExit(f"{' '.join(command)}: {out.read().decode()[-500:]}")
        found.append((used.ru_utime + used.ru_stime, seconds, used.ru_maxrss / 1024))
    cpu, clock, memory = (min(column) for column in zip(*found, strict=True))
    return cpu, clock, memory


def verbs(workspace: str, repo: str, text: str) -> dict[str, list[str]]:
    """Return the verbs that are measured, by what the table calls them."""
    here = ["-w", workspace]
    count = "SELECT count(*) FROM"
    return {
        "`--help`": ["--help"],
        "`status`": ["status", *here],
        "`sql`, attempts": ["sql", *here, f"{count} attempts"],
        "`sql`, models and logits": ["sql", *here, f"{count} logits JOIN models USING (repo_id, sha)"],
        "`sql`, a search": ["sql", *here, f"FROM search('{text}', n := 50)"],
        "`search`, a known text": ["search", *here, text],
        "`search` by model, with a filter": ["search", *here, text, "--by", "model", "--where", "downloads > 10"],
        "`search`, exact": ["search", *here, text, "--exact"],
        "`similar`, a logit": ["similar", *here, repo, "0"],
        "`similar`, whole descriptors": ["similar", *here, repo, "0", "--whole"],
        "`similar`, a model": ["similar", *here, repo],
        "`describe`": ["describe", *here, repo],
        "`index info`": ["index", "info", *here],
        "`plot map`": ["plot", "map", *here, "--out", str(Path(tempfile.gettempdir()) / "benchmark-map.png")],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True)
    parser.add_argument("--repo", default="timm/tf_efficientnet_lite0.in1k", help="a model of the index")
    parser.add_argument("--text", default="dog", help="a text whose embedding is known")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--only", help="verbs whose name holds this")
    options = parser.parse_args()
    sys.stdout.write("| verb | processor s | clock s | peak MB |\n|---|---:|---:|---:|\n")
    for name, arguments in verbs(options.workspace, options.repo, options.text).items():
        if options.only is None or options.only in name:
            cpu, clock, memory = measured([sys.executable, "-m", "hubprobe", *arguments], options.runs)
            sys.stdout.write(f"| {name} | {cpu:.2f} | {clock:.1f} | {memory:.0f} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
