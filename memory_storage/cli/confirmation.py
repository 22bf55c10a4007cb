"""Confirmation before a command makes a change that cannot be undone."""

from __future__ import annotations

import sys

import typer

from . import exit_codes
from .output import talk


def confirm(question: str, verb: str, otherwise: str = "nothing was changed") -> None:
    """Ask at the terminal, and exit the command unless the user confirms.

    Args:
        question: the change to confirm; " [y/N]" is appended.
        verb: the action that needs confirmation, like "delete".
        otherwise: the state of the data if the user declines or cannot be asked.

    Raises:
        typer.Exit: the user declined, or standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        talk(f"error: refusing to {verb} without confirmation: stdin is not a terminal; {otherwise}; pass --yes")
        raise typer.Exit(exit_codes.USAGE)
    # Not typer.confirm(): it writes to stdout, which is for data.
    talk(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk(otherwise)
        raise typer.Exit(exit_codes.OTHER)
