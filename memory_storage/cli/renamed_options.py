"""Former names of options: they work, with a warning on stderr, and are not shown by `--help`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from .output import talk


def renamed_options(new_names: Mapping[str, str]) -> type[TyperCommand]:
    """Return the class of a command whose options were renamed, for `app.command(cls=...)`.

    Args:
        new_names: the current name for each former one, both with their dashes.
    """

    class Command(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            return super().parse_args(ctx, _with_new_names(args, new_names))

    return Command


def _with_new_names(args: Sequence[str], new_names: Mapping[str, str]) -> list[str]:
    renamed = []
    for arg in args:
        name, equals, value = arg.partition("=")
        new = new_names.get(name)
        if new is not None:
            talk(f"warning: {name} is deprecated since 0.1: use {new}")
        renamed.append(arg if new is None else f"{new}{equals}{value}")
    return renamed
