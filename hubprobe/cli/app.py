"""The group of verbs. A verb's module is imported when that verb is asked for, so that ``--help`` is quick."""

from __future__ import annotations

import logging
import os
import sys
from importlib import import_module
from keyword import iskeyword
from typing import Any, NoReturn

import click
from click.shell_completion import CompletionItem

from hubprobe import machine
from hubprobe.cli.options import Group
from hubprobe.machine import Exit, TerminatedError, end_as_on_interrupt
from hubprobe.output import guard_terminals
from workspace.errors import HubprobeError
from workspace.version import __version__

_VERBS = {
    "crawl": ("run", "List a Hub's image classifiers and decide which can be probed."),
    "probes": ("run", "Build the fixed set of images that every model is run on."),
    "probe": ("run", "Run every eligible model on the probe set."),
    "complete": ("run", "Turn responses into logit descriptors."),
    "index": ("search", "Build the search index."),
    "search": ("search", "Find logits by a concept's name or an example image."),
    "similar": ("search", "Find logits that respond like a given logit."),
    "describe": ("search", "Name every output of a model by its behaviour."),
    "audit": ("search", "List outputs whose label disagrees with their behaviour."),
    "concepts": ("use", "List what the index covers, and what nobody does."),
    "sql": ("search", "Ask SQL of every table in the workspace."),
    "pick": ("use", "Pick the best model for your own images."),
    "compare": ("use", "Put models side by side."),
    "use": ("use", "Print the code that runs a model."),
    "evaluate": ("search", "Measure search accuracy against known concepts."),
    "serve": ("search", "Search in the browser."),
    "plot": ("plot", "Draw the crawl, the models or the search as a picture."),
    "release": ("release", "Write the workspace as a dataset that anyone can load."),
    "import": ("release", "Make a workspace and its index from a release."),
    "sync": ("run", "Pull from the workspace's remote, and push to it."),
    "status": ("run", "Count repositories by how they ended."),
    "run": ("run", "Crawl, probe, complete and index in one go."),
    "demo": ("run", "Do all of it on the embedded demo hub, in minutes."),
    "doctor": ("run", "Check this machine, and say what to mend."),
}


class _Verbs(Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module = import_module(f"hubprobe.cli.{_VERBS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name)
        _take_verbose(command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:  # click would write an empty line first
            if machine.wants_json():
                raise click.exceptions.Abort from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # From the table, not from the commands: the list must not import a room.
        with formatter.section("Verbs"):
            formatter.write_dl([(name, text) for name, (_, text) in _VERBS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # From the table too: a Tab key must not import every verb's module, nor stumble over one that is broken.
        verbs = [CompletionItem(name, help=text) for name, (_, text) in _VERBS.items() if name.startswith(incomplete)]
        return verbs + click.Command.shell_complete(self, ctx, incomplete)


def _choose(_context: click.Context, _option: click.Parameter, value: str) -> str:
    os.environ[machine.LOG_FORMAT] = value
    return value


def _take_verbose(command: click.Command) -> None:
    """Let a verb, and every one below it, take ``-v`` after its name as the group does before it."""
    if not any(option.name == "verbose" for option in command.params):
        command.params.append(
            click.Option(
                ["-v", "--verbose"], is_flag=True, expose_value=False, help="Show what is done, and tracebacks.",
                callback=lambda _context, _option, value: _say(verbose=True) if value else None,
            )
        )  # fmt: skip
    for below in command.commands.values() if isinstance(command, click.Group) else ():
        _take_verbose(below)


_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 110, "show_default": True}


@click.group(cls=_Verbs, context_settings=_SETTINGS)
@click.version_option(__version__, prog_name="hubprobe")
@click.option("-v", "--verbose", is_flag=True, help="Show what is done, and tracebacks of errors.")
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", envvar=machine.LOG_FORMAT, show_envvar=True,
    help="What goes to stderr: bars and sentences, or a JSON object a line, for programs.",
    callback=_choose,  # as it is parsed: a verb that is none ends before any function of ours is called
)  # fmt: skip
def cli(verbose: bool, log_format: str) -> None:
    """Find public image classifiers by what their outputs recognise.

    \b
    Try it on the embedded demo hub (no network, a few minutes):
      hubprobe demo
    On the Hugging Face Hub (set HF_TOKEN):
      hubprobe run --workspace my-index --limit 50
      hubprobe search --workspace my-index "dog"
    """
    if log_format == "json":
        machine.bars_as_lines()
    _say(verbose=verbose)


def _say(*, verbose: bool) -> None:
    """Send what our rooms log to stderr: warnings, and with ``verbose`` what is done."""
    handler = machine.Lines() if machine.wants_json() else _BesideBars()
    handler.setFormatter(logging.Formatter("%(levelname).1s %(name)s: %(message)s"))
    for room in ("completion", "crawler", "hubprobe", "probing", "search", "workspace"):
        # ours alone: the libraries bring handlers of their own, and a second one would say everything twice
        logger = logging.getLogger(room)
        logger.setLevel(logging.INFO if verbose else logging.WARNING)
        logger.handlers = [handler]
        logger.propagate = False


class _BesideBars(logging.Handler):
    """Writes to stderr without tearing the progress bars that are drawn there."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def main() -> None:
    """Run the command line; a `HubprobeError` becomes one line on stderr and exit code 1."""
    guard_terminals()
    end_as_on_interrupt()
    try:
        code = cli.main(standalone_mode=False)
    except click.exceptions.Abort as error:
        stopped = isinstance(error.__cause__, TerminatedError)
        _end("interrupted: run the same command again to go on", Exit.TERMINATED if stopped else Exit.INTERRUPTED)
    except click.ClickException as error:
        if not machine.wants_json():
            error.show()
            sys.exit(error.exit_code)
        _end(error.format_message(), error.exit_code)
    except HubprobeError as error:
        if "--verbose" in sys.argv or "-v" in sys.argv:
            logging.getLogger(__name__).exception("failed")
        _end(f"hubprobe: {error}", Exit.FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output is gone: nothing to say, and no one to say it to
        sys.exit(Exit.DONE)
    except OSError as error:
        if not error.strerror:
            raise
        place = f"{error.filename}: " if error.filename else ""
        _end(f"hubprobe: {place}{error.strerror}", Exit.FAILED)
    if machine.wants_json():
        machine.say("end", code=code if isinstance(code, int) else 0)
    sys.exit(code if isinstance(code, int) else Exit.DONE)


def _end(sentence: str, code: int) -> NoReturn:
    if machine.wants_json():
        machine.say("end", code=int(code), message=sentence)
    else:
        click.echo(sentence, err=True)
    sys.exit(code)
