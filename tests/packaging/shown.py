"""Finds the command lines of hubprobe in a text, and says what is wrong with them."""

from __future__ import annotations

import re

import click

from hubprobe.cli.app import cli

_LINE = re.compile(r"(?:^|[\s\"'(|])(?:-m )?hubprobe (?P<rest>[a-z][^\n|;&)]*)", re.MULTILINE)


def command_lines(text: str) -> list[list[str]]:
    """Return the words behind ``hubprobe`` of each command line in ``text``, comments left out."""
    joined = re.sub(r"\\\n\s*", " ", text)
    found = []
    for line in joined.splitlines():
        if line.lstrip().startswith("#!") or not line.split("#", 1)[0].strip():
            continue
        matches = _LINE.finditer(line.split(" #", 1)[0])
        found += [re.sub("[\"'`]", " ", match["rest"]).split() for match in matches]
    return found


def unknown(words: list[str]) -> list[str]:
    """Return the verb, or the options, that hubprobe does not have."""
    context = click.Context(cli)
    command = cli.get_command(context, words[0])
    rest = words[1:]
    if isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        command, rest = command.get_command(context, rest[0]), rest[1:]
    if command is None:
        return [" ".join(words[:2])]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [word for word in rest if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in {*known, "--help"}]
