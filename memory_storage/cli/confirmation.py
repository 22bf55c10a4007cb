"""Asking for confirmation before a command changes what cannot be brought back."""

from __future__ import annotations

import sys

import typer

from . import exit_codes
from .output import talk


def confirm(question: str, verb: str, otherwise: str = "nothing was changed") -> None:
    """Ask at the terminal, and leave the command unless the answer is yes.

    Args:
        question: what is about to happen; " [y/N]" is added.
        verb: what `--yes` lets a command without a terminal do, like "delete".
        otherwise: what is said where the answer is no, or cannot be given.

    Raises:
        typer.Exit: the answer is no, or standard input is not a terminal.
    """
    if not sys.stdin.isatty():
        talk(f"error: refusing to {verb} without confirmation: stdin is not a terminal; {otherwise}; pass --yes")
        raise typer.Exit(exit_codes.USAGE)
    # Not typer.confirm(): it writes to stdout, which is for data.
    talk(f"{question} [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk(otherwise)
        raise typer.Exit(exit_codes.OTHER)
