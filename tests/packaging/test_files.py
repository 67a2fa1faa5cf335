"""The container, the CI of the forge, the lowest dependencies and the pages about them: each agrees with the others."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hubprobe.cli.app import cli
from tests.built import ROOT
from tests.packaging.shown import command_lines, unknown

sys.path.insert(0, str(ROOT / "requirements"))
from lowest import lowest, tomllib  # type: ignore[import-not-found]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
DOCKER = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def instructions() -> list[tuple[str, str]]:
    joined = re.sub(r"\\\n\s*", " ", re.sub(r"^\s*#.*\n", "", DOCKER, flags=re.MULTILINE))
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(word, rest) for word, rest in pairs]


# ── the container ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_instruction_of_the_dockerfile_is_one() -> None:
    known = {"FROM", "WORKDIR", "COPY", "RUN", "ARG", "ENV", "USER", "VOLUME", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert {word for word, _ in instructions()} <= known


def test_it_starts_an_installed_command_as_nobody_special() -> None:
    last = max(i for i, (word, _) in enumerate(instructions()) if word == "FROM")
    final = instructions()[last:]
    words = dict(final)
    assert words["ENTRYPOINT"] == '["hubprobe"]'
    assert "hubprobe" in PROJECT["project"]["scripts"]
    (name,) = re.findall(r"useradd .*?(\S+)(?=\s+&&)", " ".join(r for w, r in final if w == "RUN"))
    assert words["USER"] == name != "root"
    order = [word for word, _ in final]
    assert order.index("USER") > max(i for i, word in enumerate(order) if word == "RUN")


def test_its_variables_are_read_and_its_folders_lie_in_the_volume() -> None:
    (text,) = [rest for word, rest in instructions() if word == "ENV"]
    values = dict(part.split("=", 1) for part in text.split())
    volume = next(rest for word, rest in instructions() if word == "VOLUME")
    assert values["HUBPROBE_WORKSPACE"].startswith(f"{volume}/")  # not the volume: its lost+found is no workspace
    assert values["HF_HOME"].startswith(f"{volume}/")
    read = {p.envvar for name in cli.list_commands(None) for p in _parameters(name)}  # type: ignore[arg-type]
    assert "HUBPROBE_WORKSPACE" in read


def _parameters(name: str) -> list[object]:
    try:
        command = cli.get_command(None, name)  # type: ignore[arg-type]
    except ModuleNotFoundError:  # an extra that is not installed
        return []
    return list(command.params) if command else []


def test_its_python_is_one_that_is_supported_and_its_extras_exist() -> None:
    bases = {rest.split(" AS ")[0] for word, rest in instructions() if word == "FROM"}
    (base,) = bases
    version = re.fullmatch(r"python:(3\.\d+)-slim", base)
    assert version
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["project"]["classifiers"]
    (extras,) = [rest for word, rest in instructions() if word == "ARG" and rest.startswith("EXTRAS=")]
    assert set(extras.partition("=")[2].split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_what_the_wheel_is_made_of_reaches_the_container() -> None:
    """``.dockerignore`` lets in what hatchling needs, and nothing that would rebuild the image for no reason."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    let_in = {line[1:] for line in lines if line.startswith("!")}
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    files = {"pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
    assert let_in == {*packages, *files}
    assert {path.split("/")[0] for path in PROJECT["project"]["license-files"]} <= let_in
    assert all((ROOT / name).exists() for name in let_in)


# ── the lowest dependencies ──────────────────────────────────────────────────────────────────────────────────────────
def test_the_lowest_dependencies_are_those_of_pyproject() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "requirements" / "lowest.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_dependency_without_a_bound_is_refused() -> None:
    extras = {"page": ["c[x]>=6.0"], "plots": [], "ray": [], "remote": ["d>=0.8"]}
    table = {"dependencies": ["a>=1,<2", "b>=2.0; python_version < '3.11'"], "optional-dependencies": extras}
    assert lowest({"project": table}).splitlines()[1:] == [
        "a==1",
        "b==2.0 ; python_version < '3.11'",
        "c==6.0",
        "d==0.8",
    ]
    with pytest.raises(ValueError, match="no lower bound"):
        lowest({"project": {**table, "dependencies": ["a"]}})


def test_every_library_that_is_imported_is_a_dependency() -> None:
    """A wheel's user has what ``pyproject.toml`` names; what only comes along with something else may leave with it."""
    extras = PROJECT["project"]["optional-dependencies"]
    stated = [
        *PROJECT["project"]["dependencies"],
        *(text for name, texts in extras.items() if name != "dev" for text in texts),
    ]
    names = {re.split(r"[\[<>=; ]", text)[0].lower().replace("-", "_") for text in stated}
    names |= {"pil"} if "pillow" in names else set()
    names |= {"yaml"} if "pyyaml" in names else set()
    names |= {"httpcore", "httpcore2"}  # huggingface_hub's own transport, whichever it has
    names |= {"pydantic_core"} if "pydantic" in names else set()
    packages = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    pattern = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
    for package in packages:
        for path in (ROOT / package).rglob("*.py"):
            found = {m.lower() for m in pattern.findall(_code(path))}
            assert found - {m.lower() for m in sys.stdlib_module_names} - set(packages) <= names, path


def _code(path: Path) -> str:
    return re.sub(r'"""(?s:.*?)"""', "", path.read_text(encoding="utf-8"))


# ── the forge's CI, and the pages ────────────────────────────────────────────────────────────────────────────────────
def test_ci_runs_each_supported_python_and_targets_that_exist() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    pythons = {c.rpartition(" ")[2] for c in PROJECT["project"]["classifiers"] if "Python :: 3." in c}
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == pythons
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    steps = " ".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    for target in re.findall(r"\bmake ([\w-]+)", steps):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    assert not [wrong for line in command_lines(steps) for wrong in unknown(line)]


@pytest.mark.parametrize("page", ["install.md", "doctor.md"])
def test_commands_and_links_of_the_pages_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"```\w*\n(.*?)```", text, re.DOTALL))
    shown = [line for line in command_lines(blocks.replace("[", " ").replace("]", " ")) if line[0] in _verbs()]
    assert shown
    for words in shown:
        try:
            assert not unknown(words), words
        except ModuleNotFoundError:  # a verb whose extra is not installed
            continue
    for link in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", text):
        assert (ROOT / "docs" / link).exists(), link


def _verbs() -> list[str]:
    return cli.list_commands(None)  # type: ignore[arg-type]


def test_the_page_names_the_size_of_the_wheel_in_the_right_order() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    stated = re.search(r"The wheel is (\d+) MB", text)
    demo = sum(p.stat().st_size for p in (ROOT / "hubprobe" / "demo").rglob("*") if p.is_file())
    assert stated
    assert demo / 1.3e6 < int(stated[1]) < demo / 0.8e6
