"""The command is for these tests too."""

from tests.cli.conftest import answered, command

__all__ = ["answered", "command"]
