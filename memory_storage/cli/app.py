"""The Typer application: global options, and the mapping of errors to messages and exit codes."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from memory_storage.errors import MemoryStorageError

from . import exit_codes
from .output import drop_stdout, talk


class _Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, sorted."""
        return sorted(super().list_commands(ctx))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; map an error of the package or of the output to a message and an exit code."""
        try:
            super().invoke(ctx)
            sys.stdout.flush()
        except MemoryStorageError as error:
            _exit(exit_codes.code_of(error), f"error: {error}", error)
        except BrokenPipeError as error:
            drop_stdout()
            raise typer.Exit(exit_codes.BROKEN_PIPE) from error
        except KeyboardInterrupt as error:
            _exit(exit_codes.INTERRUPTED, "interrupted", error)
        except OSError as error:
            _exit(exit_codes.OTHER, f"error: {_describe(error)}", error)


app = typer.Typer(
    cls=_Commands,
    help="An agent's episodic memory on libSQL. Data go to stdout, messages to stderr.",
    epilog=exit_codes.EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(version("memory-storage"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    pass


def _describe(error: OSError) -> str:
    """Return what failed: the named file, or the output if the error names no file."""
    if error.filename is not None:
        return f"{error.filename}: {error.strerror or error}"
    return f"cannot write the output: {error.strerror or error}; it is incomplete"


def _exit(code: int, message: str, cause: BaseException) -> None:
    talk(message)
    raise typer.Exit(code) from cause
