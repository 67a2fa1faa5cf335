"""Shell completion: verbs, options and choices, in each shell, without importing what computes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.seconds import children_seconds

SHELLS = ("bash", "zsh", "fish")
HUBPROBE = str(Path(sys.executable).parent / "hubprobe")
HEAVY = ("torch", "transformers", "pyarrow", "duckdb", "lancedb", "numpy", "gradio")


def ask(shell: str, words: list[str], code: str = "") -> subprocess.CompletedProcess[str]:
    """Return what ``hubprobe`` answers when Tab is pressed behind the last of ``words``."""
    fish = {"COMP_WORDS": " ".join(words), "COMP_CWORD": words[-1]}
    others = {"COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment = {**os.environ, "_HUBPROBE_COMPLETE": f"{shell}_complete", **(fish if shell == "fish" else others)}
    start = "import sys; sys.argv = ['hubprobe']\n" + code + "from hubprobe.cli import main; main()"
    return subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "wanted", "unwanted"),
    [
        (["hubprobe", "pro"], ["probe", "probes"], ["plot", "search"]),
        (["hubprobe", "doc"], ["doctor"], ["demo"]),
        (["hubprobe", "search", "--wh"], ["--where"], ["--workspace"]),
        (["hubprobe", "doctor", "--format", ""], ["table", "json", "csv"], ["--format"]),
        (["hubprobe", "probe", "--precision", "f"], ["float32"], ["auto"]),
        (["hubprobe", "--ver"], ["--version", "--verbose"], ["--help"]),
    ],
)
def test_what_tab_offers(shell: str, words: list[str], wanted: list[str], unwanted: list[str]) -> None:
    done = ask(shell, words)
    assert done.returncode == 0, done.stderr
    offered = done.stdout.replace(",", "\n").replace("\t", "\n").splitlines()
    assert all(name in offered for name in wanted), done.stdout
    assert not [name for name in unwanted if name in offered]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "words", [["hubprobe", ""], ["hubprobe", "probe", "--"], ["hubprobe", "search", "--format", ""]]
)
def test_tab_imports_nothing_heavy_and_answers_at_once(words: list[str]) -> None:
    code = f"import atexit; atexit.register(lambda: print('IMPORTED', [n for n in {HEAVY!r} if n in sys.modules]))\n"
    with children_seconds() as took:
        done = ask("bash", words, code)
    assert done.returncode == 0, done.stderr
    assert "IMPORTED []" in done.stdout
    assert took() < 1.0


SCRIPTS = {
    # what the shell does at a Tab: the documented line, then click's own function with the words typed so far
    "bash": """
        eval "$(_HUBPROBE_COMPLETE=bash_source hubprobe)"
        complete -p hubprobe
        COMP_WORDS=(hubprobe doctor --off) COMP_CWORD=2
        _hubprobe_completion hubprobe
        echo "GOT ${COMPREPLY[*]}"
    """,
    "zsh": """
        autoload -Uz compinit && compinit -u -D
        eval "$(_HUBPROBE_COMPLETE=zsh_source hubprobe)"
        compadd() { print -r -- "GOT $@ $completions"; }
        _describe() { print -r -- "GOT ${(P)3} ${(P)2}"; }
        words=(hubprobe doctor --off); CURRENT=3
        _hubprobe_completion
    """,
    "fish": """
        _HUBPROBE_COMPLETE=fish_source hubprobe | source
        echo GOT (complete -C "hubprobe doctor --off")
    """,
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_documented_line_works_in_the_shell_itself(shell: str, tmp_path: Path) -> None:
    binary = shutil.which(shell)
    if binary is None or not Path(HUBPROBE).exists():
        pytest.skip(f"no {shell} here")
    environment = {**os.environ, "PATH": f"{Path(HUBPROBE).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    flags = {"bash": ["--norc", "--noprofile"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [binary, *flags, "-c", SCRIPTS[shell]],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    got = [line for line in done.stdout.splitlines() if line.startswith("GOT")]
    assert any("--offline" in line for line in got), done.stdout + done.stderr
