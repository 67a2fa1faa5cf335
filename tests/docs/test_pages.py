"""What the documentation says can be typed is typed here; what it links to is there; what it must name it names."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

import click
import pytest

from hubprobe.cli.app import cli
from tests.docs.pages import DOCS, ROOT, RUN, anchors, blocks, links, pages, written
from tests.docs.reader import Reader
from workspace import Config

ROOMS = "crawler|probing|completion|search|workspace|hubprobe"
OURS = [p.relative_to(ROOT).as_posix() for p in pages()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [n for n in OURS if any(b.language in RUN for b in blocks(ROOT / n))])
def test_what_a_page_says_works(name: str, reader: Reader) -> None:
    for block in blocks(ROOT / name):
        if block.is_output:
            assert reader.said.rstrip() == block.text.rstrip(), block.name
        elif block.language in RUN:
            reader.read(block)


@pytest.mark.parametrize("name", OURS)
def test_settings_are_real(name: str, tmp_path: Path) -> None:
    for number, block in enumerate(b for b in blocks(ROOT / name) if b.language == "toml"):
        path = tmp_path / f"{number}.toml"
        path.write_text(block.text, encoding="utf-8")
        Config.load(path)


def test_a_reason_says_what_is_needed() -> None:
    excuses = {b.name: b.excuse for name in OURS for b in blocks(ROOT / name) if b.excuse is not None}
    allowed = ("needs ", "runs until ", "takes ", "is run by ")
    assert {n: e for n, e in excuses.items() if not e.startswith(allowed)} == {}


# ── verbs and options ────────────────────────────────────────────────────────────────────────────────────────────
def _commands(command: click.Command, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], click.Command]:
    found = {path: command}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found |= _commands(child, (*path, name))
    return found


VERBS = cli.list_commands(click.Context(cli))


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_has_a_page_that_shows_it(verb: str) -> None:
    command = cli.get_command(click.Context(cli), verb)
    assert command is not None
    page = DOCS / f"{verb}.md"
    assert page.exists(), f"the verb '{verb}' has no page: write docs/{verb}.md and link it from docs/README.md"
    for path in _commands(command, (verb,)):
        assert f"hubprobe {' '.join(path)}" in page.read_text(encoding="utf-8"), page


@pytest.mark.parametrize("name", OURS)
def test_an_option_that_a_page_names_exists(name: str) -> None:
    """What a page says of ``hubprobe VERB --option`` can be typed, also where a block is not run."""
    known = {
        words: {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        for words, command in _commands(cli).items()
    }
    wrong = []
    for block in blocks(ROOT / name):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].replace("[", " ").replace("]", " ").split()
            if "hubprobe" not in words[:1]:
                continue
            path = next((p for p in (tuple(words[1:3]), tuple(words[1:2]), ()) if p in known), ())
            wrong += [f"{block.name} {w}" for w in words if w.startswith("--") and w.split("=")[0] not in known[path]]
    assert wrong == []


def test_the_options_before_the_verb_are_documented() -> None:
    text = (DOCS / "README.md").read_text(encoding="utf-8")
    names = [o for p in cli.params if isinstance(p, click.Option) for o in p.opts if o.startswith("--")]
    assert [n for n in names if n not in text] == []
    assert [v for v in VERBS if f"({v}.md)" not in text] == [], "docs/README.md links to the page of every verb"


# ── links ────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize("name", [p.relative_to(ROOT).as_posix() for p in written()])
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    wrong = []
    for line, target, is_image in links(page):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            assert parts.scheme in ("https", "mailto"), f"{name}:{line} {target}"
            continue
        path = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        ends = path.exists() and ROOT in (path, *path.parents)
        if ends and parts.fragment and path.suffix == ".md":
            ends = parts.fragment in anchors(path)
        if not ends or (is_image and path.suffix not in (".png", ".svg", ".jpg", ".gif", ".webp")):
            wrong.append(f"{name}:{line} {target}")
    assert wrong == []


@pytest.mark.parametrize("name", [p.relative_to(ROOT).as_posix() for p in written()])
def test_files_of_ours_that_a_page_names_are_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(rf"(?<![\w/.-])((?:{ROOMS}|tests|benchmarks|examples)/[\w./-]*(?:\.\w+|/))(?![\w<*])", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_page_is_reached_from_the_index() -> None:
    start = DOCS / "README.md"
    seen, todo = {start}, [start]
    while todo:
        page = todo.pop()
        for _, target, is_image in links(page):
            path = (page.parent / unquote(urlsplit(target).path)).resolve()
            if not is_image and path.parent == DOCS and path.suffix == ".md" and path.exists() and path not in seen:
                seen.add(path)
                todo.append(path)
    assert sorted(p.name for p in set(DOCS.glob("*.md")) - seen) == []


def test_every_picture_is_shown() -> None:
    shown = {(page.parent / unquote(t)).resolve() for page in written() for _, t, image in links(page) if image}
    assert sorted(p.name for p in (DOCS / "images").iterdir() if p.resolve() not in shown) == []


def test_the_readme_leads_to_the_index() -> None:
    targets = {unquote(urlsplit(t).path) for _, t, _ in links(ROOT / "README.md")}
    assert "docs/README.md" in targets
