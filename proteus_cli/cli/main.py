"""The `proteus` command: its global options, and the one place where errors become exit codes."""

import os
import sys
from functools import cache
from typing import Annotated, Any

import typer
from typer.main import get_command

from proteus_cli import __version__
from proteus_cli.__main__ import INTERRUPTED
from proteus_cli.cli import (
    agent,
    catalog,
    cluster,
    console,
    demo,
    devices,
    doctor,
    engines,
    init,
    plan,
    profile,
    replay,
    rollout,
    samples,
    serve,
    study,
    task,
    trace,
)
from proteus_cli.cli.command_line.command import Command, Group
from proteus_cli.errors import ArtefactError, ProteusError, unsearchable, without_room
from proteus_cli.settings import environment

app = typer.Typer(
    name="proteus",
    cls=Group,
    help="Serve ML inference on a fixed set of devices by scaling accuracy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    init, devices, catalog, task, profile, plan, serve, rollout, cluster, agent, replay, trace, study, samples, engines,
    doctor, demo,
):  # fmt: skip
    name = module.__name__.rpartition(".")[2]
    if hasattr(module, "app"):
        app.add_typer(module.app, name=name)
    else:
        app.command(name, cls=Command)(getattr(module, name))


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"proteus {__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    *,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more while serving.")] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", envvar=environment("debug"))
    ] = False,
    version: Annotated[  # noqa: ARG001 - acts in its callback
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command."""
    console.loudness.quiet, console.loudness.verbose, console.loudness.debug = quiet, verbose, debug


@cache
def _tree() -> Any:
    """All commands, made once in a process: that takes several times as long as to read a command line."""
    return get_command(app)


def run() -> None:
    """Run the command line; the one error boundary."""
    try:
        _tree()(prog_name="proteus")
    except ProteusError as error:
        if _wants_traceback():
            raise
        console.report_error(error.message, error.hint)
        sys.exit(error.exit_code)
    except MemoryError:
        console.report_error("Not enough memory.", "is a file, a model or a batch much larger than it should be?")
        sys.exit(1)
    except KeyboardInterrupt:
        console.say("interrupted")
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # what typer makes of an interrupt within a command
            console.say("interrupted")
        raise
    except BrokenPipeError:  # the reader of our stdout went away, e.g. `| head`
        _forget_output()
        sys.exit(1)
    except OSError as error:
        problem = _problem(error)
        if problem is None or _wants_traceback():
            raise
        console.report_error(problem.message, problem.hint)
        sys.exit(problem.exit_code)


def _problem(error: OSError) -> ArtefactError | None:
    """An error that the user can act on; None: a bug of the program."""
    no_room = without_room(error)
    if no_room is not None:
        _forget_output()
    return no_room or unsearchable(error)


def _forget_output() -> None:
    """Discard the output that stdout did not take: writing it again at the end would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _wants_traceback() -> bool:
    """The environment is read again for an error that precedes the options."""
    return console.loudness.debug or os.environ.get(environment("debug"), "") not in {"", "0"}
