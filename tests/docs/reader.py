"""Somebody who types what a page says, block by block, beside a finished workspace and a hub on this machine.

``hubprobe`` commands run in this process, through the command line that the console script calls; whatever needs a
shell is run by bash, and ``python -m hubprobe`` as a process of its own. What no page can ask of a test (an installer,
a scheduler, several GPUs) is left out by `OUTSIDE`; what a page leaves out, it says in a comment before the block.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from tests.docs.pages import Block

MODEL = "tiny-vision-lab/resnet-mini-everyday"
STANDS_FOR = {"OWNER/MODEL": MODEL, "OWNER/NAME": MODEL, "OTHER/MODEL": "emoji-zoo/animal-resnet"}
"""What a page writes in capitals, and what of the demo's index is put there."""

OUTSIDE = {
    "make": "sets up the environment that the tests run in",
    "pip": "installs packages", "pipx": "installs packages", "uv": "installs packages", "conda": "installs packages",
    "git": "needs the network", "docker": "needs Docker", "podman": "needs Podman",
    "sbatch": "needs SLURM", "srun": "needs SLURM", "accelerate": "needs several GPUs",
}  # fmt: skip
_SECONDS = 600
_SHELL = re.compile(r"^\s*(for|while|if|case|function|set)\b|<<|^\s*\w+\(\)", re.MULTILINE)


@dataclass
class Reader:
    """Runs the blocks of one page, in order, in one folder and one namespace.

    Attributes:
        folder: where everything is typed; holds ``my-index``.
        environment: variables set for it; ``export`` adds to them.
        left_out: commands that were not run, each with the reason.
        took: seconds of each command and block that was.
        said: what the last command wrote to stdout.
    """

    folder: Path
    environment: dict[str, str]
    left_out: list[tuple[str, str]] = field(default_factory=list)
    took: list[tuple[float, str]] = field(default_factory=list)
    said: str = ""
    _names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    _index: Any = None

    def read(self, block: Block) -> None:
        """Do what ``block`` says; raises `AssertionError`, or what its code raises."""
        if block.excuse is not None:
            self.left_out.append((f"{block.name} {block.text.strip().splitlines()[0]}", block.excuse))
            return
        if block.language == "bash":
            for command in commands(block.text):
                self._type(command, block)
        elif block.language == "python":
            with self._timed(block.name):
                exec(compile("\n" * block.line + block.text, str(block.page), "exec"), self._names)
        elif block.language == "sql":
            with self._timed(block.name):
                self._ask(block.text)

    def _type(self, command: str, block: Block) -> None:
        for word, what in STANDS_FOR.items():
            command = command.replace(word, what)
        excuse = excuse_of(command)
        if excuse is not None:
            self.left_out.append((f"{block.name} {command}", excuse))
            return
        with self._timed(f"{block.name} {command}"):
            self._do(command, block)

    def _do(self, command: str, block: Block) -> None:
        command, target = _redirected(command)
        words = shlex.split(command, comments=True)
        if words[0] == "export":
            self.environment |= dict(word.split("=", 1) for word in words[1:])
        elif words[0] == "hubprobe" and not needs_shell(command):
            self._call(words[1:], command, block)
            if target is not None:
                (self.folder / target).write_text(self.said, encoding="utf-8")
        else:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", command],
                cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=_SECONDS,
            )  # fmt: skip
            self.said = done.stdout
            assert done.returncode == 0, f"{block.name}\n$ {command}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.took.append((time.perf_counter() - start, what))

    def _call(self, words: list[str], command: str, block: Block) -> None:
        from hubprobe.cli.app import cli

        result = CliRunner().invoke(cli, words, env=self.environment)
        self.said = result.stdout
        wrong = result.exception if result.exit_code else None
        assert wrong is None, f"{block.name}\n$ {command}\n{result.output[-2000:]}\n{wrong!r}"

    def _ask(self, statement: str) -> None:
        """Ask the open index; a statement that names Parquet files is for DuckDB alone, as it says."""
        if ".parquet'" in statement:
            import duckdb

            with duckdb.connect() as connection:
                connection.sql(statement).to_arrow_table()
            return
        import hubprobe

        self._index = self._index or hubprobe.open("my-index")
        table = self._index.sql(statement)
        assert table.num_rows > 0, f"this found nothing:\n{statement}"


def commands(text: str) -> list[str]:
    """Split a block into what is typed before each Enter: lines, joined where a quote or a backslash goes on."""
    if _SHELL.search(text):
        return [text]
    found: list[str] = []
    held = ""
    for line in text.splitlines():
        held += line + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(held, comments=True)
        except ValueError:  # a quote is open
            continue
        if words:
            found.append(held.strip().replace("\\\n", " "))
        held = ""
    assert not held, f"this command does not end: {held}"
    return found


def excuse_of(command: str) -> str | None:
    """Return why a test cannot run ``command``, or None."""
    words = shlex.split(command, comments=True)
    program = Path(next((w for w in words if "=" not in w), words[0])).name
    if program in OUTSIDE:
        return OUTSIDE[program]
    if program.startswith("python") and words[1:3] in (["-m", "venv"], ["-m", "pip"]):
        return "installs packages"
    if program == "hubprobe" and words[1] == "import":  # embeds the whole concept bank again, as that test does
        return "is run by tests/end_to_end/test_release.py"
    if program == "hubprobe" and "serve" in words and "--help" not in words:
        return "runs until it is interrupted"
    if "--workers" in words and int(words[words.index("--workers") + 1]) > 2:
        return "needs several GPUs"
    return None


def _redirected(command: str) -> tuple[str, str | None]:
    """Split ``hubprobe ... > FILE`` into the command and FILE; everything else stays as it is."""
    found = re.fullmatch(r"(hubprobe [^|<>&;]*?)\s+> ([\w.-]+)", command)
    return (found.group(1), found.group(2)) if found and not needs_shell(found.group(1)) else (command, None)


def needs_shell(command: str) -> bool:
    """Return whether ``command`` holds a pipe, a redirection, an expansion or a second command."""
    lexer = shlex.shlex(command, posix=False, punctuation_chars=True)
    lexer.whitespace_split = True
    words = list(lexer)
    marks = any(set(word) <= set("();<>|&") for word in words)
    return marks or any("$" in word or "`" in word for word in words if not word.startswith("'"))


def environment(hub: str) -> dict[str, str]:
    """Return a new user's environment: nothing set for Hugging Face's libraries but where the hub is."""
    theirs = ("HF_", "HUGGINGFACE_", "TRANSFORMERS_", "HUBPROBE_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(theirs)}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", "")])
    return kept | {"HF_ENDPOINT": hub, "NO_PROXY": "127.0.0.1", "PATH": path, "COLUMNS": "120", "MPLBACKEND": "Agg"}
